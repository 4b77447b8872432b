"""What the journal asks of its file system: sizes, what is free, and room that is taken before it is needed."""

from __future__ import annotations

import os
from pathlib import Path


def size(path: Path) -> int:
    """Bytes; 0 where there is no such file."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def disk_free(folder: Path) -> int:
    """Bytes that the file system of `folder` has left for us."""
    stat = os.statvfs(folder)
    return stat.f_bavail * stat.f_frsize


def reserve(path: Path, nbytes: int) -> bool:
    """Take the blocks of the first `nbytes` of a file, which is made and grown if need be; nothing in it changes.

    Returns:
        False where the disk has no room for that.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.posix_fallocate(fd, 0, nbytes)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True
