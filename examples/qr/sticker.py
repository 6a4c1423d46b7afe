"""A network on a sticker: a `.hemp` file of up to 2,953 bytes as one QR code, and back.

python examples/qr/sticker.py write benchmarks/results/lenet5_mnist/model.hemp sticker.png
python examples/qr/sticker.py read sticker.png model.hemp
"""

from __future__ import annotations

import sys
from pathlib import Path

import segno
import zxingcpp
from PIL import Image

MOST = 2953  # bytes of a QR code of version 40 with the least error correction


def write(file: str | Path, picture: str | Path, *, pixels: int = 6) -> segno.QRCode:
    """Write a file as a picture of one QR code.

    Args:
        file: At most 2,953 bytes.
        picture: The PNG or SVG to write.
        pixels: Width of a module, the smallest square.

    Raises:
        ValueError: If the file is too large for one code.
    """
    data = Path(file).read_bytes()
    if len(data) > MOST:
        raise ValueError(f"`file` must have at most {MOST:,} bytes; {file} has {len(data):,}")
    code = segno.make_qr(data, error="L", mode="byte")  # as much correction as fits its version
    code.save(str(picture), scale=pixels)
    return code


def read(picture: str | Path) -> bytes:
    """The bytes of the QR code in a picture.

    Raises:
        ValueError: If there is no QR code in it.
    """
    found = zxingcpp.read_barcode(Image.open(picture), formats=zxingcpp.BarcodeFormat.QRCode)
    if found is None:
        raise ValueError(f"`picture` must show a QR code; found none in {picture}")
    return bytes(found.bytes)


if __name__ == "__main__":
    command, source, target = sys.argv[1:]
    if command == "write":
        code = write(source, target)
        print(f"{target}: QR code of version {code.designator}")
    else:
        print(f"{target}: {Path(target).write_bytes(read(source)):,} bytes")
