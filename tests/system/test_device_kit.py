"""The device kit against a real broker and a real gateway: what is kept gets through exactly once, whatever is killed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from penstock_gateway.wire import Result
from penstock_models.errors import PenstockError, UsageError
from penstock_sim.device import Device
from penstock_sim.faults.proxy import LinkProxy
from tests.conftest import ROOT
from tests.fakes.broker import Broker
from tests.fakes.gateway_site import ROOMY, Site, device_route, route, site
from tests.system.test_link_brokers import certificates, password_file  # noqa: F401 - a fixture

pytestmark = pytest.mark.system

DEMO = ROOT / "models" / "penstock_models" / "demo"
EVERY = route("vibration", "penstock/v1/home/dev/{device}/{stream}/data", mode="every", deadline_ms=20_000)
WAIT_S = 25.0


def window(number: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.full(512, number % 256, np.uint8)


def send(door: Device, count: int) -> None:
    for number in range(count):
        door.send("vib", window(number), kind="data", keep=True)


@contextmanager
def home(folder: Path, broker_config: str = ROOMY) -> Iterator[Site]:
    with site(folder, DEMO, EVERY, route("yard", deadline_ms=5_000), broker_config=broker_config) as running:
        yield running


def check_exactly_once(running: Site, door: Device, count: int) -> None:
    """Every kept frame has its receipt, and over all starts of the gateway just one answer in its books."""
    assert door.wait_safe(WAIT_S), (door.counters, door.trouble, running.gateway.log[-2000:])
    running.gateway.wait_for(lambda: running.gateway.ledger()["in_flight"] == 0, "has not settled")
    page = running.page()
    books = [start["ledger"] for start in page["starts"]] + [page["ledger"]]
    assert sum(book["answered"] for book in books) == count, books
    assert sum(start["unknown"] for start in page["starts"]) == 0
    assert page["ledger"]["missing_upstream"] == 0
    counters = door.counters
    assert (counters.sent, counters.receipted, counters.waiting) == (count, count, 0)
    assert counters.forgotten == counters.undecodable == counters.refused == 0


def test_kept_and_fresh_frames_and_their_results(tmp_path: Path) -> None:
    with home(tmp_path) as running, Device(running.broker.url, "door") as door:
        assert door.wait_online(WAIT_S) and door.online and door.trouble == ""
        called: list[Result] = []
        done = threading.Event()

        def take(result: Result) -> None:
            called.append(result)
            if len(called) == 50:
                done.set()

        door.on_result("vib", take)
        pictures = door.results("cam", WAIT_S)
        send(door, 50)
        assert door.send("cam", cv2.imencode(".jpg", np.zeros((240, 320, 3), np.uint8))[1].tobytes()) == 0
        picture = next(pictures)
        assert (picture.status, picture.boot, picture.seq) == ("ok", door.boot, 0)
        assert picture.model is not None and picture.model.name == "yard"
        assert done.wait(WAIT_S)
        assert sorted(result.seq or 0 for result in called) == list(range(50))
        assert {result.status for result in called} == {"ok"}
        assert door.wait_safe(WAIT_S)
        total = running.check_books(51)
        assert total["answered"] == 51
        with pytest.raises(
            UsageError, match="expected the stream 'vib' to go on with keep=True, as it began"
        ):
            door.send("vib", window(0))
        with pytest.raises(UsageError, match="expected the stream 'cam' to go on without keep=True"):
            door.send("cam", b"x", keep=True)
    with pytest.raises(PenstockError, match="expected an open device, 'door' is closed"):
        door.send("cam", b"x")


def test_a_killed_broker_and_a_killed_gateway_lose_nothing_that_is_kept(tmp_path: Path) -> None:
    """The broker forgets all that it had acknowledged: its database was never saved."""
    with home(tmp_path) as running, Device(running.broker.url, "door") as door:
        send(door, 100)
        wait_for(door, lambda: door.counters.sent > 1)
        running.broker.kill()
        send(door, 100)
        running.broker.start()
        send(door, 100)
        running.gateway.kill()
        send(door, 100)
        running.gateway.start()
        send(door, 100)
        running.gateway.wait_ready()
        check_exactly_once(running, door, 500)
        assert door.counters.connections == 2


def test_a_broker_that_dies_while_the_gateway_is_away_loses_nothing_either(tmp_path: Path) -> None:
    """With it go the gateway's session, the queue for it, and the retained receipt."""
    with home(tmp_path) as running, Device(running.broker.url, "door") as door:
        send(door, 20)
        assert door.wait_safe(WAIT_S)
        running.gateway.kill()
        send(door, 50)
        running.gateway.wait_for(lambda: door.counters.sent == 70, "is not concerned")
        running.broker.kill()
        running.broker.start()
        running.gateway.start()
        running.gateway.wait_ready()
        check_exactly_once(running, door, 70)


def test_a_cut_link_loses_nothing(tmp_path: Path) -> None:
    with (
        home(tmp_path) as running,
        bad_link(running.broker) as (port, do),
        Device(f"mqtt://127.0.0.1:{port}", "door") as door,
    ):
        for number in range(3):
            send(door, 100)
            wait_for(door, lambda: door.counters.sent > 150 * number)  # noqa: B023 - called here
            do(LinkProxy.cut)
            send(door, 50)
            do(LinkProxy.heal)
        check_exactly_once(running, door, 450)
        assert 2 <= door.counters.connections <= 4  # a cut within the back-off after another is not seen


@contextmanager
def bad_link(broker: Broker) -> Iterator[tuple[int, Callable[[Callable[[LinkProxy], None]], None]]]:
    """A link to the broker on a loop of its own: its port, and how its verbs are called."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def await_(made: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(made, loop).result(WAIT_S)

    async def call(verb: Callable[[LinkProxy], None]) -> None:
        verb(link)

    link = LinkProxy(broker.host, broker.port)
    await_(link.__aenter__())
    try:
        yield link.port, lambda verb: await_(call(verb))
    finally:
        await_(link.__aexit__(None, None, None))
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def wait_for(door: Device, condition: Callable[[], bool]) -> None:
    with door._shared.changed:
        assert door._shared.changed.wait_for(condition, WAIT_S), (door.counters, door.trouble)


def test_a_killed_device_s_frames_come_after_its_restart(tmp_path: Path) -> None:
    """It is killed while it is offline; the next start sends them under their own boot, then its own."""
    folder = tmp_path / "kept"
    with home(tmp_path) as running:
        command = [sys.executable, "-m", "tests.fakes.kit_device", "mqtt://127.0.0.1:9", str(folder), "60"]
        first = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
        assert first.stdout is not None
        boot = first.stdout.readline().strip()
        first.kill()
        first.communicate()
        with Device(running.broker.url, "door", store=folder) as door:
            send(door, 40)
            assert door.wait_safe(WAIT_S)
            heard = Counter(result["boot"] for result in results(running, 100))
            assert heard == {boot: 60, door.boot: 40}
            check_exactly_once(running, door, 100)
        with Device(running.broker.url, "door", store=folder) as again:
            assert again.counters.waiting == 0


def test_a_device_killed_in_mid_stream_sends_again_only_what_has_no_receipt(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    with home(tmp_path) as running:
        command = [sys.executable, "-m", "tests.fakes.kit_device", running.broker.url, str(folder), "200"]
        first = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
        running.gateway.wait_for(lambda: running.gateway.ledger()["received"] >= 1, "heard nothing")
        first.kill()
        first.communicate()
        with Device(running.broker.url, "door", store=folder) as door:
            assert door.wait_safe(WAIT_S)
            left = door.counters.receipted
        running.gateway.wait_for(lambda: running.gateway.ledger()["in_flight"] == 0, "has not settled")
        ledger = running.page()["ledger"]
        assert ledger["missing_upstream"] == 0 and ledger["answered"] >= left
        numbers = sorted(result["seq"] for result in results(running, ledger["answered"]))
        assert numbers == list(range(len(numbers))), "a frame is missing, or came twice"


def results(running: Site, count: int) -> list[dict[str, Any]]:
    running.ear.result("door/vib", count)
    return running.ear.results("door/vib")


def test_a_paused_gateway_is_not_flooded(tmp_path: Path) -> None:
    """A short queue: the window that the receipts tell keeps the rest here, and all of it gets through."""
    short = device_route("vibration", "door", "data", mode="every", deadline_ms=20_000, queue=8)
    with site(tmp_path, DEMO, short) as running, Device(running.broker.url, "door") as door:
        send(door, 100)
        most = 0
        while not door.wait_safe(0.02):
            with door._shared.changed:
                most = max(most, door._shared.kept["vib"].out)
        assert 0 < most <= 8
        check_exactly_once(running, door, 100)
        assert running.page()["ledger"]["duplicate"] == 0


def test_on_3_1_1_windows_have_receipts_and_images_are_taken_as_delivered(tmp_path: Path) -> None:
    with home(tmp_path) as running, Device(running.broker.url, "door", protocol=4) as door:
        send(door, 30)
        assert door.wait_safe(WAIT_S)
        assert running.gateway.wait_settled(30)["answered"] == 30
        door.send("evidence", b"\xff\xd8\xff\xe0", keep=True)
        assert door.wait_safe(WAIT_S)
        counters = door.counters
        assert (counters.sent, counters.receipted, counters.unproven, counters.again) == (31, 30, 1, 0)
