"""What a source says: which versions are offered, and what stands in the way of others. Plain data.

A `stamp` names the files of a version as they lie there (their names, sizes, times, inodes), cheaply and before anything
was read; a digest names their contents.
"""

from __future__ import annotations

import hashlib
import os
import stat as stat_module
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from penstock_models.archive import MAX_MEMBERS

FRESH_S = 2.0
"""A file may change twice within one tick of its file system's clock: what is younger is not sure to be what was seen."""


class Offer(msgspec.Struct, frozen=True):
    """A version that may be loaded. `digest` is "" for a bare model file, which has none before it is packed."""

    name: str
    version: int
    path: Path
    stamp: str
    digest: str = ""


class Problem(msgspec.Struct, frozen=True):
    """Why something is not offered, in one line. `name` is "" for a whole store, `version` 0 where it is not known."""

    name: str
    version: int
    text: str


class Offers(msgspec.Struct, frozen=True):
    """All that a source has now: what is left out is to be unloaded, unless a problem speaks for it."""

    offers: tuple[Offer, ...] = ()
    problems: tuple[Problem, ...] = ()

    def of(self, name: str) -> tuple[Offer, ...]:
        """The versions of one model."""
        return tuple(offer for offer in self.offers if offer.name == name)

    def excuses(self, name: str, version: int) -> bool:
        """Whether a problem stands in the way of a version, so that its absence means nothing."""
        return any(p.name in ("", name) and p.version in (0, version) for p in self.problems)


class Source(Protocol):
    """Where versions come from."""

    def scan(self, now: float, wall: float) -> Offers:
        """Look once; blocks on the disk. Broken entries become problems, nothing raises.

        Args:
            now: monotonic seconds.
            wall: seconds since the epoch, to compare with the times of files.
        """


class Stamp(NamedTuple):
    """`changed` is when any of the files last changed, in seconds since the epoch, by the file system's clock."""

    text: str
    changed: float


def stamp(path: Path) -> Stamp:
    """The stamp of a bundle, or of everything in a version's folder.

    Raises:
        OSError: it is not there (any more) or cannot be read.
    """
    digest = hashlib.blake2b(str(path).encode(errors="surrogateescape"), digest_size=16)
    changed = 0.0
    for name, found in _files(path):
        # ctime is the kernel's own: copying the old times along, as `cp -p` does, cannot hide a change.
        facts = (name, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        digest.update(repr(facts).encode(errors="surrogateescape"))
        changed = max(changed, found.st_ctime, found.st_mtime)
    return Stamp(digest.hexdigest(), changed)


def _files(path: Path) -> Iterator[tuple[str, os.stat_result]]:
    """A bundle, followed where it is a link; or a folder and all in it, links as they are. Bounded."""
    top = path.stat()
    yield "", top
    if not stat_module.S_ISDIR(top.st_mode):
        return
    folders = [os.fspath(path)]
    left = 2 * MAX_MEMBERS
    while folders and left:
        # Strings and not paths: this runs every second, for every file of a store.
        with os.scandir(folders.pop()) as found:
            entries = sorted(found, key=attrgetter("path"))[:left]
        left -= len(entries)
        for entry in entries:
            yield entry.path, entry.stat(follow_symlinks=False)
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)
