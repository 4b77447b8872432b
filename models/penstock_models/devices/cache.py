"""The folder of optimised models and engines: what was made once for this very model, runtime, driver and device.

Owns where an entry lies, when it may be trusted, that it appears whole or not at all, that nobody makes it twice at
once, and how much of the disk all entries take. What lies in one, and whether it pays, is its runtime's business.

    FOLDER/<key>/entry.json        the key in words, facts, and every file with its size and SHA-256
    FOLDER/<key>/…                 the files
    FOLDER/.making-<key>/…         being made by whoever holds this folder's lock (flock)
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from penstock_models.files import sync

HEADER = "entry.json"
FORMAT = 1
LIMIT_BYTES = 2 * 1024**3
MAX_HEADER_BYTES = 1024**2
CLAIMS = 100  # a folder that is published at each of so many looks is somebody else's


class MadeElsewhere(Exception):
    """Another process or thread makes this entry now."""


class CacheKey(msgspec.Struct, frozen=True):
    """What an entry depends on; it is another entry as soon as one of these differs.

    `model` is the SHA-256 of the model file, `runtime` and `driver` versions in words, `options` whatever else was
    chosen, such as the number of threads.
    """

    model: str
    runtime: str
    driver: str
    device: str
    options: dict[str, str]

    @property
    def name(self) -> str:
        """The entry's folder: the SHA-256 of all parts."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()


class FileFacts(msgspec.Struct, frozen=True):
    size: int
    sha256: str


class _Header(msgspec.Struct, frozen=True):
    v: int
    key: CacheKey
    facts: dict[str, float]
    files: dict[str, FileFacts]


class Entry(NamedTuple):
    """An entry that was verified just now. `facts` are numbers that its maker noted."""

    folder: Path
    facts: Mapping[str, float]


class ModelCache:
    """Entries below one folder, which several processes may share. Blocking; for the threads that load."""

    def __init__(self, folder: Path, limit_bytes: int = LIMIT_BYTES) -> None:
        """Nothing is touched yet.

        Args:
            folder: is made when the first entry is.
            limit_bytes: of all entries together; beyond it those that were not used for longest go.
        """
        self.folder = folder
        self._limit = limit_bytes

    def find(self, key: CacheKey) -> Entry | None:
        """The entry of exactly this key, every byte verified; one that is broken is dropped."""
        place = self.folder / key.name
        if not place.exists():
            return None  # what is published from now on stays
        header = _read_header(place)
        if header is None or header.key != key or not _holds(place, header.files):
            self.drop(key)
            return None
        with contextlib.suppress(OSError):  # on a read-only disk entries merely do not age
            os.utime(place / HEADER)
        return Entry(place, header.facts)

    @contextlib.contextmanager
    def making(self, key: CacheKey) -> Iterator[Path]:
        """An empty folder to make the entry's files in; nobody else makes it meanwhile. `publish` before leaving.

        Another may have published since `find` was asked: who must not make it twice asks again within.

        Raises:
            MadeElsewhere: somebody does.
            OSError: the disk cannot be written.
        """
        place = self._place(key)
        lock = _claim(place)
        if lock is None:
            raise MadeElsewhere(
                f"{key.device}: it is being made for this model elsewhere; it is tried again later"
            )
        try:
            _empty(place)  # of a maker that was killed
            yield place
        finally:
            if _is_at(lock, place):  # not published: and what another may have begun since is not ours
                shutil.rmtree(place, ignore_errors=True)
            os.close(lock)

    def publish(self, key: CacheKey, facts: Mapping[str, float]) -> Entry:
        """Make what lies in the folder of `making` the entry: whole, durable, at once.

        Raises:
            OSError: the disk cannot be written, or the entry alone exceeds the limit.
        """
        making, place = self._place(key), self.folder / key.name
        files = {str(path.relative_to(making)): _facts(path) for path in _files(making)}
        size = sum(file.size for file in files.values())
        if size > self._limit:
            raise OSError(f"{place}: {size} bytes, the whole cache may have {self._limit}")
        header = msgspec.json.encode(_Header(FORMAT, key, dict(facts), files))
        (making / HEADER).write_bytes(header)
        for path in _files(making):
            sync(path)
        shutil.rmtree(place, ignore_errors=True)
        making.rename(place)
        sync(self.folder)
        self._trim(keep=place)
        return Entry(place, dict(facts))

    def drop(self, key: CacheKey) -> None:
        """Forget an entry, whatever state it is in."""
        shutil.rmtree(self.folder / key.name, ignore_errors=True)

    def making_bytes(self) -> int:
        """What entries in the making take by now, also those of other processes."""
        return sum(_size(place) for place in self._places(hidden=True))

    def _trim(self, keep: Path) -> None:
        """Drop what killed makers left, then what was not used for longest until the limit holds; never the newest."""
        for place in self._places(hidden=True):
            _sweep(place)
        sizes = {place: _size(place) for place in self._places()}
        total = sum(sizes.values())
        for place in sorted(sizes, key=_used):
            if total <= self._limit:
                return
            if place != keep:
                shutil.rmtree(place, ignore_errors=True)
                total -= sizes[place]

    def _place(self, key: CacheKey) -> Path:
        return self.folder / f".making-{key.name}"

    def _places(self, *, hidden: bool = False) -> list[Path]:
        try:
            found = [path for path in self.folder.iterdir() if path.is_dir()]
        except OSError:
            return []
        return [path for path in found if path.name.startswith(".") == hidden]


def _claim(place: Path) -> int | None:
    """Lock a folder in the making and give the open lock, None where another holds it.

    The lock goes with the process that holds it, however that ends. It is the folder's own: a published one takes its
    lock away with it, so whoever waited at the door finds that the folder is another now, and asks again.
    """
    for _ in range(CLAIMS):
        place.mkdir(parents=True, exist_ok=True)
        try:
            lock = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:  # published since
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        if _is_at(lock, place):
            return lock
        os.close(lock)
    return None


def _is_at(lock: int, place: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock), place.stat())
    except OSError:
        return False


def _sweep(place: Path) -> None:
    """Remove a folder in the making that nobody makes any more."""
    with contextlib.suppress(OSError):
        lock = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(place, ignore_errors=True)
        finally:
            os.close(lock)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _read_header(place: Path) -> _Header | None:
    try:
        with (place / HEADER).open("rb") as file:
            header = msgspec.json.decode(file.read(MAX_HEADER_BYTES), type=_Header)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return header if header.v == FORMAT else None


def _holds(place: Path, files: Mapping[str, FileFacts]) -> bool:
    """Whether every listed file is there as it was; files that a provider added later are its own business."""
    try:
        sizes_hold = all((place / name).stat().st_size == file.size for name, file in files.items())
        return sizes_hold and all(_facts(place / name) == file for name, file in files.items())
    except OSError:
        return False


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _facts(path: Path) -> FileFacts:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return FileFacts(file.tell(), digest.hexdigest())


def _size(folder: Path) -> int:
    """Of what is there by now; a folder may go while it is counted."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += Path(place, name).lstat().st_size
    return total


def _used(place: Path) -> float:
    try:
        return (place / HEADER).stat().st_mtime
    except OSError:
        return 0.0
