"""The command `hemp`: compress and decompress checkpoints, look into files, check them.

Exit codes: 0, all is well; 1, a file is broken; 2, the call was wrong. Errors are one line on
stderr, and no command leaves a file half-written. `HEMP_TRACEBACK=1` in the environment shows where
a ValueError or TypeError comes from.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from hemp_lightning.coding import CODERS
from hemp_lightning.file.cells import CELLS
from hemp_lightning.file.checkpoints import (
    INDEX,
    SUFFIXES,
    CheckpointError,
    has_suffix,
    read_checkpoint,
    same_file,
)
from hemp_lightning.file.decompress import decompress
from hemp_lightning.file.format.storages import FLOAT_DTYPES
from hemp_lightning.file.onnx_files import SUFFIX as ONNX
from hemp_lightning.file.onnx_files import save_onnx
from hemp_lightning.file.save import save
from hemp_lightning.file.summary_table import sizes, table
from hemp_lightning.file.updates import apply, become_update
from hemp_lightning.quantization.quantizers import QUANTIZERS
from hemp_lightning.version import __version__
from hemp_reader.errors import HempFileError
from hemp_reader.reading import inspect, verify
from hemp_reader.safetensors import METADATA
from hemp_reader.scan_order import SCANS
from hemp_reader.transforms import TRANSFORMS

BROKEN, MISUSED, INTERRUPTED = 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: As on the command line, without the name of the program; None for those.

    Returns:
        The exit code.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given[:1] == ["report"]:
        return _guarded(lambda: _report(given[1:]))
    if given[:1] == ["run"]:
        return _guarded(lambda: _suite("run", "command").main(given[1:]))
    options = _parser().parse_args(given)
    return _guarded(lambda: options.run(options))


def _guarded(run: Callable[[], int | None]) -> int:
    """Exit code of `run`; what a user can do wrong is told in one line."""
    try:
        return run() or 0
    except (HempFileError, CheckpointError) as error:
        return _complain(error, BROKEN)
    except OSError as error:
        reason = f"{error.strerror}: {error.filename}" if error.filename else str(error)
        return _complain(reason, MISUSED)
    except (ValueError, TypeError) as error:
        if os.environ.get("HEMP_TRACEBACK"):
            raise
        return _complain(error, MISUSED)
    except MemoryError:
        return _complain("not enough memory for these tensors", MISUSED)
    except KeyboardInterrupt:
        return _complain("interrupted", INTERRUPTED)


def _complain(message: object, code: int) -> int:
    print("hemp:", " ".join(str(message).split()), file=sys.stderr)
    return code


def _compress(options: argparse.Namespace) -> None:
    _check_output(options.checkpoint, options.output)
    if options.model is not None:
        _calibrate(options)
        return
    for name in ("inputs", "image_size", "target_bytes", "max_drop", "time_limit", "report"):
        if getattr(options, name) is not None:
            word = name.replace("_", "-")
            raise ValueError(
                f"--{word} needs --model, the network that the checkpoint belongs to; found none"
            )
    words: dict[str, Any] = {
        "num_levels": options.num_levels,
        "quantizer": options.quantizer,
        "coder": options.coder,
        "tensors": options.tensors[0] if len(options.tensors) == 1 else options.tensors,
        "order": options.order,
        "scan": options.scan,
        "float_dtype": options.float_dtype,
        "transform": options.transform,
        "cells": options.cells,
        "threads": options.threads,
    }
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        if has_suffix(options.checkpoint, (ONNX,)):
            if options.lossless or options.base is not None:
                raise ValueError("--lossless and --base are for checkpoints; found an ONNX model")
            summary = save_onnx(options.checkpoint, options.output, **words)
        else:
            checkpoint = read_checkpoint(options.checkpoint, options.key)
            notes += checkpoint.notes
            metadata = {} if checkpoint.metadata == METADATA else checkpoint.metadata
            words |= {"base": options.base, "lossless": options.lossless}
            summary = save(checkpoint.tensors, options.output, metadata=metadata, **words)
    for note in (*notes, *(f"warning: {warning.message}" for warning in said)):
        _say(note)
    print("\n".join([*table(summary), "", *sizes(summary)]))


def _calibrate(options: argparse.Namespace) -> None:
    """`compress` of a network, whose code is imported on the user's word."""
    from hemp_lightning import compress
    from hemp_lightning.suite import compress_command as command

    if options.lossless:
        raise ValueError("--lossless goes without --model; found both")
    network = command.read_network(options.model, options.checkpoint, options.key)
    limit = options.time_limit
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        summary = compress(
            network,
            options.output,
            None
            if options.inputs is None
            else command.read_data(options.inputs, network, options.image_size),
            target_bytes=options.target_bytes,
            max_drop=options.max_drop,
            time_limit=None if limit is None else command.seconds_of(limit),
        )
    for warning in said:
        _say(f"warning: {warning.message}")
    if options.base is not None and become_update(options.output, options.base):
        size = os.path.getsize(options.output)
        _say(f"{options.output} is an update of {options.base}, of {size:,} bytes")
    print("\n".join([*command.table(summary), "", *command.sizes(summary, network)]))
    if options.report is not None:
        command.write_report(options.report, summary, network)


def _check_output(checkpoint: str, output: str) -> None:
    """Refuse an output that is the input, or would look like a float checkpoint."""
    if same_file(checkpoint, output):
        raise ValueError(f"--output must be another file than CHECKPOINT; found {output} for both")
    if has_suffix(output, (*SUFFIXES, INDEX, ONNX)):
        raise ValueError(
            f"--output must not end like a float checkpoint; found {output}. Use .hemp"
        )


def _say(words: str) -> None:
    print("hemp:", " ".join(words.split()), file=sys.stderr)


def _decompress(options: argparse.Namespace) -> None:
    count = decompress(
        options.file,
        options.output,
        base=options.base,
        max_bytes=options.max_bytes,
        threads=options.threads,
    )
    print(f"{options.output}: {count} tensors, {os.path.getsize(options.output):,} bytes")


def _export(options: argparse.Namespace) -> None:
    command = _suite("export", "export_command")
    size = command.export(
        options.file, options.model, options.inputs, options.output, opset=options.opset
    )
    print(f"{options.output}: {size:,} bytes")


def _inspect(options: argparse.Namespace) -> None:
    summary = inspect(
        options.file,
        base=options.base,
        order=options.order,
        scan=options.scan,
        max_bytes=options.max_bytes,
        threads=options.threads,
    )
    print("\n".join([*table(summary), "", *sizes(summary)]))


def _verify(options: argparse.Namespace) -> int:
    code = 0
    for file in options.files:
        try:
            limits = {"max_bytes": options.max_bytes, "threads": options.threads}
            verify(file, base=options.base, **limits)
            print(f"{file}: whole, {os.path.getsize(file):,} bytes")
        except HempFileError as error:  # the others may be whole
            code = _complain(error, BROKEN)
    return code


def _apply(options: argparse.Namespace) -> None:
    size = apply(options.base, options.update, options.output)
    print(f"{options.output}: {size:,} bytes")


def _report(arguments: list[str]) -> int:
    """Tables and plots from run folders; what they need is only imported here."""
    return _suite("report", "report").main(arguments)


def _suite(command: str, module: str) -> Any:
    """A module of the suite, whose packages the core does without."""
    try:
        return importlib.import_module(f"hemp_lightning.suite.{module}")
    except ModuleNotFoundError as error:
        raise ValueError(
            f"`hemp {command}` needs the package {error.name!r}; install hemp-lightning[suite]"
        ) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hemp", description="Small files for trained networks.")
    parser.add_argument("--version", action="version", version=f"hemp {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    compress = _add_compress(commands)
    expand = commands.add_parser("decompress", help="decode a file into a checkpoint")
    expand.set_defaults(run=_decompress)
    expand.add_argument("file", metavar="FILE")
    expand.add_argument(
        "-o",
        "--output",
        metavar="CHECKPOINT",
        required=True,
        help=".safetensors, a tensor at a time, .pt or .ckpt, or .onnx of a file made of one",
    )
    _add_max_bytes(expand)

    export = commands.add_parser("export", help="an ONNX model of a network with a file's weights")
    export.set_defaults(run=_export)
    export.add_argument("file", metavar="FILE")
    export.add_argument("-o", "--output", metavar="ONNX", required=True, help="the .onnx file")
    export.add_argument(
        "--model", metavar="M", required=True, help="package.module:build, or a name of the zoo"
    )
    export.add_argument(
        "--inputs",
        nargs="+",
        metavar="SHAPE",
        required=True,
        help="one for each input, such as 1x3x32x32 or 1x12:int64",
    )
    export.add_argument("--opset", type=int, metavar="N", help="of ONNX; default: PyTorch's own")

    look = commands.add_parser("inspect", help="a table of what is in a file")
    look.set_defaults(run=_inspect)
    look.add_argument("file", metavar="FILE")
    _add_tuples(look)
    _add_max_bytes(look)

    check = commands.add_parser("verify", help="check that files are whole and decode")
    check.set_defaults(run=_verify)
    check.add_argument("files", metavar="FILE", nargs="+")
    _add_max_bytes(check)

    bring = commands.add_parser("apply", help="a whole file of an old one and its update")
    bring.set_defaults(run=_apply)
    bring.add_argument("base", metavar="OLD")
    bring.add_argument("update", metavar="UPDATE")
    bring.add_argument("-o", "--output", metavar="FILE", required=True, help="the .hemp file")

    for command in (expand, look, check):
        command.add_argument("--base", metavar="OLD", help="the file that an update is for")
    for command, default in ((compress, None), (expand, None), (look, 1), (check, 1)):
        command.add_argument(
            "--threads",
            type=int,
            default=default,
            metavar="N",
            help=f"tensors at a time, default {default or 'one per processor, up to 8'}",
        )
    commands.add_parser("run", help="train, write, read back and test: a run of the suite")
    commands.add_parser("report", help="tables and plots from run folders", add_help=False)
    return parser


def _add_compress(commands: Any) -> argparse.ArgumentParser:
    compress: argparse.ArgumentParser = commands.add_parser(
        "compress", help="quantize and code a checkpoint, untrained"
    )
    compress.set_defaults(run=_compress)
    compress.add_argument(
        "checkpoint", metavar="CHECKPOINT", help=f"{', '.join(SUFFIXES)}, {INDEX} or {ONNX}"
    )
    compress.add_argument("-o", "--output", metavar="FILE", required=True, help="the .hemp file")
    compress.add_argument("--num-levels", type=int, metavar="N", help="default: by the error")
    compress.add_argument("--quantizer", choices=QUANTIZERS, help="default: see save")
    compress.add_argument("--key", metavar="K", help="where the tensors stand, such as model.ema")
    compress.add_argument("--coder", choices=CODERS, default="context")
    compress.add_argument(
        "--tensors",
        nargs="+",
        default=["weights"],
        metavar="NAME",
        help="weights (default: two axes or more), all, or names or patterns with *, without !NAME",
    )
    _add_tuples(compress)
    compress.add_argument(
        "--float-dtype",
        choices=FLOAT_DTYPES,
        default="float16",
        help="for float32 tensors that are not quantized; short ones only within tolerance",
    )
    compress.add_argument(
        "--transform",
        choices=("auto", *TRANSFORMS),
        default="auto",
        help="of the kernels of convolutions before they are quantized",
    )
    compress.add_argument(
        "--cells", choices=CELLS, default="auto", help="which level a weight takes"
    )
    compress.add_argument(
        "--base", metavar="OLD", help="a .hemp file that is there already: write an update of it"
    )
    compress.add_argument("--lossless", action="store_true", help="keep every bit of every tensor")
    _add_calibration(compress)
    return compress


def _add_calibration(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("with a network", "smaller, and measured where inputs are")
    group.add_argument(
        "--model",
        metavar="M",
        help="package.module:build, or a name of the zoo, torchvision, timm or transformers",
    )
    group.add_argument("--inputs", metavar="DATA", help="folder of images, .npy or .safetensors")
    group.add_argument("--image-size", type=int, metavar="N", help="scale and cut images to N x N")
    ends = group.add_mutually_exclusive_group()
    ends.add_argument("--target-bytes", type=int, metavar="N", help="size to land at")
    ends.add_argument("--max-drop", type=float, metavar="X", help="most changed top-1, say 0.005")
    group.add_argument("--time-limit", metavar="T", help="such as 90s, 5m or 1h")
    group.add_argument("--report", metavar="FILE", help="the table and more as JSON")


def _add_tuples(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--order", type=int, default=2, metavar="N", help="length of tuples, 2")
    parser.add_argument("--scan", choices=SCANS, default="row_major", help="order of tuples")


def _add_max_bytes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-bytes",
        type=int,
        metavar="N",
        help="most bytes of all tensors; default 256 MiB + 4096 times the file",
    )


if __name__ == "__main__":
    sys.exit(main())
