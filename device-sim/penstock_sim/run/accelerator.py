"""An accelerator that is lost: a library that is not there any more, and processes that crash for want of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import psutil

from penstock_models.errors import PenstockError

_AWAY = ".lost"
"""What the library is called meanwhile; a run that was killed leaves it so, until the next one looks for it."""


def lose(library: Path, gateway: int) -> Callable[[], None]:
    """Take the library away, and crash those children of the process `gateway` that have it loaded.

    Returns:
        What puts it back.

    Raises:
        PenstockError: no such library, or nobody has it loaded: there is nothing to lose.
    """
    away = library.with_name(library.name + _AWAY)
    if away.exists() and not library.exists():
        _move(away, library)
    users = [
        child for child in psutil.Process(gateway).children(recursive=True) if _has_loaded(child, library)
    ]
    if not users:
        raise PenstockError(
            f"expected a model's process that has {library} loaded, found none: does the gateway run one there, with"
            ' `isolation = "process"`?'
        )
    _move(library, away)
    for child in users:
        os.kill(child.pid, signal.SIGSEGV)

    return lambda: _move(away, library)


def _move(old: Path, new: Path) -> None:
    try:
        old.rename(new)
    except OSError as error:
        raise PenstockError(f"expected to move {old} to {new}: {error.strerror}") from None


def _has_loaded(process: psutil.Process, library: Path) -> bool:
    try:
        maps = Path(f"/proc/{process.pid}/maps").read_text()
    except OSError:
        return False
    return any(line.endswith(f"/{library.name}") for line in maps.splitlines())
