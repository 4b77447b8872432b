"""The ustar format: headers of plain files, read strictly, and whole archives, written atomically.

Owns the bytes of the format. Which names and sizes a bundle may have is `archive`'s business.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

from penstock_models.errors import BundleError, UsageError
from penstock_models.files import replacing

BLOCK = 512
MAX_NAME = 100  # what a header holds without its prefix field

_KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"5": "a folder",
    b"6": "a FIFO",
    b"S": "a sparse file",
    b"L": "a long name (GNU)",
    b"K": "a long link name (GNU)",
    b"x": "an extended header (pax)",
    b"g": "a global extended header (pax)",
}


def parse_header(header: bytes, where: object) -> tuple[str, int]:
    """(name, size) of a regular member.

    Raises:
        BundleError: not a tar header, or a member that is not a plain file with a short name.
    """
    checksum = sum(header[:148]) + 8 * 0x20 + sum(header[156:])
    if header[257:262] != b"ustar" or _octal(header[148:156]) != checksum:
        raise BundleError(f"{where}: not an uncompressed tar archive (no ustar header where one is expected)")
    name = header[:100].rstrip(b"\0").decode("utf-8", "replace")
    kind = header[156:157]
    if kind not in (b"0", b"\0"):
        what = _KINDS.get(kind, f"of the unknown type {kind!r}")
        raise BundleError(
            f"{where}: {name!r} is {what}; a bundle holds plain files only (`penstock model pack` makes one)"
        )
    if any(header[345:500]):
        raise BundleError(f"{where}: {name!r} has a long name; names are at most {MAX_NAME} characters")
    size = _octal(header[124:136])
    if size is None:
        raise BundleError(f"{where}: {name!r} has no plain octal size")
    return name, size


def _octal(field: bytes) -> int | None:
    text = field.strip(b" \0")
    return int(text, 8) if re.fullmatch(rb"[0-7]{1,12}", text) else None


def tar_header(name: str, size: int) -> bytes:
    """The ustar header of a plain file: no time, no owner, so that equal files give equal archives."""
    head = b"%-100b%07o\0%07o\0%07o\0%011o\0%011o\0" % (_padded(name), 0o644, 0, 0, size, 0)
    tail = b"0" + bytes(100) + b"ustar\x0000" + bytes(64) + b"%07o\0%07o\0" % (0, 0) + bytes(167)
    checksum = sum(head) + 8 * 0x20 + sum(tail)
    return head + b"%06o\0 " % checksum + tail


def _padded(name: str) -> bytes:
    return name.encode("ascii").ljust(100, b"\0")


class Member(NamedTuple):
    """A file for an archive: `chunks` are `size` bytes together."""

    name: str
    size: int
    chunks: Iterable[bytes]


def write_tar(files: Mapping[str, bytes], first: str, out: Path) -> None:
    """Write an archive with `first` at its head and the others by name; atomic and durable, as `write_members`.

    Raises:
        UsageError: the folder cannot be written.
    """
    names = [first, *sorted(files.keys() - {first})]
    write_members((Member(name, len(files[name]), [files[name]]) for name in names), out)


def write_members(members: Iterable[Member], out: Path) -> None:
    """Write an archive; atomic and durable.

    Raises:
        UsageError: the folder cannot be written.
    """
    try:
        with replacing(out) as file:
            write_into(file, members)
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error.strerror}") from error


def write_into(file: BinaryIO, members: Iterable[Member]) -> None:
    """The same into a file that is open."""
    for member in members:
        file.write(tar_header(member.name, member.size))
        for chunk in member.chunks:
            file.write(chunk)
        file.write(bytes(-member.size % BLOCK))
    file.write(bytes(2 * BLOCK))
