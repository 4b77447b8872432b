"""Measures the memory of the box: what the machine and the control groups leave, and what this process and its children
take. A thin port over /proc and /sys/fs/cgroup (both versions); a file that is missing is a limit less.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from penstock_models.resident import proportional_bytes
from penstock_models.versions.memory import Room

MAX_PROCESSES = 256


class Box(Protocol):
    """Where memory is measured. Blocks for milliseconds."""

    def room(self) -> Room: ...

    def footprint(self) -> int:
        """Bytes that this process and its descendants take."""


class _Group(NamedTuple):
    """Names of a control group's files: version 2, version 1."""

    limit: str
    usage: str
    reclaimable: str


_V2 = _Group("memory.max", "memory.current", "inactive_file")
_V1 = _Group("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


class SystemBox:
    """The machine that this process runs on; `root` is where its /proc and /sys lie."""

    def __init__(self, budget_bytes: int | None = None, root: Path = Path("/")) -> None:
        self._budget = budget_bytes
        self._root = root

    def room(self) -> Room:
        """What is left: the least that the machine and any of the process's control groups has."""
        meminfo = _table(self._root / "proc/meminfo")
        limits = [meminfo.get("MemTotal", 0)]
        available = [meminfo.get("MemAvailable", meminfo.get("MemFree", 0))]
        for folder, names in self._groups():
            limit, usage = _number(folder / names.limit), _number(folder / names.usage)
            if limit is None or usage is None:
                continue  # `max`, or no such file at the root group
            # The page cache goes first when a group is full: what of it is old is as good as free.
            reclaimable = _table(folder / "memory.stat").get(names.reclaimable, 0)
            limits.append(limit)
            available.append(limit - max(0, usage - reclaimable))
        return Room(min(limits), max(0, min(available)), self._budget)

    def footprint(self) -> int:
        return sum(self._taken(pid) for pid in self._family())

    def _groups(self) -> Iterator[tuple[Path, _Group]]:
        """The memory groups of this process, from its own up to the root."""
        mount = self._root / "sys/fs/cgroup"
        for line in _lines(self._root / "proc/self/cgroup"):
            number, _, rest = line.partition(":")
            controllers, _, path = rest.partition(":")
            if number == "0" and not controllers:
                yield from ((folder, _V2) for folder in _upwards(mount, path))
            elif "memory" in controllers.split(","):
                yield from ((folder, _V1) for folder in _upwards(mount / "memory", path))

    def _family(self) -> list[int]:
        """This process and all below it, as far as they can be seen."""
        found = [os.getpid()]
        for pid in found:
            for task in _ids(self._root / f"proc/{pid}/task"):
                for line in _lines(self._root / f"proc/{pid}/task/{task}/children"):
                    found += [int(child) for child in line.split()]
            if len(found) >= MAX_PROCESSES:
                break
        return found[:MAX_PROCESSES]

    def _taken(self, pid: int) -> int:
        """Its share of what it maps."""
        try:
            return proportional_bytes(pid, self._root / "proc")
        except OSError:  # it ended since it was listed
            return 0


def _upwards(mount: Path, path: str) -> Iterator[Path]:
    """A group's folder and those above it. In a container the path may be the host's, and only the mount be there."""
    folder = mount / path.strip("/")
    while folder != mount and mount in folder.parents:
        yield folder
        folder = folder.parent
    yield mount


def _lines(path: Path) -> Iterator[str]:
    try:
        yield from path.read_text("ascii", "replace").splitlines()
    except OSError:
        return


def _number(path: Path) -> int | None:
    text = next(_lines(path), "")
    return int(text) if text.isdigit() else None


def _table(path: Path) -> dict[str, int]:
    """`NAME: 12 kB` or `NAME 12` a line, in bytes."""
    found: dict[str, int] = {}
    for line in _lines(path):
        words = line.replace(":", " ").split()
        if len(words) >= 2 and words[1].isdigit():
            found[words[0]] = int(words[1]) * (1024 if words[2:] == ["kB"] else 1)
    return found


def _ids(path: Path) -> list[int]:
    try:
        return [int(name) for name in os.listdir(path)]  # noqa: PTH208 - names alone are wanted
    except OSError:
        return []
