"""The thread in which a device's session runs, and how the others reach it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable

from penstock_models.errors import told
from penstock_sim.device.session import Session
from penstock_sim.device.shared import Shared

log = logging.getLogger(__name__)

_JOIN_S = 5.0


class SessionThread:
    """Begins at once. `failure` says why it ended by itself, "" where it did not."""

    def __init__(self, name: str, session: Session, shared: Shared) -> None:
        self.failure = ""
        self._name, self._session, self._shared = name, session, shared
        self._pumping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        started = threading.Event()
        self._thread = threading.Thread(
            target=self._serve, args=(started,), name=f"device-{name}", daemon=True
        )
        self._thread.start()
        started.wait()

    @property
    def is_current(self) -> bool:
        """Whether the caller runs in it."""
        return threading.current_thread() is self._thread

    def wake(self) -> None:
        """Have the session look for what to send; once for many frames."""
        if not self._pumping:
            self._pumping = True
            self._call(self._pump)

    def end(self) -> None:
        """Have the session say goodbye, and wait for it."""
        self._call(self._session.end)
        self._thread.join(_JOIN_S)

    def _serve(self, started: threading.Event) -> None:
        async def main() -> None:
            self._loop = asyncio.get_running_loop()
            self._loop.call_soon(started.set)
            await self._session.run()

        try:
            asyncio.run(main())
        except Exception as error:
            log.exception("device %s: its thread ended", self._name)
            with self._shared.changed:
                self.failure = f"the device's thread ended: {told(error)}"
                self._shared.online = False
                self._shared.changed.notify_all()
        finally:
            started.set()
            self._shared.results.end()

    def _pump(self) -> None:
        self._pumping = False
        self._session.pump()

    def _call(self, what: Callable[[], None]) -> None:
        if self._loop is None:
            return  # it failed before there was one
        try:
            self._loop.call_soon_threadsafe(what)
        except RuntimeError:  # the loop has ended: `failure` says why
            pass
