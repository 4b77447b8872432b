"""The doctor at brokers that are older, go away, or give it no rights."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from penstock_gateway.embedded import amqtt_broker
from penstock_models.errors import PenstockError
from penstock_sim.doctor.examination import Report
from penstock_sim.doctor.listen import Watch, watch
from penstock_sim.doctor.reach import Reach
from tests.conftest import ROOT
from tests.fakes.broker import mosquitto
from tests.fakes.doctor_devices import (
    BEAT_S,
    WAIT_S,
    Device,
    live,
    told,
)

pytestmark = pytest.mark.system


async def test_a_broker_of_3_1_1_shows_what_it_can(free_port: Callable[[], int]) -> None:
    port = free_port()
    async with amqtt_broker("127.0.0.1", port) as address:
        device = await asyncio.to_thread(Device, address.host, address.port, "old", 4)
        device.send(0, retain=True)
        wanted = Watch(device="old", reach=Reach(url=f"mqtt://127.0.0.1:{port}"), seconds=2.0)
        life = beat_in(device)
        report = await watch(wanted, asyncio.Event(), lambda *_: None)
        life.cancel()
        await asyncio.to_thread(device.close)
    assert {finding.fault for finding in report.findings} == {"retained"}, told(report)
    assert any("3.1.1 only" in note for note in report.notes)


def beat_in(device: Device) -> asyncio.Task[None]:
    async def life() -> None:
        while True:
            device.send(0)
            await asyncio.sleep(BEAT_S)

    return asyncio.create_task(life())


async def test_a_broker_that_goes_away_leaves_a_report_that_says_so() -> None:
    async with mosquitto() as broker:
        listening = asyncio.Event()
        wanted = Watch(device="door", reach=Reach(url=broker.url), seconds=60.0)
        task = asyncio.create_task(watch(wanted, asyncio.Event(), lambda *_: listening.set()))
        async with asyncio.timeout(WAIT_S):
            await listening.wait()
            await asyncio.to_thread(broker.kill)
            report = await task
    assert not report.healthy and any("the broker closed the connection" in note for note in report.notes)


async def test_the_rights_that_the_readme_names_are_enough(tmp_path: Path) -> None:
    """The shipped rights with those lines: topics astray are heard, frames judged, receipts seen."""
    readme = (ROOT / "device-sim" / "README.md").read_text()
    rights = readme[readme.index("user doctor\n") :].partition("```")[0]
    acl = tmp_path / "acl"
    acl.write_text(
        (ROOT / "deploy" / "mosquitto.acl").read_text() + f"\n{rights}\nuser loose\ntopic write #\n"
    )
    acl.chmod(0o600)
    async with mosquitto(f"acl_file {acl}") as broker:
        device = await asyncio.to_thread(Device, broker.host, broker.port, "door", 5, "loose")
        device.receipt(0, [])
        wanted = Watch(device="door", reach=Reach(url=broker.url, username="doctor"), seconds=2.0)
        stop = asyncio.Event()
        task = asyncio.create_task(watch(wanted, stop, lambda *_: None))
        over = threading.Event()
        life = asyncio.create_task(asyncio.to_thread(live, [(astray, device)], over))
        report = await task
        over.set()
        await life
        await asyncio.to_thread(device.close)
    assert {finding.fault for finding in report.findings} == {"topic"}, told(report)
    assert report.streams["cam"].receipted and report.frames > 5


def astray(device: Device, n: int) -> None:
    device.send(n)
    device.send(n, topic=device.topic("cam", "picture"))
    device.send(n, topic="penstock/v1/home/device/door/cam/frame")


CONNACK, GRANTED, DENIED = b"\x20\x03\x00\x00\x00", b"\x90\x04\x00\x01\x00\x01", b"\x90\x04\x00\x01\x00\x87"


async def watch_at(answers: Sequence[bytes]) -> Report:
    """Watch at a broker that gives the n-th connection this answer to SUBSCRIBE; an empty one: it hangs up.

    Mosquitto's own ACL files never refuse a subscription; other brokers do, or close the connection.
    """
    left = iter(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1024)
        writer.write(CONNACK)
        await reader.read(1024)
        if answer := next(left):
            writer.write(answer)
            await reader.read()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        wanted = Watch(device="door", reach=Reach(url=f"mqtt://127.0.0.1:{port}"), seconds=1.0)
        return await watch(wanted, asyncio.Event(), lambda *_: None)


async def test_a_subscription_that_is_refused_is_an_error() -> None:
    with pytest.raises(
        PenstockError, match=r"expected to read penstock/v1/home/dev/door/#: the broker refused"
    ):
        await watch_at([DENIED])


@pytest.mark.parametrize("answer", [DENIED, b""], ids=["refuses", "hangs up"])
async def test_a_wider_subscription_that_is_refused_is_a_note(answer: bytes) -> None:
    report = await watch_at([GRANTED, answer])
    assert any(note.startswith("topics beside the device's own") for note in report.notes), report.notes
