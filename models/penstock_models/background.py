"""Puts the calling thread behind everybody else, for work that nobody waits for: loading a version.

Priorities of Linux are per thread and inherited by threads that it starts, and a thread without privilege cannot be
raised again. So whoever calls this stays behind, and what shall serve later is started by another thread. What a runtime
starts meanwhile by itself is raised where that is allowed: to root, and to whom RLIMIT_NICE allows it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import threading
from collections.abc import Set
from pathlib import Path

from penstock_models.slices import LONGEST_S, ask_for_slice

LOWEST_NICE = 19

_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30}
"""The number of ioprio_set(2), for which the C library has no function."""

_WHO_PROCESS = 1  # one thread, by its number; the calling one with 0
_CLASS_NONE = 0
_CLASS_IDLE = 3 << 13


def step_back() -> list[str]:
    """Give the calling thread the lowest priority for processor and disk; what could not be had, by name.

    The long slice belongs to it: beside a neighbour that computes 60 % of the time on the same core, a nice-19 thread
    with slices of 100 ms moved the neighbour's p99 by nothing, one with the kernel's own slices by 4 ms (a tick each
    time that its short turn is due), and SCHED_IDLE was between.
    """
    ask_for_slice(LONGEST_S)
    missing = []
    try:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST_NICE)
    except (OSError, AttributeError):  # priorities are per thread on Linux only
        missing.append(f"nice {LOWEST_NICE}")
    if not _set_io_class(0, _CLASS_IDLE):
        missing.append("the idle I/O class")
    return missing


def bring_forward(known: Set[int], nice: int) -> int:
    """Give the threads of this process that are not `known`, by their numbers, that nice value; how many stay behind."""
    behind = 0
    for thread in threads() - known:
        _set_io_class(thread, _CLASS_NONE)
        try:
            os.setpriority(os.PRIO_PROCESS, thread, nice)
        except ProcessLookupError:
            continue
        except PermissionError:
            behind += 1
    return behind


def stand_last() -> None:
    """Let every thread of this process run only where nobody else would; for its end.

    The kernel takes a process's memory back at the priority of its last thread, in one piece that no signal stops: 18 ms
    for 130 MB. A batch on that core waited for it at nice 19, and does not wait for `SCHED_IDLE`.
    """
    for thread in threads():
        with contextlib.suppress(OSError, AttributeError):  # it ended, or the system is not Linux
            os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))


def threads() -> set[int]:
    """The numbers of this process's threads; none where there is no /proc."""
    try:
        return {int(entry.name) for entry in Path("/proc/self/task").iterdir()}
    except OSError:
        return set()


def _set_io_class(thread: int, io_class: int) -> bool:
    number = _IOPRIO_SET.get(platform.machine())
    with contextlib.suppress(OSError, AttributeError):
        return number is not None and ctypes.CDLL(None).syscall(number, _WHO_PROCESS, thread, io_class) == 0
    return False
