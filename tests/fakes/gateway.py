"""A real gateway process for the system tests, and how they talk to it.

    with gateway(config_text, tmp_path) as gw:
        gw.wait_ready()
        gw.ledger()["answered"]
        gw.kill(); gw.start()

Its verbs block; an async test that measures its loop calls them through `asyncio.to_thread`.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from penstock_sim.site.gateway import free_port

_VERDICTS = tempfile.TemporaryDirectory(prefix="penstock-verdicts-")
"""What the tests' gateways share: each model is tried in a limited process once a session, not at each start."""

_READY_S = 30.0
_STOP_S = 30.0


def gateway(config_text: str, folder: Path) -> Gateway:
    """A gateway that is not started yet: `with` does that. `[http]` is added with a free port."""
    return Gateway(config_text, folder)


class Gateway:
    """One gateway over its starts; `log` is what all of them wrote."""

    def __init__(self, config_text: str, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.config = folder / "gateway.toml"
        self.config.write_text(f'{config_text}\n[http]\nlisten = "127.0.0.1:{self.port}"\n')
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "state").mkdir(exist_ok=True)
        if not (verdicts := folder / "state" / "verdicts").exists():
            verdicts.symlink_to(_VERDICTS.name)

    @property
    def pid(self) -> int:
        assert self._process is not None, "the gateway is not running"
        return self._process.pid

    @property
    def log(self) -> str:
        path = self.folder / "gateway.log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def events(self) -> list[dict[str, Any]]:
        """The log's lines that are ours."""
        return [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]

    def command(self) -> list[str]:
        return [sys.executable, "-m", "penstock_models.main", "gateway", "run", "-c", str(self.config)]

    def start(self) -> None:
        with (self.folder / "gateway.log").open("ab") as log:
            self._process = subprocess.Popen(self.command(), stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def wait_ready(self) -> None:
        """Wait until it is subscribed and every model is available."""
        self.wait_for(lambda: self.get("/readyz")[0] == 200, "is not ready", _READY_S)

    def wait_for(self, condition: Callable[[], bool], what: str, timeout_s: float = 20.0) -> None:
        """Wait until a condition about it holds."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert self._process is None or self._process.poll() is None, (
                f"the gateway ended: {self.log[-3000:]}"
            )
            assert time.monotonic() < deadline, f"the gateway {what} after {timeout_s} s: {self.log[-3000:]}"
            time.sleep(0.02)

    def get(self, path: str) -> tuple[int, bytes]:
        """(status, body) of a page; status 0 while nobody listens."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except OSError:
            return 0, b""

    def status(self) -> dict[str, Any]:
        code, body = self.get("/v1/status")
        assert code == 200, body
        page: dict[str, Any] = json.loads(body)
        return page

    def ledger(self) -> dict[str, Any]:
        """The totals of this start."""
        totals: dict[str, Any] = self.status()["ledger"]
        return totals

    def wait_settled(self, received: int, timeout_s: float = 20.0) -> dict[str, Any]:
        """Wait until so many frames were received and all have their fate; returns the ledger."""
        self.wait_for(
            lambda: (now := self.ledger())["received"] >= received and now["in_flight"] == 0,
            f"has not settled {received} frames",
            timeout_s,
        )
        return self.ledger()

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """A signal that drains it, and wait; returns the exit code."""
        return self._end(how)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> int:
        if self._process is None:
            return 0
        self._process.send_signal(how)
        code = self._process.wait(_STOP_S)
        self._process = None
        return code

    def __enter__(self) -> Gateway:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(signal.SIGKILL)
