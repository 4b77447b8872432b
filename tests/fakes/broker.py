"""A real Mosquitto on a free loopback port, for the tests that promise something about brokers.

    with mosquitto("max_queued_messages 100000") as broker:
        connect("127.0.0.1", broker.port)
        broker.restart()

It is a context manager for `with` and for `async with`. Its verbs block for some milliseconds, as a broker that starts
must be waited for; an async test that measures its loop calls them through `asyncio.to_thread`.
"""

from __future__ import annotations

import asyncio
import getpass
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

from penstock_sim.site.gateway import free_port

_START_S = 10.0
_STOP_S = 10.0


def mosquitto(config_text: str = "allow_anonymous true", *, folder: Path | None = None) -> Broker:
    """A broker that is not started yet: `with` does that.

    Args:
        config_text: lines that stand after `listener PORT 127.0.0.1`, so TLS options apply to that listener. Stock
            limits, persistence into `folder` and anonymous clients unless they say otherwise.
        folder: where its configuration, database and log lie; a temporary one when left out.
    """
    return Broker(config_text, folder)


class Broker:
    """One Mosquitto. `port` and `folder` stay the same over its starts; `log` is what it wrote."""

    host = "127.0.0.1"

    def __init__(self, config_text: str, folder: Path | None) -> None:
        self._own = tempfile.TemporaryDirectory(prefix="mosquitto-") if folder is None else None
        self.folder = Path(self._own.name) if self._own is not None else folder or Path()
        self.port = free_port()
        self._config_text = config_text
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"mqtt://{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "the broker is not running"
        return self._process.pid

    @property
    def log(self) -> str:
        path = self.folder / "mosquitto.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> None:
        """Start it, and wait until it accepts connections."""
        program = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
        assert program is not None, "Mosquitto is not installed: `make test` installs it"
        config = self.folder / "mosquitto.conf"
        config.write_text(self._config())
        with (self.folder / "mosquitto.log").open("ab") as log:
            self._process = subprocess.Popen([program, "-c", str(config)], stdout=log, stderr=log)
        self._wait_listening()

    def stop(self) -> None:
        """End it in order: it saves its database."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut would: what it did not save is gone."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        self.stop()
        self.start()

    def _config(self) -> str:
        lines = [
            f"listener {self.port} {self.host}",
            f"user {getpass.getuser()}",  # started by root it would otherwise give up its rights to the folder
            f"persistence_location {self.folder}/",
        ]
        if "persistence " not in self._config_text:
            lines.append("persistence true")
        if "allow_anonymous" not in self._config_text:
            lines.append("allow_anonymous true")
        return "\n".join([*lines, self._config_text, ""])

    def _wait_listening(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _START_S
        while True:
            try:
                socket.create_connection((self.host, self.port), timeout=1).close()
                return
            except OSError:
                code = self._process.poll()
                assert code is None, f"Mosquitto ended with {code}: {self.log[-2000:]}"
                assert time.monotonic() < deadline, f"Mosquitto does not listen: {self.log[-2000:]}"
                time.sleep(0.01)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(_STOP_S)
            self._process = None

    def __enter__(self) -> Broker:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(signal.SIGKILL)
        if self._own is not None:
            self._own.cleanup()

    async def __aenter__(self) -> Broker:
        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.__exit__, kind, error, trace)
