"""Where the process of a version begins: `python -m penstock_models.isolation.child SOCKET PARENT THREADS`.

Owns what the process is towards the system: it goes with its parent, leaves signals to it, and is the first to go when
memory is short. Imports little itself: everything heavy is imported by a thread that stands behind everybody else,
while this one keeps its priority, for it and the threads that it starts are the ones that serve.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
import threading
from pathlib import Path

from penstock_models.background import step_back

_PR_SET_PDEATHSIG = 1
_OOM_SCORE = "500"  # of 1000: before the gateway, after whatever asks for it


def main() -> None:
    """Serve until the parent is done."""
    end, parent, threads = (int(argument) for argument in sys.argv[1:4])
    _settle_in(parent)
    behind = threading.Thread(target=_import_behind, name="penstock-import")
    behind.start()
    behind.join()

    from penstock_models.isolation.serving import serve

    serve(end, threads)


def _settle_in(parent: int) -> None:
    # A parent that drains at SIGTERM, or is stopped by ^C, still needs this process; it ends with the socket.
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)
    # The end of the socket says the same; this also ends a process that is stuck in an endless native call.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it went before the line above
        os._exit(0)


def _import_behind() -> None:
    step_back()
    import penstock_models.isolation.serving  # noqa: F401


if __name__ == "__main__":
    main()
