"""A computing thread's wish for long slices: granted where the kernel knows it, and never an error."""

import ctypes
import os
import platform
import struct
import threading
from collections.abc import Callable

import pytest

from penstock_models import slices
from penstock_models.slices import LONGEST_S, ask_for_slice

GET = {"x86_64": 315, "aarch64": 275, "riscv64": 275}


def in_a_thread(act: Callable[[], object]) -> list[object]:
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(act()))
    thread.start()
    thread.join()
    return found


def granted() -> tuple[int, float]:
    """(nice, slice in seconds) of the calling thread, by sched_getattr(2)."""
    buffer = ctypes.create_string_buffer(slices._ATTR.size)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.syscall(GET[platform.machine()], 0, buffer, slices._ATTR.size, 0) == 0
    _, _, _, nice, _, runtime, _, _ = struct.unpack("=IIQiIQQQ", buffer.raw)
    return nice, runtime / 1e9


def kernel() -> tuple[int, int]:
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int("".join(c for c in minor if c.isdigit()))


@pytest.mark.skipif(
    platform.machine() not in GET or not hasattr(os, "uname") or kernel() < (6, 12),
    reason="slices are Linux's from 6.12 on",
)
def test_a_thread_gets_its_slice_and_keeps_its_priority() -> None:
    def ask() -> tuple[bool, tuple[int, float]]:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 3)
        return ask_for_slice(LONGEST_S), granted()

    assert in_a_thread(ask) == [(True, (3, LONGEST_S))]
    assert in_a_thread(granted) != [(0, LONGEST_S)], "it is the thread's own"


def test_where_the_kernel_knows_no_slices_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "pdp11")
    assert in_a_thread(lambda: ask_for_slice(LONGEST_S)) == [False]
    monkeypatch.undo()
    monkeypatch.setitem(slices._SET, platform.machine(), 1 << 20)  # no such system call
    assert in_a_thread(lambda: ask_for_slice(LONGEST_S)) == [False]
