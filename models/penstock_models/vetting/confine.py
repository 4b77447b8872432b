"""Takes rights and resources away from the calling process: for a child that is about to load a foreign model.

Owns the kernel's calls for it: priorities, resource limits, a filter that leaves no way to the network or to another
process. All of it works without privileges; what a kernel does not have is left out, and `cut_off` says so by name.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
from pathlib import Path
from typing import Literal

from penstock_models import background, children
from penstock_models.vetting.filter import FilterProgram, program

MAX_OPEN_FILES = 64
OOM_SCORE = 1000
MAX_FILE_BYTES = 1024**2
HOST_DEVICES = frozenset({"cpu", "openvino", "xnnpack"})

Network = Literal["seccomp", "namespace", "open"]

_SET_SECCOMP = 22
_SET_NO_NEW_PRIVS = 38
_SECCOMP_MODE_FILTER = 2
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


def step_back() -> None:
    """Run after everybody else: lowest priority for processor and disk, first to go where memory runs out, no core."""
    background.step_back()
    children.give_way(OOM_SCORE)
    _lower(resource.RLIMIT_NOFILE, MAX_OPEN_FILES)


def cut_off() -> Network:
    """Leave no way to the network; with the filter, none to other processes either. Before any thread is started.

    Returns:
        What keeps the process off the network.
    """
    if _filtered():
        return "seccomp"
    with contextlib.suppress(AttributeError):
        if _libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0:
            return "namespace"
    return "open"


def limit(memory_bytes: int, cpu_s: int, devices: tuple[str, ...], file_bytes: int = MAX_FILE_BYTES) -> None:
    """Bound what the process may take from now on, beyond what it has.

    Args:
        memory_bytes: of address space. A driver of an accelerator maps more than there is memory, so where one is wanted
            only private memory is bounded.
        cpu_s: processor time; then the kernel ends it by SIGXCPU.
        file_bytes: of any file that it writes.
    """
    size, data = _mapped()
    _lower(resource.RLIMIT_DATA, data + memory_bytes)
    if HOST_DEVICES.issuperset(devices):
        _lower(resource.RLIMIT_AS, size + memory_bytes)
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime) + 1 + cpu_s
    _lower(resource.RLIMIT_CPU, soft, soft + 2)
    _lower(resource.RLIMIT_FSIZE, file_bytes)


def _filtered() -> bool:
    code = program(platform.machine(), os.getpid())
    if code is None or _libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    held = FilterProgram.of(code)
    return bool(_libc.prctl(_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(held), 0, 0) == 0)


def _lower(which: int, soft: int, hard: int | None = None) -> None:
    """Never above the limit that the process was given."""
    given = resource.getrlimit(which)[1]
    wanted = [soft, soft if hard is None else hard]
    if given != resource.RLIM_INFINITY:
        wanted = [min(value, given) for value in wanted]
    resource.setrlimit(which, (wanted[0], wanted[1]))


def _mapped() -> tuple[int, int]:
    """Bytes of address space, and of private writable memory with the stack."""
    pages = [int(field) for field in Path("/proc/self/statm").read_text().split()]
    page = resource.getpagesize()
    return pages[0] * page, pages[5] * page
