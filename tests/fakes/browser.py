"""A real browser: headless Chromium, driven by its DevTools protocol. It has no network but files."""

import asyncio
import base64
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

WAIT_S = 40
_MOST_BYTES = 1 << 26
_LISTENS = re.compile(rb"DevTools listening on (ws://\S+)")
_OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--disable-component-update", "--no-first-run", "--hide-scrollbars", "--remote-debugging-port=0",
)  # fmt: skip


class Tab:
    """An open page: `errors` are what its console complained of, `requests` what it asked for."""

    def __init__(self, devtools: "DevTools", session: str) -> None:
        self._devtools, self._session = devtools, session
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.loaded = asyncio.Event()

    async def say(self, method: str, **values: Any) -> dict[str, Any]:
        return await self._devtools.say(method, self._session, **values)

    async def value(self, expression: str) -> Any:
        """What a JavaScript expression is; a promise is waited for."""
        came = await self.say(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in came, came["exceptionDetails"]
        return came["result"].get("value")

    async def picture(self) -> bytes:
        """The whole page as PNG."""
        came = await self.say("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(came["data"])

    def heard(self, method: str, values: dict[str, Any]) -> None:
        match method:
            case "Runtime.exceptionThrown":
                self.errors.append(str(values["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if values["type"] in ("error", "warning", "assert"):
                self.errors.append(str(values["args"]))
            case "Log.entryAdded" if values["entry"]["level"] in ("error", "warning"):
                self.errors.append(values["entry"]["text"])
            case "Network.requestWillBeSent":
                self.requests.append(values["request"]["url"])
            case "Page.loadEventFired":
                self.loaded.set()


class DevTools:
    """The protocol's one connection."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._tabs: dict[str, Tab] = {}

    async def open(self, url: str, width: int, height: int = 900, dark: bool = False) -> Tab:
        """Load a page of that many CSS pixels, and wait for its load event."""
        target = await self.say("Target.createTarget", url="about:blank")
        session = (await self.say("Target.attachToTarget", targetId=target["targetId"], flatten=True))[
            "sessionId"
        ]
        tab = self._tabs[session] = Tab(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            await tab.say(f"{domain}.enable")
        await tab.say(
            "Network.emulateNetworkConditions",
            offline=True,
            latency=0,
            downloadThroughput=-1,
            uploadThroughput=-1,
        )
        await tab.say(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await tab.say("Emulation.setEmulatedMedia", features=[scheme])
        await tab.say("Page.navigate", url=url)
        async with asyncio.timeout(WAIT_S):
            await tab.loaded.wait()
        return tab

    async def say(self, method: str, session: str | None = None, **values: Any) -> dict[str, Any]:
        number = len(self._asked)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        message = {"id": number, "method": method, "params": values}
        await self._socket.send_json(message | ({"sessionId": session} if session else {}))
        async with asyncio.timeout(WAIT_S):
            came: dict[str, Any] = await answer
            return came

    async def listen(self) -> None:
        async for message in self._socket:
            heard = message.json()
            if "id" not in heard:
                if (tab := self._tabs.get(heard.get("sessionId", ""))) is not None:
                    tab.heard(heard["method"], heard["params"])
            elif "error" in heard:
                self._asked[heard["id"]].set_exception(RuntimeError(str(heard["error"])))
            else:
                self._asked[heard["id"]].set_result(heard["result"])


@asynccontextmanager
async def browser(folder: Path) -> AsyncIterator[DevTools]:
    """Start Chromium with its profile in `folder`; it ends with the block."""
    process = await asyncio.create_subprocess_exec(
        "chromium", *_OPTIONS, f"--user-data-dir={folder}", "about:blank",
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "DBUS_SESSION_BUS_ADDRESS": "disabled:"},
        start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        async with asyncio.timeout(WAIT_S):
            url = await _address(process.stderr)
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(url, max_msg_size=_MOST_BYTES) as socket,
            asyncio.TaskGroup() as group,
        ):
            devtools = DevTools(socket)
            tasks = [group.create_task(devtools.listen()), group.create_task(_drain(process.stderr))]
            yield devtools
            for task in tasks:
                task.cancel()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def _address(errors: asyncio.StreamReader) -> str:
    said = b""
    while line := await errors.readline():
        said += line
        if found := _LISTENS.search(line):
            return found[1].decode()
    raise AssertionError(f"expected Chromium to listen, it said: {said.decode(errors='replace')[-1000:]}")


async def _drain(errors: asyncio.StreamReader) -> None:
    """Read on, so that the browser never waits for its standard error."""
    while await errors.read(1 << 16):
        pass
