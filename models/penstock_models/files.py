"""Writes files so that whoever looks, also after a power cut, finds the old one or the new one, and never a half."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

DRAFT_S = 3600.0
_DRAFT = re.compile(r"\..+\.[0-9a-f]{8}\.tmp", re.DOTALL)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write into, which takes the place of `path` when the block ends, and leaves nothing when it raises.

    Makes the folder. Safe for several writers: each has a draft of its own, and the last one counts. A killed writer
    leaves its draft, for `sweep`.

    Raises:
        OSError: the folder cannot be written; the old file is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with draft.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        sync(path.parent)
    finally:
        with contextlib.suppress(OSError):  # after the rename there is nothing
            draft.unlink()


def sweep(folder: Path) -> None:
    """Remove the drafts of killed writers; one that is younger than `DRAFT_S` may be somebody's work. Never raises."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if _DRAFT.fullmatch(path.name) and time.time() - path.lstat().st_mtime > DRAFT_S:
                path.unlink()


def sync(path: Path) -> None:
    """Make a file, or what was renamed and removed in a folder, durable.

    Raises:
        OSError: the disk says no.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
