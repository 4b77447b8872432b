"""The system-call filter of a vetting child, as a classic BPF program: which calls it may not make.

Pure: numbers in, instructions out; installing it is `confine`'s. The child needs files, memory and threads. It needs no
socket, no other program and no other process, so these calls fail with EPERM. io_uring is among them, since it opens
sockets past every filter.
"""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Sequence
from typing import NamedTuple

Instruction = tuple[int, int, int, int]
"""Code, jump if true, jump if false, operand."""


class Architecture(NamedTuple):
    """`audit` is the kernel's name of the calling convention; `foreign` the first number of another one beside it."""

    audit: int
    denied: tuple[int, ...]
    clone: int
    clone3: int
    foreign: int | None


# In both: socket, connect, bind, listen, accept, accept4, sendto, sendmsg, sendmmsg, socketpair; execve, execveat;
# ptrace, process_vm_readv, process_vm_writev, pidfd_getfd, kill; io_uring_setup. On x86_64 also fork and vfork.
ARCHITECTURES = {
    "x86_64": Architecture(
        0xC000003E,
        (41, 42, 49, 50, 43, 288, 44, 46, 307, 53, 59, 322, 101, 310, 311, 438, 62, 425, 57, 58),
        clone=56,
        clone3=435,
        foreign=0x40000000,
    ),
    "aarch64": Architecture(
        0xC00000B7,
        (198, 203, 200, 201, 202, 242, 206, 211, 269, 199, 221, 281, 117, 270, 271, 438, 129, 425),
        clone=220,
        clone3=435,
        foreign=None,
    ),
}

_LOAD = 0x20
_EQUAL = 0x15
_AT_LEAST = 0x35
_ANY_BIT = 0x45
_RETURN = 0x06

_ALLOW = 0x7FFF0000
_KILL = 0x80000000
_FAIL = 0x00050000

_NUMBER, _CONVENTION, _FIRST_ARGUMENT = 0, 4, 16
_CLONE_THREAD = 0x00010000


def program(machine: str) -> tuple[Instruction, ...] | None:
    """The filter for a machine as `platform.machine()` names it; None where its call numbers are not known here."""
    known = ARCHITECTURES.get(machine)
    if known is None:
        return None
    return (
        (_LOAD, 0, 0, _CONVENTION),
        (_EQUAL, 1, 0, known.audit),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        *(_unless(_AT_LEAST, known.foreign, errno.EPERM) if known.foreign is not None else ()),
        *(part for number in known.denied for part in _unless(_EQUAL, number, errno.EPERM)),
        # Its flags lie in memory, where no filter looks; told that it is missing, the C library takes clone.
        *_unless(_EQUAL, known.clone3, errno.ENOSYS),
        (_EQUAL, 0, 3, known.clone),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_ANY_BIT, 1, 0, _CLONE_THREAD),
        (_RETURN, 0, 0, _FAIL | errno.EPERM),
        (_RETURN, 0, 0, _ALLOW),
    )


def _unless(test: int, operand: int, error: int) -> tuple[Instruction, ...]:
    """Fail with `error` where the test holds."""
    return (test, 0, 1, operand), (_RETURN, 0, 0, _FAIL | error)


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("true", ctypes.c_uint8),
        ("false", ctypes.c_uint8),
        ("operand", ctypes.c_uint32),
    )


class FilterProgram(ctypes.Structure):
    """struct sock_fprog, as the kernel takes it."""

    _fields_ = (("length", ctypes.c_uint16), ("filter", ctypes.POINTER(_Instruction)))

    @classmethod
    def of(cls, code: Sequence[Instruction]) -> FilterProgram:
        array = (_Instruction * len(code))(*(_Instruction(*instruction) for instruction in code))
        return cls(len(code), array)
