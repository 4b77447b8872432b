"""Where the process of a version begins: `python -m penstock_models.isolation.child SOCKET PARENT THREADS`.

Owns what the process is towards the system: it goes with its parent, leaves signals to it, and is the first to go when
memory is short. Imports little itself: everything heavy is imported by a thread that stands behind everybody else,
while this one keeps its priority, for it and the threads that it starts are the ones that serve.
"""

from __future__ import annotations

import signal
import sys
import threading

from penstock_models.background import step_back
from penstock_models.children import end_with, give_way

OOM_SCORE = 500  # before the gateway, after whatever asks for it


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
    give_way(OOM_SCORE)
    # The end of the socket says the same; this also ends a process that is stuck in an endless native call.
    end_with(parent)


def _import_behind() -> None:
    step_back()
    import penstock_models.isolation.serving  # noqa: F401


if __name__ == "__main__":
    main()
