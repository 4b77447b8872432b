"""Processes of our own: what each is started with, what it is towards the system, and how its end is told.

`command`, `environment` and `ending` are the parent's; `end_with` and `give_way` are called by the child, first of all.
What is said between them, and what a child may do, is the business of whoever starts it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import penstock_models

# A driver is found and chosen by these; everything else of the environment stays outside.
_KEPT = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH")
_KEPT_PREFIXES = ("CUDA_", "NVIDIA_", "OPENVINO_", "INTEL_OPENVINO_", "ORT_")

_ROOT = Path(penstock_models.__file__).resolve().parent.parent
_PR_SET_PDEATHSIG = 1


def command(module: str, *arguments: object) -> list[str]:
    """The words that start a module as a program. The working directory is no place for its imports."""
    return [sys.executable, "-P", "-m", module, *map(str, arguments)]


def environment(outer: Mapping[str, str] = os.environ) -> dict[str, str]:
    """A child's environment: where to find programs and libraries, one thread where a library would start one a core."""
    given = [str(Path(place).resolve()) for place in outer.get("PYTHONPATH", "").split(os.pathsep) if place]
    kept = {k: v for k, v in outer.items() if k in _KEPT or k.startswith(_KEPT_PREFIXES)}
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join([str(_ROOT), *given]),
        "LC_ALL": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def end_with(parent: int) -> None:
    """Let the kernel kill this process, whatever it is at, when the thread that started it is gone; it may be gone already."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


def give_way(oom_score: int) -> None:
    """Be among the first to go when memory is short (of 1000 at most), and leave no core behind."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(oom_score))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def ending(code: int) -> str:
    """How a process ended, by its return code as of `subprocess`: `by SIGSEGV`, `with exit code 3`."""
    if code >= 0:
        return f"with exit code {code}"
    try:
        return f"by {signal.Signals(-code).name}"
    except ValueError:
        return f"by signal {-code}"
