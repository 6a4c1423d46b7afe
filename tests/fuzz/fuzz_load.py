"""A coverage-guided fuzzer of the reader: `pip install -e '.[fuzz]'`, then

    python tests/fuzz/fuzz_load.py -max_total_time=300 -seed=1 FOUND tests/fuzz/corpus

libFuzzer's options work. FOUND is a folder for inputs that reach new code, and may be empty at
first; `tests/fuzz/corpus` is only read. Of each input the checksums are made right, so that it
reaches the code behind them, and the bytes as they are get read as well. What must never come is
another error than `HempFileError`, a hang, or memory beyond what SECURITY.md states.

The compiled loops run as plain Python here (`NUMBA_DISABLE_JIT`), so that their bounds are checked.
"""

from __future__ import annotations

import importlib.util
import io
import os
import sys
from pathlib import Path

os.environ["NUMBA_DISABLE_JIT"] = "1"

import atheris

with atheris.instrument_imports(include=["hemp_reader"]):
    from hemp_reader.coding import compressors as general
    from hemp_reader.coding.context import decoder as context
    from hemp_reader.coding.tuples import decoder as tuples
    from hemp_reader.errors import HempFileError
    from hemp_reader.format.files import HempFile
    from hemp_reader.reading import contents_of

LOADED = (context, general, tuples)  # coders are imported on first use
context.IS_COMPILED = True  # the loops that are compiled elsewhere, not those in plain Python
MAX_BYTES = 2**14  # plain Python decodes about 20,000 weights a second

_spec = importlib.util.spec_from_file_location(
    "test_mutations", Path(__file__).parents[1] / "file" / "test_mutations.py"
)
test_mutations = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(test_mutations)


def read(data: bytes) -> int:
    """Read a file to its end; the bytes of its tensors."""
    file = HempFile(io.BytesIO(data), MAX_BYTES)
    num_bytes = sum(content.words().nbytes for content in contents_of(file))
    assert num_bytes == file.num_bytes <= MAX_BYTES
    return num_bytes


def fuzz(data: bytes) -> None:
    """Read an input as it is, and with right checksums."""
    for each in {data, test_mutations.reseal(data)}:
        try:
            read(each)
        except HempFileError:
            pass


if __name__ == "__main__":
    options = ["-rss_limit_mb=4096", "-timeout=30", "-max_len=4096"]
    atheris.Setup([sys.argv[0], *options, *sys.argv[1:]], fuzz)
    atheris.Fuzz()
