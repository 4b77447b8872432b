"""How much memory a process takes, as the kernel counts it. Linux only; 0 elsewhere for this process."""

from __future__ import annotations

import os
import re
from pathlib import Path

_PROC = Path("/proc")
_PSS = re.compile(rb"^Pss:\s+(\d+) kB", re.MULTILINE)


def proportional_bytes(pid: int, proc: Path = _PROC) -> int:
    """A process's own pages, and its share of those that it has in common with others (PSS).

    Takes milliseconds for a large process; RSS, which counts shared pages whole, where the kernel does not tell.

    Raises:
        OSError: there is no such process.
    """
    try:
        found = _PSS.search((proc / str(pid) / "smaps_rollup").read_bytes())
    except (PermissionError, FileNotFoundError):
        found = None
    return int(found[1]) * 1024 if found else _resident(pid, proc)


def own_resident_bytes() -> int:
    """This process's resident pages (RSS); 0 where the system does not tell."""
    try:
        return _resident(os.getpid(), _PROC)
    except OSError:
        return 0


def own_anonymous_bytes() -> int:
    """This process's resident pages that no file backs: its heap. 0 where the system does not tell.

    Unlike RSS it does not shrink when the kernel takes back pages of libraries and mapped files.
    """
    try:
        resident, shared = _mapped(os.getpid(), _PROC)
    except OSError:
        return 0
    return resident - shared


def _resident(pid: int, proc: Path) -> int:
    return _mapped(pid, proc)[0]


def _mapped(pid: int, proc: Path) -> tuple[int, int]:
    """Bytes of resident pages, and of those of them that files or shared memory back."""
    fields = (proc / str(pid) / "statm").read_bytes().split()
    page_bytes = os.sysconf("SC_PAGE_SIZE")  # not at import: systems without /proc have no such call either
    return int(fields[1]) * page_bytes, int(fields[2]) * page_bytes
