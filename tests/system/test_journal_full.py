"""A gateway whose journal lies on 8 MiB: it stops reading when that is full, drains, and reads on, twice.

The model is slow and the frames are large, so the journal fills long before the queue does. What the broker still has
to keep is its own business; nothing that was sent is lost, and only a disk that others filled makes it `degraded`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.broker import Broker, mosquitto
from tests.fakes.flow import Flow, Key, Receipts, Results
from tests.fakes.gateway import Gateway, gateway
from tests.fakes.gateway_site import ROOMY, config, route
from tests.system.test_disk_full import fill, small_disk

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(150)]

SLOW = b"[4000, 0, 0, 0]" + b" " * 16_000
RATE = 1000
TOPIC = "penstock/v1/home/dev/{device}/{stream}/data"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 8 MiB."""
    with small_disk(tmp_path / "disk") as path:
        yield path


def slow_gateway(folder: Path, broker: Broker, store: Path, disk: Path) -> Gateway:
    keys = {"mode": "every", "content_type": "application/json", "deadline_ms": 600_000}
    patient = route("patient", TOPIC, **keys)
    return gateway(config(broker.url, store, patient, top=f'state = "{disk / "state"}"\nthreads = 1'), folder)


def paused(gw: Gateway) -> bool:
    return bool(gw.status()["routes"][0]["paused"])


def flood(gw: Gateway, port: int, device: str) -> list[Key]:
    """Send until the gateway has stopped reading, and for a moment more; everything that was sent."""
    flow = Flow(port, device, SLOW, rate=RATE)
    gw.wait_for(lambda: paused(gw), "does not stop reading")
    more = len(flow.sent) + RATE // 4
    gw.wait_for(lambda: len(flow.sent) >= more, "lets the device send no more")
    return flow.stop()


def stuck(gw: Gateway) -> int:
    return sum(event["event"] == "journal stuck" for event in gw.events)


def test_the_journal_runs_full_and_drains_twice_and_nothing_is_lost(
    tmp_path: Path, store: Path, disk: Path
) -> None:
    sent: list[Key] = []
    with mosquitto(ROOMY) as broker, slow_gateway(tmp_path, broker, store, disk) as gw:
        gw.wait_ready()
        results, receipts = Results(broker.port), Receipts(broker.port)
        for device in ("door", "yard"):
            sent += flood(gw, broker.port, device)
            assert gw.status()["state"] == "online"
            gw.wait_settled(len(sent), 60)
            gw.wait_for(lambda: not paused(gw), "does not read on")
        ledger = gw.ledger()
        assert ledger["received"] == ledger["answered"] == len(sent) and stuck(gw) == 0
        results.wait_for(len(sent))
        results.catch_up()
        assert sorted(results.seen) == sorted(sent)
        assert {len(found) for found in results.seen.values()} == {1}
        last = {key for key in sent if key[0] == "yard"}
        gw.wait_for(lambda: receipts.covered("yard") >= last, "has not receipted all")
        results.close()
        receipts.close()
        assert gw.stop() == 0


def test_a_disk_that_others_fill_makes_it_degraded_until_there_is_room_again(
    tmp_path: Path, store: Path, disk: Path
) -> None:
    with mosquitto(ROOMY) as broker, slow_gateway(tmp_path, broker, store, disk) as gw:
        gw.wait_ready()
        flow = Flow(broker.port, "door", SLOW, rate=RATE)
        filler = fill(disk)
        gw.wait_for(lambda: gw.status()["state"] == "degraded", "is not degraded on a full disk")
        assert paused(gw) and stuck(gw) >= 1
        sent = flow.stop()
        filler.unlink()
        gw.wait_for(lambda: gw.status()["state"] == "online", "does not recover")
        gw.wait_settled(len(sent), 60)
        assert gw.ledger()["answered"] == len(sent)
        assert gw.stop() == 0
