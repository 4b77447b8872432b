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
    """The numbers of its calls.

    Args:
        audit: the kernel's name of the calling convention; `foreign` is the first number of another one beside it.
        sockets: denied. socket, connect, bind, listen, accept, accept4, sendto, sendmsg, sendmmsg, socketpair,
            io_uring_setup.
        processes: denied. execve, execveat, ptrace, process_vm_readv, process_vm_writev, pidfd_getfd, kill, tkill,
            rt_sigqueueinfo, rt_tgsigqueueinfo, pidfd_send_signal; where they are, fork and vfork.
        addressed: tgkill, prlimit64, which name a process first: it may be the caller only.
    """

    audit: int
    sockets: tuple[int, ...]
    processes: tuple[int, ...]
    addressed: tuple[int, ...]
    clone: int
    foreign: int | None = None


ARCHITECTURES = {
    "x86_64": Architecture(
        0xC000003E,
        sockets=(41, 42, 49, 50, 43, 288, 44, 46, 307, 53, 425),
        processes=(59, 322, 101, 310, 311, 438, 62, 200, 129, 297, 424, 57, 58),
        addressed=(234, 302),
        clone=56,
        foreign=0x40000000,
    ),
    "aarch64": Architecture(
        0xC00000B7,
        sockets=(198, 203, 200, 201, 202, 242, 206, 211, 269, 199, 425),
        processes=(221, 281, 117, 270, 271, 438, 129, 130, 138, 240, 424),
        addressed=(131, 261),
        clone=220,
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
_CLONE3 = 435


def program(machine: str, own: int) -> tuple[Instruction, ...] | None:
    """The filter for a machine as `platform.machine()` names it; None where its call numbers are not known here.

    Args:
        own: the number of the process that it is for.
    """
    known = ARCHITECTURES.get(machine)
    if known is None:
        return None
    return (
        (_LOAD, 0, 0, _CONVENTION),
        (_EQUAL, 1, 0, known.audit),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        *(_unless(_AT_LEAST, known.foreign, errno.EPERM) if known.foreign is not None else ()),
        *(
            part
            for number in known.sockets + known.processes
            for part in _unless(_EQUAL, number, errno.EPERM)
        ),
        *(part for number in known.addressed for part in _to_itself(number, own)),
        # Its flags lie in memory, where no filter looks; told that it is missing, the C library takes clone.
        *_unless(_EQUAL, _CLONE3, errno.ENOSYS),
        (_EQUAL, 0, 3, known.clone),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_ANY_BIT, 1, 0, _CLONE_THREAD),
        (_RETURN, 0, 0, _FAIL | errno.EPERM),
        (_RETURN, 0, 0, _ALLOW),
    )


def _unless(test: int, operand: int, error: int) -> tuple[Instruction, ...]:
    """Fail with `error` where the test holds."""
    return (test, 0, 1, operand), (_RETURN, 0, 0, _FAIL | error)


def _to_itself(number: int, own: int) -> tuple[Instruction, ...]:
    """Allow a call whose first argument is the caller, or 0, which means it; fail with EPERM for another process."""
    return (
        (_EQUAL, 0, 5, number),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_EQUAL, 2, 0, 0),
        (_EQUAL, 1, 0, own),
        (_RETURN, 0, 0, _FAIL | errno.EPERM),
        (_RETURN, 0, 0, _ALLOW),
    )


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
