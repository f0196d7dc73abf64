"""What an image file says of itself in its first bytes: format, size, colours.

Formats: PNG (ISO/IEC 15948, chunk IHDR), JPEG (ITU-T T.81, frame headers), GIF89a, BMP.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_COLOURS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGB with alpha"}  # of PNG
_COMPONENTS = {1: "grey", 3: "RGB", 4: "CMYK"}  # of JPEG
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers of frame headers; the others are tables


@dataclass(frozen=True)
class Header:
    """`bits` are those of one value; `mode` says which values a pixel has."""

    format: str
    width: int
    height: int
    mode: str
    bits: int


def read_header(content: bytes) -> Header | None:
    """The header of an image; None if there is none.

    >>> read_header(b"GIF89a" + bytes([2, 0, 3, 0, 0, 0, 0]))
    Header(format='GIF', width=2, height=3, mode='palette', bits=8)
    """
    try:
        if content.startswith(b"\x89PNG\r\n\x1a\n") and content[12:16] == b"IHDR":
            width, height, bits, colour = struct.unpack(">IIBB", content[16:26])
            return Header("PNG", width, height, _COLOURS.get(colour, "unknown"), bits)
        if content.startswith(b"GIF8"):
            width, height = struct.unpack("<HH", content[6:10])
            return Header("GIF", width, height, "palette", 8)
        if content.startswith(b"BM"):
            width, height, _, bits = struct.unpack("<iiHH", content[18:30])
            mode = {32: "RGB with alpha", 24: "RGB"}.get(bits, "palette")
            return Header("BMP", width, abs(height), mode, 8)  # a negative height is that of rows from the top down
        return _jpeg(content) if content.startswith(b"\xff\xd8") else None
    except struct.error:
        return None


def _jpeg(content: bytes) -> Header | None:
    at = 2
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD7:  # filling, and markers without a length
            at += 1 if marker == 0xFF else 2
            continue
        if marker in _FRAMES:
            bits, height, width, components = struct.unpack(">BHHB", content[at + 4 : at + 10])
            return Header("JPEG", width, height, _COMPONENTS.get(components, f"{components} components"), bits)
        at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return None
