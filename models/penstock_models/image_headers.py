"""Reads size and orientation out of a picture's header, without decoding a pixel.

JPEG, PNG and WebP only. Every read is bounded by the bytes at hand and by a count of segments, so a hostile header
costs microseconds. What a decoder makes of the rest is `images`' business.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

MAX_SEGMENTS = 512


class Header(NamedTuple):
    """`width` × `height` as stored; `orientation` is EXIF's 1 … 8 (only JPEG's is read here)."""

    format: str
    width: int
    height: int
    orientation: int = 1


def read_header(data: bytes | memoryview) -> Header | None:
    """The header of a JPEG, PNG or WebP file; None for anything else or a broken header."""
    view = memoryview(data).cast("B")
    head = bytes(view[:12])
    try:
        if head[:3] == b"\xff\xd8\xff":
            return _jpeg(view)
        if head[:8] == b"\x89PNG\r\n\x1a\n":
            return _png(view)
        if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
            return _webp(view)
    except (struct.error, IndexError):
        return None
    return None


def _jpeg(view: memoryview) -> Header | None:
    at, orientation = 2, 1
    for _ in range(MAX_SEGMENTS):
        while view[at] == 0xFF and view[at + 1] == 0xFF:  # fill bytes before a marker
            at += 1
        if view[at] != 0xFF:
            return None
        marker = view[at + 1]
        (length,) = struct.unpack_from(">H", view, at + 2)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", view, at + 5)
            return Header("jpeg", width, height, orientation)
        if marker == 0xE1 and bytes(view[at + 4 : at + 10]) == b"Exif\0\0":
            orientation = _exif_orientation(view[at + 10 : at + 2 + length])
        at += 2 + length
    return None


def _exif_orientation(tiff: memoryview) -> int:
    """Tag 0x0112 of the first directory; 1 where there is none or the block is broken."""
    order = {b"II": "<", b"MM": ">"}.get(bytes(tiff[:2]))
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, start)
        for entry in range(min(count, MAX_SEGMENTS)):
            tag, _, _, value = struct.unpack_from(order + "HHIH", tiff, start + 2 + 12 * entry)
            if tag == 0x0112:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        return 1
    return 1


def _png(view: memoryview) -> Header | None:
    if bytes(view[12:16]) != b"IHDR":
        return None
    width, height = struct.unpack_from(">II", view, 16)
    return Header("png", width, height)


def _webp(view: memoryview) -> Header | None:
    kind = bytes(view[12:16])
    if kind == b"VP8X":
        width = int.from_bytes(view[24:27], "little") + 1
        height = int.from_bytes(view[27:30], "little") + 1
        return Header("webp", width, height) if len(view) >= 30 else None
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", view, 21)
        return Header("webp", (bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", view, 26)
        return Header("webp", width & 0x3FFF, height & 0x3FFF)
    return None
