"""The doctor on a real Mosquitto: each fault is planted once by a real client, and is the only one that is found.

All devices live on one broker at once, so that the whole takes no longer than the slowest rule needs. Each sends ten frames a
second from the moment at which its doctor listens.
"""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from penstock_gateway.mqtt import LinkOptions, encode
from penstock_sim.doctor.broker_log import BrokerLog
from penstock_sim.doctor.examination import Report
from penstock_sim.doctor.listen import Watch, watch
from penstock_sim.doctor.reach import Reach
from tests.fakes.broker import Broker, mosquitto
from tests.fakes.doctor_devices import (
    BEAT_S,
    FAULTS,
    HEALTHY,
    LOGGING,
    RULES,
    SECONDS,
    WAIT_S,
    Device,
    Story,
    live,
    told,
)

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with mosquitto(LOGGING) as broker:
        yield broker


@pytest.fixture(scope="module")
def reports(broker: Broker) -> dict[str, Report]:
    """The report on every device, by its story."""
    return asyncio.run(examine_all(broker, {**FAULTS, **HEALTHY}))


async def examine_all(broker: Broker, stories: dict[str, Story]) -> dict[str, Report]:
    listening, over = {name: asyncio.Event() for name in stories}, threading.Event()

    def doctor(name: str) -> asyncio.Task[Report]:
        wanted = Watch(device=name, reach=Reach(url=broker.url), seconds=SECONDS, rules=RULES)
        return asyncio.create_task(watch(wanted, asyncio.Event(), lambda *_: listening[name].set()))

    with ExitStack() as stack:
        devices = [(story, Device(broker.host, broker.port, name, 4 if name == "plain" else 5)) for name, story in stories.items()]  # fmt: skip
        for _, device in devices:
            stack.callback(device.close)
        doctors = {name: doctor(name) for name in stories}
        async with asyncio.timeout(WAIT_S):
            for event in listening.values():
                await event.wait()
        lives = asyncio.create_task(asyncio.to_thread(live, devices, over))
        found = {name: await task for name, task in doctors.items()}
        over.set()
        await lives
    return found


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_and_no_other(fault: str, reports: dict[str, Report]) -> None:
    report = reports[fault]
    assert {finding.fault for finding in report.findings} == {fault}, told(report)
    assert report.frames > 20 and not report.healthy


@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_is_found_in_a_healthy_device(name: str, reports: dict[str, Report]) -> None:
    assert reports[name].healthy, told(reports[name])
    assert reports[name].reconnects == "status topic"


def test_what_was_planted_once_is_counted_once(reports: dict[str, Report]) -> None:
    counts = {fault: reports[fault].findings[0].count for fault in FAULTS}
    once = ("size", "clock_jump", "payload_type", "receipt", "retained")
    assert {fault: counts[fault] for fault in once} == dict.fromkeys(once, 1)
    assert counts["seq_gap"] == counts["topic"] == 2
    assert 60 < reports["plain"].frames <= SECONDS / BEAT_S + 1


async def test_the_brokers_log_tells_of_connections_without_a_status(broker: Broker) -> None:
    """Where the device says nothing of itself, and Mosquitto's own log does."""
    wanted = Watch(
        device="silent",
        reach=Reach(url=broker.url),
        seconds=60.0,
        log=BrokerLog(broker.folder / "mosquitto.log"),
    )
    stop, listening = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(watch(wanted, stop, lambda *_: listening.set()))
    async with asyncio.timeout(WAIT_S):
        await listening.wait()
        await asyncio.to_thread(connect_often, broker, 10)
    stop.set()
    report = await task
    assert {finding.fault for finding in report.findings} == {"backoff"}
    assert report.reconnects == "broker log"


def connect_often(broker: Broker, times: int) -> None:
    for _ in range(times):
        with socket.create_connection((broker.host, broker.port), timeout=WAIT_S) as wire:
            wire.sendall(encode.connect(LinkOptions("", 0, "silent-1"), 4))
            wire.recv(4)
