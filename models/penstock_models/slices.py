"""Asks the kernel for a long time slice, for threads that compute.

Linux from 6.12 on lets a thread say how long it wants to run at a time. A thread that wakes up with a shorter slice gets
its core at once instead of at the next tick, while everybody's share of the processor stays as it was. So a broker, an
event loop and whatever else answers somebody waits for an inference no longer, and no privilege is needed. Where the
kernel is older, or another, nothing changes.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import struct
import threading

LONGEST_S = 0.1
"""The longest slice that Linux grants."""

_SET = {"x86_64": 314, "aarch64": 274, "riscv64": 274}
"""The number of sched_setattr(2), for which the C library has no function everywhere."""

_ATTR = struct.Struct("=IIQiIQQQ")
"""struct sched_attr: size, policy, flags, nice, priority, runtime, deadline, period."""


def ask_for_slice(seconds: float) -> bool:
    """Ask for slices of that length for the calling thread; False where the kernel knows no such wish."""
    number = _SET.get(platform.machine())
    if number is None or not hasattr(os, "sched_getscheduler"):
        return False
    policy = os.sched_getscheduler(0)
    if policy not in (os.SCHED_OTHER, os.SCHED_BATCH):  # who chose another one knows why
        return False
    nice = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    attributes = _ATTR.pack(_ATTR.size, policy, 0, nice, 0, int(seconds * 1e9), 0, 0)
    with contextlib.suppress(OSError):
        return bool(ctypes.CDLL(None).syscall(number, 0, ctypes.c_char_p(attributes), 0) == 0)
    return False
