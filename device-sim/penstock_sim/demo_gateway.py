"""The gateway of the demo: a real `penstock gateway run` as a child process, with its files in one folder.

Owns the folder's content, the child's life and its status page. What is published to it and shown belongs to `demo`.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import aiohttp

from penstock_models.errors import PenstockError, UsageError

SITE = "home"
MODELS = ("yard", "vibration")
COMMAND = (sys.executable, "-m", "penstock_models.main", "gateway", "run")

_READY_S = 30.0
_STOP_S = 15.0
_POLL_S = 0.05
_PAGE_TIMEOUT = aiohttp.ClientTimeout(5)
_LOG_TAIL = 2000
_PR_SET_PDEATHSIG = 1


class Gateway:
    """A running gateway. `url` is its broker, `log` the file that it writes its log to."""

    def __init__(self, process: asyncio.subprocess.Process, url: str, page: str, log: Path) -> None:
        self.url, self.log = url, log
        self._process, self._page = process, page

    async def status(self) -> dict[str, Any]:
        """The status page of contracts 8.

        Raises:
            PenstockError: the gateway does not answer.
        """
        url = f"{self._page}/v1/status"
        try:
            async with aiohttp.ClientSession(timeout=_PAGE_TIMEOUT) as session, session.get(url) as answer:
                page: dict[str, Any] = await answer.json()
                return page
        except (aiohttp.ClientError, TimeoutError) as error:
            raise PenstockError(f"expected the gateway's status at {url}: {error}; {self.ending()}") from None

    async def drained(self, sent: int, timeout_s: float) -> dict[str, Any]:
        """The status page once all that was `sent` is received and settled, or the last one after `timeout_s`."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        page = await self.status()
        while _open(page["ledger"], sent) and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(_POLL_S)
            page = await self.status()
        return page

    async def ready(self) -> None:
        """Wait until it is subscribed and every model is available."""
        try:
            async with asyncio.timeout(_READY_S), aiohttp.ClientSession() as session:
                while not await self._is_ready(session):  # noqa: ASYNC110  # another process sets no event here
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise PenstockError(f"the gateway was not ready within {_READY_S:g} s; {self.ending()}") from None

    async def stop(self) -> int:
        """SIGTERM, so that it drains; SIGKILL when that takes too long. Returns its exit code."""
        if self._process.returncode is None:
            self._process.terminate()
        try:
            return await asyncio.wait_for(self._process.wait(), _STOP_S)
        except TimeoutError:
            self._process.kill()
            return await self._process.wait()

    def ending(self) -> str:
        """Where its log is, and its last line."""
        lines = self.log.read_text(errors="replace")[-_LOG_TAIL:].strip().splitlines()
        return f"its log {self.log} ends with: {lines[-1]}" if lines else f"its log {self.log} is empty"

    async def _is_ready(self, session: aiohttp.ClientSession) -> bool:
        if self._process.returncode is not None:
            raise PenstockError(f"the gateway ended with {self._process.returncode}; {self.ending()}")
        try:
            async with session.get(f"{self._page}/readyz") as answer:
                return answer.status == 200
        except aiohttp.ClientConnectionError:
            return False


def prepare(folder: Path) -> Path:
    """Copy the packaged configuration and models into `folder`; returns the configuration.

    Raises:
        UsageError: a model of the demo is not packaged.
    """
    models, samples = resources.files("penstock_models") / "demo", resources.files("penstock_sim") / "samples"
    bundles = [entry for entry in models.iterdir() if entry.name.endswith(".bundle")]
    for name in MODELS:
        if not any(entry.name.startswith(f"{name}-") for entry in bundles):
            raise UsageError(
                f"expected the demo's model {name!r} in {models}, found none; install penstock again"
            )
    (folder / "bundles").mkdir(parents=True)
    for entry in bundles:
        with resources.as_file(entry) as file:
            shutil.copyfile(file, folder / "bundles" / entry.name)
    config = folder / "gateway.toml"
    config.write_bytes((samples / "demo.toml").read_bytes())
    return config


@asynccontextmanager
async def gateway(config: Path) -> AsyncIterator[Gateway]:
    """Run the gateway on free ports, in a session of its own: a Ctrl-C in the terminal is the demo's to handle."""
    mqtt, http = free_port(), free_port()
    log = config.with_name("gateway.log")
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *COMMAND,
            "-c",
            str(config),
            env=_environment(mqtt, http),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=_die_with_parent(),
        )
    running = Gateway(process, f"mqtt://127.0.0.1:{mqtt}", f"http://127.0.0.1:{http}", log)
    try:
        yield running
    finally:
        await asyncio.shield(running.stop())


def _environment(mqtt: int, http: int) -> dict[str, str]:
    """Ours, and none of the user's own PENSTOCK_*: those are for another gateway's configuration."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PENSTOCK_")}
    return kept | {
        "PENSTOCK_MQTT__LISTEN": f"127.0.0.1:{mqtt}",
        "PENSTOCK_HTTP__LISTEN": f"127.0.0.1:{http}",
    }


def _open(ledger: dict[str, int], sent: int) -> bool:
    return ledger["in_flight"] > 0 or ledger["received"] < sent


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _die_with_parent() -> Any:
    """What the child calls before it becomes the gateway: when the demo is killed, nobody is left to drain it for."""
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
