"""Versions in processes of their own, for the tests of this folder."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from penstock_models.bundle import Bundle, write_bundle
from penstock_models.isolation.process_host import ProcessHost

FOREVER = 2**62  # turns of a loop
SECOND = 1_000_000
"""Turns of a loop that take about a second: far more than a test's time limits, far less than its own."""


def written(made: Bundle, folder: Path) -> str:
    files = {entry.path: made.read(entry.path) for entry in made.manifest.files}
    return str(write_bundle(made.manifest, files, folder))


async def opened(path: str, devices: tuple[str, ...] = (), **options: Any) -> ProcessHost:
    return await ProcessHost.open(path, devices, **{"max_pixels": 10**6, "load_timeout_s": 30.0, **options})


@asynccontextmanager
async def hosted(path: str, **options: Any) -> AsyncIterator[ProcessHost]:
    host = await opened(path, **options)
    try:
        yield host
    finally:
        await host.close()
        assert not alive(pid_of(host))


def pid_of(host: ProcessHost) -> int:
    return host._child.pid


def alive(pid: int) -> bool:
    """Whether there is such a process, zombies not counted."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children() -> set[int]:
    """The processes that this one started and has not reaped."""
    found = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == os.getpid():
                found.add(int(folder.name))
    return found


def open_files(pid: int) -> list[str]:
    """What the descriptors of a process point to."""
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that lists them
            found.append(str(entry.readlink()))
    return found


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not condition():  # noqa: ASYNC110  # processes have no event to wait for
            await asyncio.sleep(0.005)
