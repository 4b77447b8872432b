"""The gateway of a run or a demo: a real `penstock gateway run` as a child process, and what its pages say.

Owns the child's environment and the HTTP calls. What is published to it and shown belongs to others.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from penstock_models.errors import PenstockError, UsageError
from penstock_sim.site.child import Child

SITE = "home"
MODELS = ("yard", "vibration")
COMMAND = (sys.executable, "-m", "penstock_models.main", "gateway", "run")

_READY_S = 30.0
_POLL_S = 0.05
_PAGE_TIMEOUT = aiohttp.ClientTimeout(5)


class Pages:
    """The HTTP pages of a gateway at `base`, a URL without a path."""

    def __init__(self, base: str, token: str | None = None) -> None:
        self._base = base.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    async def status(self) -> dict[str, Any]:
        """The status page of contracts 8.

        Raises:
            PenstockError: the gateway does not answer with one.
        """
        code, text = await self.get("/v1/status")
        if code != 200:
            raise PenstockError(
                f"expected the gateway's status at {self._base}/v1/status, came {code}: {text[:200]}"
            )
        return dict(_json(text))

    async def metrics(self) -> str:
        """The metrics in Prometheus' text form.

        Raises:
            PenstockError: the gateway does not answer with them.
        """
        code, text = await self.get("/metrics")
        if code != 200:
            raise PenstockError(f"expected the gateway's metrics at {self._base}/metrics, came {code}")
        return text

    async def ready(self) -> bool:
        """Whether it is subscribed and every model is available; False where nobody answers."""
        try:
            return (await self.get("/readyz"))[0] == 200
        except PenstockError:
            return False

    async def drained(self, sent: int, timeout_s: float, quiet_s: float = 3.0) -> dict[str, Any]:
        """The status page once all that was `sent` is received and settled; else the last one after `timeout_s`, or
        after `quiet_s` in which no frame came or was settled."""
        now = asyncio.get_running_loop().time
        end = now() + timeout_s
        page, since = await self.status(), now()
        while _open(page["ledger"], sent) and now() < min(end, since + quiet_s):
            await asyncio.sleep(_POLL_S)
            before, page = page, await self.status()
            if page["ledger"] != before["ledger"]:
                since = now()
        return page

    async def get(self, path: str) -> tuple[int, str]:
        """Status and body of a page.

        Raises:
            PenstockError: nobody answers.
        """
        url = self._base + path
        try:
            async with (
                aiohttp.ClientSession(timeout=_PAGE_TIMEOUT, headers=self._headers) as session,
                session.get(url) as answer,
            ):
                return answer.status, await answer.text()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise PenstockError(f"expected a gateway at {url}: {error or 'no answer within 5 s'}") from None


class Gateway:
    """A gateway as a child. `pages` are its own, `url` is its broker's where it brings one."""

    def __init__(self, config: Path, log: Path, more: dict[str, str], http: int, url: str) -> None:
        environment = _clean_environment() | {"PENSTOCK_HTTP__LISTEN": f"127.0.0.1:{http}"} | more
        self.child = Child((*COMMAND, "-c", str(config)), log, environment)
        self.pages, self.url = Pages(f"http://127.0.0.1:{http}"), url

    async def ready(self) -> None:
        """Wait until it is subscribed and every model is available.

        Raises:
            PenstockError: it ended, or is not ready within 30 s.
        """
        try:
            async with asyncio.timeout(_READY_S):
                while not await self.pages.ready():
                    if not self.child.running:
                        ending = self.child.ending()
                        raise PenstockError(f"the gateway ended with {self.child.returncode}; {ending}")
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            ending = self.child.ending()
            raise PenstockError(f"the gateway was not ready within {_READY_S:g} s; {ending}") from None

    async def status(self) -> dict[str, Any]:
        """Its status page.

        Raises:
            PenstockError: it does not answer; with the end of its log.
        """
        try:
            return await self.pages.status()
        except PenstockError as error:
            raise PenstockError(f"{error}; {self.child.ending()}") from None


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
async def with_own_broker(config: Path) -> AsyncIterator[Gateway]:
    """Run a gateway that brings a broker along, on free ports."""
    mqtt, http = free_port(), free_port()
    log = config.with_name("gateway.log")
    listen = {"PENSTOCK_MQTT__LISTEN": f"127.0.0.1:{mqtt}"}
    running = Gateway(config, log, listen, http, f"mqtt://127.0.0.1:{mqtt}")
    await running.child.start()
    try:
        yield running
    finally:
        await asyncio.shield(running.child.stop())


def _clean_environment() -> dict[str, str]:
    """Ours, and none of the user's own PENSTOCK_*: those are for another gateway's configuration."""
    return {key: value for key, value in os.environ.items() if not key.startswith("PENSTOCK_")}


def _json(text: str) -> dict[str, Any]:
    page: dict[str, Any] = msgspec.json.decode(text)
    return page


def _open(ledger: dict[str, int], sent: int) -> bool:
    return ledger["in_flight"] > 0 or ledger["received"] < sent


_PORTS = range(15_000, 32_000)
"""Below those that Linux gives to outgoing connections: one of these could take the port before its listener is there."""


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on at this moment.

    Raises:
        PenstockError: a hundred of them are taken.
    """
    for port in random.SystemRandom().sample(_PORTS, 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise PenstockError("expected a free port on 127.0.0.1, a hundred of them are taken")
