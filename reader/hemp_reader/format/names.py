"""Names of tensors in few bytes: common words are one byte, a common beginning is not repeated."""

from __future__ import annotations

import re

from hemp_reader.bitstream import ByteReader, varint
from hemp_reader.errors import HempFileError

WORDS = (
    ".weight", ".bias", ".running_mean", ".running_var", ".num_batches_tracked", "conv", ".conv",
    "layer", ".bn", "features.", "classifier", ".downsample.", "shortcut", "linear", "fc", "norm",
    "attn", "self_attn", "mlp", "layers.", "blocks.", "block", "encoder", "decoder", "embed",
    "proj", "in_proj_weight", "in_proj_bias", "network.", "model.", "head",
)  # fmt: skip
"""What the bytes 1 to 31 stand for in a name. Part of the format: it never changes."""

MAX_NAME = 4096
"""The most bytes of a name, in UTF-8."""

_CODES = {word.encode(): bytes([code]) for code, word in enumerate(WORDS, 1)}
_LITERALS = {bytes([byte]): bytes([0, byte]) for byte in range(32)}
_PATTERN = re.compile(
    b"|".join(re.escape(word) for word in sorted(_CODES, key=len, reverse=True)) + b"|[\x00-\x1f]"
)


def shorten(name: str) -> bytes:
    r"""A name in UTF-8, its words as one byte each and control characters after a byte 0.

    Example:
        >>> shorten("conv1.weight")
        b'\x061\x01'
    """
    return _PATTERN.sub(lambda m: _CODES.get(m[0]) or _LITERALS[m[0]], name.encode())


def expand(short: bytes) -> str:
    """The name that `shorten` made short.

    Raises:
        HempFileError: If there is none, or it is longer than `MAX_NAME`.
    """
    out = bytearray()
    parts = iter(short)
    for code in parts:
        if code == 0:
            literal = next(parts, None)
            if literal is None or literal > 31:
                raise HempFileError(None, 0, "a control character after a byte 0", repr(literal))
            out.append(literal)
        elif code < 32:
            out += WORDS[code - 1].encode()
        else:
            out.append(code)
    if len(out) > MAX_NAME:
        raise HempFileError(None, 0, f"a name of at most {MAX_NAME} bytes", f"{len(out)} bytes")
    try:
        return out.decode()
    except UnicodeDecodeError:
        raise HempFileError(None, 0, "a name in UTF-8", repr(bytes(out[:32]))) from None


def write_name(short: bytes, previous: bytes) -> bytes:
    """A short name after the one before: how many bytes they share, and the others.

    Example:
        >>> write_name(shorten("conv1.bias"), shorten("conv1.weight")).hex()
        '2102'
    """
    shared = 0
    for left, right in zip(short, previous, strict=False):
        if left != right:
            break
        shared += 1
    own = len(short) - shared
    out = bytes([min(shared, 15) << 4 | min(own, 15)])
    for size in (shared, own):
        out += varint(size - 15) if size >= 15 else b""
    return out + short[shared:]


def read_name(reader: ByteReader, previous: bytes) -> bytes:
    """The short name that `write_name` wrote.

    Raises:
        HempFileError: If there is none.
    """
    start = reader.offset
    sizes = reader.byte("lengths of a name")
    shared, own = sizes >> 4, sizes & 15
    if shared == 15:
        shared += reader.varint("shared length of a name", 2 * MAX_NAME)
    if own == 15:
        own += reader.varint("own length of a name", 2 * MAX_NAME)
    if shared > len(previous):
        expected = f"at most {len(previous)} bytes shared with the name before"
        raise HempFileError(None, start, expected, str(shared))
    return previous[:shared] + reader.take(own, "a name")
