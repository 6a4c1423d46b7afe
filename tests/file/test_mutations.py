"""Damaged and hostile files: `python tests/file/test_mutations.py 100000 SEED` runs more of them.

Half of the mutants get right checksums again, so that they reach the code behind the checksums;
those may still be valid files, only of other tensors. What must never come is another error than
`HempFileError`, a hang, or memory beyond what SECURITY.md states.
"""

from __future__ import annotations

import random
import resource
import struct
import sys
import time
import zlib
from pathlib import Path

import pytest

from hemp_lightning import HempFileError, load
from hemp_reader.format.directory import inflate, read_directory

DATA = Path(__file__).parents[1] / "data"
SEEDS = sorted(path for path in DATA.glob("*.hemp") if path.stat().st_size < 4096)
MAX_BYTES = 2**24
SECONDS = 5.0
TOUCHED = 2**28  # bytes by which the process may grow over a whole run
EDGES = [0, 1, 0x7F, 0x80, 0xFF]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One to four random edits."""
    mutant = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if not mutant:
            break
        at = rng.randrange(len(mutant))
        edit = rng.randrange(7)
        if edit == 0:
            mutant[at] ^= 1 << rng.randrange(8)
        elif edit == 1:
            mutant[at] = rng.choice(EDGES)
        elif edit == 2:
            del mutant[at:]
        elif edit == 3:
            del mutant[at : at + rng.randint(1, 8)]
        elif edit == 4:
            mutant[at:at] = rng.randbytes(rng.randint(1, 8))
        elif edit == 5:  # splice: a piece of the file over another place
            start = rng.randrange(len(mutant))
            piece = mutant[start : start + rng.randint(1, 32)]
            mutant[at : at + len(piece)] = piece
        else:  # a length that grows, as a varint or a word
            mutant[at : at + 4] = rng.choice(
                [b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", b"\0\0\0\1"]
            )
    return bytes(mutant)


def reseal(data: bytes) -> bytes:
    """The same with right checksums, as far as its sections can be found."""
    if len(data) < 14:
        return data
    version, flags, size = struct.unpack_from("<4xBBI", data)
    directory = data[14 : 14 + size]
    sealed = bytearray(data)
    head = data[:10]
    sealed[10:14] = struct.pack("<I", zlib.crc32(directory, zlib.crc32(head)))
    try:
        sizes = read_directory(inflate(directory) if flags & 1 else directory, version)[1]
    except HempFileError:
        return bytes(sealed)
    at = 14 + size
    for length in sizes:
        section = bytes(sealed[at : at + length])
        sealed[at + length : at + length + 4] = struct.pack("<I", zlib.crc32(section))
        at += length + 4
    return bytes(sealed)


def run(count: int, seed: int, path: Path) -> dict[str, int]:
    """Read `count` mutants; how many were refused and how many were whole files."""
    rng = random.Random(seed)
    originals = [path.read_bytes() for path in SEEDS]
    outcome = {"refused": 0, "read": 0}
    for original in originals:  # what is compiled or imported on first use is no growth
        path.write_bytes(original)
        load(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(count):
        original = rng.choice(originals)
        mutant = mutate(original, rng)
        sealed = number % 2 == 1
        if sealed:
            mutant = reseal(mutant)
        path.write_bytes(mutant)
        start = time.perf_counter()
        try:
            state = load(path, max_bytes=MAX_BYTES)
        except HempFileError:
            outcome["refused"] += 1
        except BaseException as error:
            raise AssertionError(f"mutant {number} of seed {seed}: {error!r}") from error
        else:
            assert sealed or mutant == original, f"mutant {number} of seed {seed} was not noticed"
            tied = {t.data_ptr(): t.numel() * t.element_size() for t in state.values()}
            assert sum(tied.values()) <= MAX_BYTES
            outcome["read"] += 1
        seconds = time.perf_counter() - start
        assert seconds < SECONDS, f"mutant {number} of seed {seed} took {seconds:.1f} s"
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert grown < TOUCHED, f"seed {seed}: the process grew by {grown} bytes"
    return outcome


@pytest.mark.filterwarnings("ignore:ComplexHalf")
def test_mutants_are_refused_or_whole(tmp_path):
    outcome = run(3000, 1, tmp_path / "mutant.hemp")
    assert outcome["refused"] > 1500  # every mutant without new checksums


if __name__ == "__main__":
    import tempfile

    arguments = [int(argument) for argument in sys.argv[1:]]
    many, number = [*arguments, 100_000, 0][:2] if len(arguments) < 2 else arguments
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        print(run(many, number, Path(folder) / "mutant.hemp"), end=" ")
        print(f"in {time.perf_counter() - began:.0f} s")
