"""What a vetting child may no longer do: the filter as a table of calls, and the kernel's own word for it."""

import platform
import subprocess
import sys
from errno import ENOSYS, EPERM

import pytest

from penstock_models.vetting.filter import ARCHITECTURES, program

ALLOWED = 0
KILLED = -1
THREAD = 0x3D0F00  # what the C library's pthread_create passes to clone
FORK = 0x1200011
OWN = 7


def verdict(machine: str, number: int, argument: int = 0, convention: int | None = None) -> int:
    """What the kernel would do with a call: ALLOWED, KILLED, or the error that it gets."""
    code = program(machine, OWN)
    assert code is not None
    data = {0: number, 4: ARCHITECTURES[machine].audit if convention is None else convention, 16: argument}
    accumulator = place = 0
    while True:
        operation, true, false, operand = code[place]
        place += 1
        if operation == 0x06:
            return {0x7FFF: ALLOWED, 0x8000: KILLED}.get(operand >> 16, operand & 0xFFFF)
        if operation == 0x20:
            accumulator = data[operand]
            continue
        holds = {
            0x15: accumulator == operand,
            0x35: accumulator >= operand,
            0x45: bool(accumulator & operand),
        }
        place += true if holds[operation] else false


# Numbers as in asm/unistd.h: name, x86_64, aarch64.
DENIED = [
    ("socket", 41, 198),
    ("connect", 42, 203),
    ("bind", 49, 200),
    ("sendto", 44, 206),
    ("socketpair", 53, 199),
    ("execve", 59, 221),
    ("execveat", 322, 281),
    ("ptrace", 101, 117),
    ("process_vm_writev", 311, 271),
    ("pidfd_getfd", 438, 438),
    ("pidfd_send_signal", 424, 424),
    ("kill", 62, 129),
    ("tkill", 200, 130),
    ("rt_sigqueueinfo", 129, 138),
    ("rt_tgsigqueueinfo", 297, 240),
    ("io_uring_setup", 425, 425),
]
NEEDED = [
    ("read", 0, 63),
    ("write", 1, 64),
    ("openat", 257, 56),
    ("mmap", 9, 222),
    ("futex", 202, 98),
    ("exit_group", 231, 94),
]


@pytest.mark.parametrize(("name", "x86_64", "aarch64"), DENIED, ids=[d[0] for d in DENIED])
def test_calls_that_fail(name: str, x86_64: int, aarch64: int) -> None:
    assert (verdict("x86_64", x86_64), verdict("aarch64", aarch64)) == (EPERM, EPERM)


@pytest.mark.parametrize(("name", "x86_64", "aarch64"), NEEDED, ids=[n[0] for n in NEEDED])
def test_calls_that_a_model_needs(name: str, x86_64: int, aarch64: int) -> None:
    assert (verdict("x86_64", x86_64), verdict("aarch64", aarch64)) == (ALLOWED, ALLOWED)


@pytest.mark.parametrize(
    ("machine", "number"), [("x86_64", 234), ("aarch64", 131), ("x86_64", 302), ("aarch64", 261)]
)
def test_a_thread_is_signalled_and_a_limit_set_in_the_process_alone(machine: str, number: int) -> None:
    """tgkill, which abort takes, and prlimit64, which setrlimit is."""
    assert [verdict(machine, number, process) for process in (OWN, 0, 1)] == [ALLOWED, ALLOWED, EPERM]


@pytest.mark.parametrize(("machine", "clone"), [("x86_64", 56), ("aarch64", 220)])
def test_threads_may_be_started_and_processes_not(machine: str, clone: int) -> None:
    assert verdict(machine, clone, THREAD) == ALLOWED
    assert verdict(machine, clone, FORK) == EPERM
    assert verdict(machine, 435, THREAD) == ENOSYS  # clone3: its flags cannot be seen


def test_another_calling_convention_is_no_way_around() -> None:
    assert verdict("x86_64", 41, convention=0x40000003) == KILLED  # i386
    assert verdict("x86_64", 0x40000029) == EPERM  # x32
    assert program("riscv64", OWN) is None


TRIES = {
    "socket": "socket.socket()",
    "unix socket": "socket.socket(socket.AF_UNIX)",
    "pair": "socket.socketpair()",
    "program": "os.execv('/bin/true', ['true'])",
    "fork": "os.fork()",
    "subprocess": "subprocess.run(['/bin/true'])",
    "signal": "os.kill(os.getppid(), 0)",
    "limit": "resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE)",
    "own thread": "signal.pthread_kill(threading.get_ident(), 0)",
    "write": "os.write(os.memfd_create('x'), bytes(2 << 20))",
    "file": "open('new', 'w')",
}


@pytest.mark.skipif(
    platform.machine() not in ARCHITECTURES,
    reason=f"no filter for {platform.machine()}: said in each verdict",
)
def test_the_kernel_keeps_to_it() -> None:
    """One process that gave its rights up as a child does tries everything, then starts a thread."""
    code = f"""
import os, resource, signal, socket, subprocess, tempfile, threading
from penstock_models.children import end_with
from penstock_models.vetting import confine
end_with(os.getppid()); confine.step_back()
print(confine.cut_off())
confine.limit(1 << 30, 10, ())
os.chdir(folder := tempfile.mkdtemp()); os.rmdir(folder)
for name, act in {TRIES!r}.items():
    try:
        print(name, eval(act))
    except OSError as error:
        print(name, type(error).__name__)
thread = threading.Thread(target=print, args=('thread runs',)); thread.start(); thread.join()
print(os.getpriority(os.PRIO_PROCESS, 0), open('/proc/self/oom_score_adj').read().strip())
try:
    bytes(2 << 30)
except MemoryError:
    print('no memory')
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "seccomp",
        "socket PermissionError",
        "unix socket PermissionError",
        "pair PermissionError",
        "program PermissionError",
        "fork PermissionError",
        "subprocess PermissionError",
        "signal PermissionError",
        "limit PermissionError",
        "own thread None",
        f"write {1 << 20}",
        "file FileNotFoundError",
        "thread runs",
        "19 1000",
        "no memory",
    ]


def test_without_the_filter_it_is_a_namespace_or_said_to_be_open() -> None:
    """Where the machine's call numbers are not known: no network in a namespace of its own, if the kernel grants one."""
    code = """
import errno, socket
from penstock_models.children import end_with
from penstock_models.vetting import confine
confine.program = lambda machine, own: None
print(confine.cut_off())
with socket.socket() as tried:
    print(errno.errorcode[tried.connect_ex(('127.0.0.1', 9))])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.stderr == ""
    assert done.stdout.split() in (["namespace", "ENETUNREACH"], ["open", "ECONNREFUSED"])
