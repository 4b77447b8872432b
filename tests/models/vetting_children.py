"""The vetting children of a process as the tests see them from outside, and limits for them."""

import asyncio
import contextlib
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from penstock_models.vetting.attempt import CHILD
from penstock_models.vetting.verdict import Limits

QUICK = Limits(cpu_s=1, wall_s=50)
PATIENT = Limits(cpu_s=60, wall_s=50)


def descendants(of: int | None = None) -> list[int]:
    """The processes that a process started, and did not reap. Cheap, to be asked often."""
    found: list[int] = []
    for task in Path(f"/proc/{of or os.getpid()}/task").iterdir():
        with contextlib.suppress(OSError):
            found += map(int, (task / "children").read_text().split())
    return found


def children(of: int | None = None) -> list[psutil.Process]:
    """The vetting children of a process, dead ones that nobody reaped among them."""
    found = []
    for pid in descendants(of):
        with contextlib.suppress(OSError, psutil.NoSuchProcess):
            words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            if CHILD in words or words == [""]:
                found.append(psutil.Process(pid))
    return found


def until(what: Callable[[], bool], seconds: float = 20.0) -> None:
    limit = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < limit, "it did not happen in time"
        time.sleep(0.01)


async def soon(what: Callable[[], bool], seconds: float = 20.0) -> None:
    limit = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < limit, "it did not happen in time"
        await asyncio.sleep(0.01)


async def first_child() -> psutil.Process:
    """The child of this process, as soon as there is one."""
    await soon(lambda: bool(children()))
    (child,) = children()
    return child


async def busy_child() -> psutil.Process:
    """The same, past its imports, and limited."""
    child = await first_child()
    await soon(lambda: child.rlimit(resource.RLIMIT_CPU)[0] != resource.RLIM_INFINITY)
    return child
