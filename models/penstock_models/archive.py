"""The three places where a bundle's files may lie: a tar, a folder, memory; each gives names, sizes and chunks.

Owns everything that an archive or a folder can do to trick its reader: only plain files with short, plain names are
let through. What the files mean, and whether their digests are right, is `bundle`'s business. Nothing is extracted.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from penstock_models.errors import BundleError
from penstock_models.ustar import BLOCK, MAX_NAME, parse_header

MAX_MEMBERS = 256
MAX_TOTAL_BYTES = 2 * 1024**3  # ONNX (protobuf) ends there too
CHUNK = 1 << 20

_SEGMENT = re.compile(r"[A-Za-z0-9_.-]+")
CODE_SUFFIXES = (".pt", ".pth", ".pkl", ".pickle", ".pt2")


class Source(Protocol):
    """Where the bytes come from. `sizes` is taken once, when the source is made; `chunks` reads afresh each time."""

    @property
    def sizes(self) -> Mapping[str, int]: ...

    def chunks(self, name: str) -> Iterator[bytes]:
        """The bytes of one file, at most `CHUNK` at a time and never more than its size."""
        ...


def check_name(name: str, where: object) -> str:
    """Let through `a/b.txt`: ASCII letters, digits, `_.-`, at most 100 characters, no `..`, nothing that is code.

    Raises:
        BundleError: naming the rule that the name breaks.
    """
    segments = name.split("/")
    if len(name) > MAX_NAME or len(segments) > 8:
        raise BundleError(
            f"{where}: the file name {name[:40]!r}… is longer than {MAX_NAME} characters or 8 folders"
        )
    if any(s in ("", ".", "..") or not _SEGMENT.fullmatch(s) for s in segments):
        raise BundleError(
            f"{where}: the file name {name!r} must be relative, of letters, digits and `_.-`, without `..`"
        )
    if name.lower().endswith(CODE_SUFFIXES):
        raise BundleError(
            f"{where}: {name} is a format that can carry code; export the model to ONNX or TFLite"
        )
    return name


def _admit(sizes: dict[str, int], name: str, size: int, where: object) -> None:
    """Add one file, or say why not: twins, too many, too large."""
    check_name(name, where)
    # A file system that folds case would make one file of two.
    if any(name.lower() == other.lower() for other in sizes):
        raise BundleError(f"{where}: two files have the name {name!r} (upper and lower case count as equal)")
    if len(sizes) >= MAX_MEMBERS:
        raise BundleError(f"{where}: more than {MAX_MEMBERS} files")
    if sum(sizes.values()) + size > MAX_TOTAL_BYTES:
        raise BundleError(f"{where}: the files are larger than {MAX_TOTAL_BYTES} bytes together")
    sizes[name] = size


def _open_plain(path: Path, where: object, *, follow: bool) -> BinaryIO:
    """Open a regular file. O_NONBLOCK, so that a FIFO in a file's place cannot hang the reader."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        raise BundleError(f"{where}: cannot open {path}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BundleError(f"{where}: {path} is not a regular file")
    return os.fdopen(descriptor, "rb")


def _limited(file: BinaryIO, size: int, where: object) -> Iterator[bytes]:
    while size > 0:
        chunk = file.read(min(CHUNK, size))
        if not chunk:
            raise BundleError(f"{where}: truncated, {size} bytes are missing at its end")
        size -= len(chunk)
        yield chunk


class MemorySource:
    """Files that were never on a disk, such as those of a bundle in the making."""

    def __init__(self, files: Mapping[str, bytes], where: object) -> None:
        self._files = dict(files)
        self._sizes: dict[str, int] = {}
        for name, data in self._files.items():
            _admit(self._sizes, name, len(data), where)

    @property
    def sizes(self) -> Mapping[str, int]:
        return self._sizes

    def chunks(self, name: str) -> Iterator[bytes]:
        yield self._files[name]


class FolderSource:
    """An unpacked bundle. Links, devices and hidden tricks below the folder are refused, not followed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sizes: dict[str, int] = {}
        for name, size in self._walk(folder, ""):
            _admit(self._sizes, name, size, folder)

    def _walk(self, folder: Path, prefix: str) -> Iterator[tuple[str, int]]:
        for entry in sorted(os.scandir(folder), key=lambda e: e.name):
            name = prefix + entry.name
            check_name(name, self._folder)
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(Path(entry.path), f"{name}/")
            elif entry.is_file(follow_symlinks=False):
                yield name, entry.stat(follow_symlinks=False).st_size
            else:
                raise BundleError(
                    f"{self._folder}: {name} is a link or a device; a bundle holds plain files only"
                )

    @property
    def sizes(self) -> Mapping[str, int]:
        return self._sizes

    def chunks(self, name: str) -> Iterator[bytes]:
        where = f"{self._folder}/{name}"
        with _open_plain(self._folder / name, where, follow=False) as file:
            yield from _limited(file, self._sizes[name], where)


class _Member(NamedTuple):
    offset: int
    size: int


class TarSource:
    """A `.bundle`: an uncompressed ustar archive of regular files, ended by two empty blocks and nothing else."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._members: dict[str, _Member] = {}
        self._sizes: dict[str, int] = {}
        with _open_plain(path, path, follow=True) as file:
            self._index(file)

    @property
    def sizes(self) -> Mapping[str, int]:
        return self._sizes

    def chunks(self, name: str) -> Iterator[bytes]:
        member = self._members[name]
        with _open_plain(self._path, self._path, follow=True) as file:
            file.seek(member.offset)
            yield from _limited(file, member.size, f"{self._path}: {name}")

    def _index(self, file: BinaryIO) -> None:
        while (header := self._block(file)) != bytes(BLOCK):
            name, size = parse_header(header, self._path)
            _admit(self._sizes, name, size, self._path)
            self._members[name] = _Member(file.tell(), size)
            file.seek(-(-size // BLOCK) * BLOCK, os.SEEK_CUR)
        # tar pads to 20 blocks; what lies behind the end would be bytes that no digest covers.
        rest = file.read(21 * BLOCK)
        if len(rest) < BLOCK or len(rest) > 20 * BLOCK or any(rest):
            raise BundleError(
                f"{self._path}: the archive must end with two empty blocks and nothing behind them"
            )

    def _block(self, file: BinaryIO) -> bytes:
        header = file.read(BLOCK)
        if len(header) < BLOCK:
            if file.tell() < BLOCK:
                raise BundleError(f"{self._path}: not an uncompressed tar archive: only {file.tell()} bytes")
            raise BundleError(f"{self._path}: truncated: the archive has no end marker; copy it again")
        return header
