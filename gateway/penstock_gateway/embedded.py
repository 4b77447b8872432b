"""`mqtt.url = "embedded"`: a broker that lives and dies with the gateway.

Mosquitto as a child process where it is installed, else amqtt in a thread of this process, which speaks only MQTT
3.1.1 and moves a few thousand small messages a second: enough for a first run, not for a fleet. Both listen where they
are told, take anonymous clients, and are meant for a loopback address.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import shutil
import signal
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from penstock_models.errors import UsageError

log = logging.getLogger(__name__)

_START_S = 10.0
_STOP_S = 5.0
_RESTART_S = 1.0
_PR_SET_PDEATHSIG = 1
PROGRAM_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))

_MOSQUITTO = """\
listener {port} {host}
allow_anonymous true
# As deploy/mosquitto.conf: the queue outlasts an outage of minutes, and the gateway itself refuses what is too large.
max_queued_messages 500000
max_queued_bytes 268435456
max_inflight_messages 1000
max_inflight_bytes 67108864
message_size_limit 16777216
persistent_client_expiration 7d
persistence true
persistence_location {folder}/
autosave_interval 60
set_tcp_nodelay true
log_dest stderr
log_type error
log_type warning
"""


class Address(NamedTuple):
    """Where the broker listens; `kind` is `mosquitto` or `amqtt`."""

    host: str
    port: int
    kind: str


@asynccontextmanager
async def embedded_broker(listen: str, state: Path) -> AsyncIterator[Address]:
    """Run a broker at `listen` (HOST:PORT; port 0 takes a free one) with its files under `state`.

    Raises:
        UsageError: `listen` is no address, or its port is taken.
    """
    host, port = _free_address(listen)
    program = shutil.which("mosquitto", path=PROGRAM_PATH)
    broker = mosquitto_broker(program, host, port, state / "broker") if program else amqtt_broker(host, port)
    async with broker as address:
        log.info("embedded broker: %s at %s:%d", address.kind, address.host, address.port)
        yield address


def _free_address(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise UsageError(f'expected [mqtt] listen as "HOST:PORT", such as "127.0.0.1:1883", got "{listen}"')
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError as error:
            raise UsageError(
                f"the embedded broker cannot listen on {listen}: {error.strerror}; set [mqtt] listen to a free "
                f'address, or url to the broker that is there ("mqtt://{listen}")'
            ) from None
        return host, int(probe.getsockname()[1])


@asynccontextmanager
async def mosquitto_broker(program: str, host: str, port: int, folder: Path) -> AsyncIterator[Address]:
    """Run Mosquitto as a child, and again when it ends by itself; it ends with this process, however that ends."""
    child = _Mosquitto(program, write_config(host, port, folder), host, port)
    await child.start()
    keeper = asyncio.create_task(child.keep(), name="embedded-broker")
    try:
        yield Address(host, port, "mosquitto")
    finally:
        keeper.cancel()
        await asyncio.wait((keeper,))
        await child.stop()
        if not keeper.cancelled():
            keeper.result()


def write_config(host: str, port: int, folder: Path) -> Path:
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "mosquitto.conf"
    text = _MOSQUITTO.format(host=host, port=port, folder=folder)
    if not os.geteuid():  # it would give up root's rights, and with them the folder; nobody else's it changes
        text += "user root\n"
    config.write_text(text)
    return config


class _Mosquitto:
    """The child process, which is another one after a restart."""

    def __init__(self, program: str, config: Path, host: str, port: int) -> None:
        self._program = program
        self._config = config
        self._host = host
        self._port = port
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it and wait until it listens; what does not is ended."""
        self._process = await asyncio.create_subprocess_exec(
            self._program,
            "-c",
            str(self._config),
            stdin=asyncio.subprocess.DEVNULL,
            # Mosquitto would tell the gateway's service manager that it is ready.
            env={key: value for key, value in os.environ.items() if key != "NOTIFY_SOCKET"},
            preexec_fn=_die_with_parent(),
            start_new_session=True,  # Ctrl-C is for the gateway, which drains into the broker first
        )
        try:
            async with asyncio.timeout(_START_S):
                await self._listening(self._process)
        except BaseException:
            await self.stop()
            raise

    async def _listening(self, process: asyncio.subprocess.Process) -> None:
        while True:
            if process.returncode is not None:
                raise UsageError(
                    f"the embedded Mosquitto ended with {process.returncode}; its words are above"
                )
            try:
                _, writer = await asyncio.open_connection(self._host, self._port)
            except OSError:
                await asyncio.sleep(0.01)
            else:
                writer.close()
                await writer.wait_closed()
                return

    async def keep(self) -> None:
        """Start it again when it ends, as often as it takes."""
        while True:
            code = await self._process.wait() if self._process is not None else None
            log.error("the embedded Mosquitto ended with %s; it is started again", code)
            await asyncio.sleep(_RESTART_S)
            try:
                await self.start()
            except (UsageError, TimeoutError) as error:
                log.error("the embedded Mosquitto does not start: %s", error)

    async def stop(self) -> None:
        """SIGTERM, so that it saves its sessions; SIGKILL when that takes too long."""
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), _STOP_S)
        except TimeoutError:
            process.kill()
            await process.wait()


def _die_with_parent() -> Any:
    """What the child calls before it becomes the broker: the kernel ends it when this process is killed."""
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def prepare() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # killed in between
            os._exit(1)

    return prepare


@asynccontextmanager
async def amqtt_broker(host: str, port: int) -> AsyncIterator[Address]:
    """Run amqtt in a thread with a loop of its own, so that it and the gateway do not wait for each other."""
    from amqtt.broker import Broker  # type: ignore[import-untyped]  # here, as it takes 0.2 s

    for noisy in ("amqtt", "transitions"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    config = {
        "listeners": {"default": {"type": "tcp", "bind": f"{host}:{port}"}},
        "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
    }
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="embedded-broker", daemon=True)
    thread.start()

    async def make() -> Broker:
        broker = Broker(config, loop=loop)
        await broker.start()
        return broker

    try:
        broker = await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(make(), loop))
        try:
            yield Address(host, port, "amqtt")
        finally:
            stop = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_end_amqtt(broker), loop))
            await asyncio.wait((stop,), timeout=_STOP_S)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        await asyncio.to_thread(thread.join, _STOP_S)
        loop.close()


async def _end_amqtt(broker: Any) -> None:
    """Shut it down, and the tasks that it leaves behind; runs on its own loop."""
    await broker.shutdown()
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
