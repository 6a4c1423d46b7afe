"""Peak memory and time of `hemp` on a network larger than its memory (Linux).

    python -m benchmarks.scale --tensors 64 --threads 2      # 1 GiB of float32: 64 x 2048 x 2048
    python -m benchmarks.scale --tensors 2 --side 4096 --levels 256

Each command runs in a process of its own, first on a network of 8 x 8, so that libraries are there
and loops compiled; then the kernel's mark of the peak is set back, and the command runs on the
large network. What is above the memory before is what tensors take.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.memory import peak_above, resident

MIB = 2**20


def make(path: Path, tensors: int, side: int, unlike: bool) -> None:
    """A checkpoint, tensor by tensor; with `unlike` rows, which the context coder learns."""
    import torch

    from hemp_reader.safetensors import SafetensorsWriter

    names = [f"layers.{i}.weight" for i in range(tensors)]
    shapes = dict.fromkeys(names, ("float32", (side, side)))
    with SafetensorsWriter(path, shapes | {"small.weight": ("float32", (8, 8))}) as writer:
        for seed, name in enumerate(names):
            generator = torch.Generator().manual_seed(seed)
            scale = 0.02 * torch.randn(side, 1, generator=generator).exp() if unlike else 0.02
            weights = torch.randn(side, side, generator=generator) * scale
            writer.write(name, weights.numpy().view("u4").reshape(-1))
        writer.write("small.weight", torch.eye(8).numpy().view("u4").reshape(-1))


def measure(small: list[str], large: list[str]) -> None:
    """Run a command on both networks; print what it took as the last line."""
    from hemp_lightning import cli
    from hemp_lightning.coding.context.warm_up import warm_up

    warm_up()  # the small network may be coded otherwise
    assert cli.main(small) == 0
    statuses: list[int] = []
    begin = time.perf_counter()
    above = peak_above(lambda: statuses.append(cli.main(large)))
    seconds = time.perf_counter() - begin
    assert statuses == [0]
    took = {"seconds": seconds, "peak": resident("VmHWM"), "above": above}
    print(json.dumps(took))


def run(*arguments: object) -> str:
    """Last line of this program in a process of its own."""
    program = [sys.executable, "-m", "benchmarks.scale", *map(str, arguments)]
    lines = subprocess.run(program, check=True, stdout=subprocess.PIPE, text=True).stdout
    return lines.splitlines()[-1] if lines else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tensors", type=int, default=64)
    parser.add_argument("--side", type=int, default=2048, help="of the square tensors")
    parser.add_argument("--levels", type=int, default=16)
    parser.add_argument("--unlike", action="store_true", help="rows of unlike scale")
    parser.add_argument("--unquantized", action="store_true", help="leave the tensors as they are")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--coder", default="context")
    parser.add_argument("--folder", help="where the checkpoints go; they need 3 times the size")
    options = parser.parse_args()
    rows = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        calls = []
        for folder, tensors, side in (("small", 1, 8), ("large", options.tensors, options.side)):
            at = Path(name) / folder
            at.mkdir()
            source, file, back = at / "a.safetensors", at / "b.hemp", at / "c.safetensors"
            run("make", source, tensors, side, int(options.unlike))
            threads = ["--threads", options.threads]
            how = ["--coder", options.coder, "--num-levels", options.levels, *threads]
            if options.unquantized:
                how += ["--tensors", "small.weight", "--float-dtype", "float32"]
            calls.append(
                {
                    "compress": [source, "-o", file, *how],
                    "verify": [file, *threads],
                    "inspect": [file, *threads],
                    "decompress": [file, "-o", back, *threads],
                }
            )
        for command in calls[0]:
            both = [[command, *map(str, call[command])] for call in calls]
            rows[command] = json.loads(run("measure", json.dumps(both)))
        size, coded = source.stat().st_size, file.stat().st_size
        assert back.stat().st_size == size
    side = options.side
    print(f"{options.tensors} tensors of {side} x {side} float32: {size / MIB:,.0f} MiB; ", end="")
    print(f"{options.levels} levels, coder {options.coder}, file {coded / MIB:,.1f} MiB; ", end="")
    print(f"threads: {options.threads}\n")
    print("| command | peak of the process, MiB | for tensors, MiB | in tensors | seconds |")
    print("|---|---|---|---|---|")
    for command, took in rows.items():
        peak, above = took["peak"] / MIB, took["above"] / MIB
        in_tensors = took["above"] / (4 * side * side)
        print(
            f"| {command} | {peak:,.0f} | {above:,.0f} | {in_tensors:.1f} | {took['seconds']:.0f} |"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["make"]:
        make(Path(sys.argv[2]), *map(int, sys.argv[3:6]))
    elif sys.argv[1:2] == ["measure"]:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        measure(*json.loads(sys.argv[2]))
    else:
        main()
