"""The broker is away, comes, goes and comes again; the gateway vanishes: what others see, and what is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fakes.broker import mosquitto
from tests.fakes.clients import Device, Ear, envelope
from tests.fakes.gateway import gateway
from tests.fakes.gateway_site import ROOMY, STATUS_TOPIC, Site, config, device_route, site, topic

pytestmark = pytest.mark.system

BOTH = (device_route("halves", "cam"), device_route("halves", "vib", mode="every"))


def states(ear: Ear) -> list[str]:
    return [h.body["state"] for h in ear.heard(topic=STATUS_TOPIC) if h.payload]


def problems(page: bytes) -> list[str]:
    found: list[str] = json.loads(page)["problems"]
    return found


def test_a_gateway_waits_for_its_broker(store: Path, tmp_path: Path) -> None:
    with mosquitto(ROOMY) as broker:
        broker.stop()
        with gateway(config(broker.url, store, *BOTH), tmp_path) as process:
            process.wait_for(lambda: process.get("/readyz")[0] == 503, "answers nothing")
            process.wait_for(lambda: b"refused" in process.get("/readyz")[1].lower(), "does not say why")
            said = problems(process.get("/readyz")[1])
            assert {"link control", "link latest", "link results"} <= {
                line.partition(":")[0] for line in said
            }
            assert process.get("/healthz")[0] == 200
            page = process.status()
            assert page["state"] == "degraded"
            assert not any(link["connected"] for link in page["links"])
            broker.start()
            process.wait_ready()
            with Ear(broker) as ear, Device(broker) as device:
                for name in ("cam/a", "vib/a"):
                    device.send(topic(name), envelope([1, 2, 3, 4]))
                    assert ear.result(name)["status"] == "ok"
                ear.wait(lambda: states(ear)[-1:] == ["online"], "online")


def test_both_stream_modes_go_on_after_a_broker_restart(store: Path, tmp_path: Path) -> None:
    """Nothing that the broker acknowledged for the `every` route is lost, before, while and after it was away."""
    with site(tmp_path, store, *BOTH) as home:
        send_numbered(home, range(200))
        home.ear.result("vib/a", 200)
        home.broker.stop()
        home.wait_lost()
        home.broker.start()
        home.wait_connected()
        send_numbered(home, range(200, 400))
        home.ear.result("vib/a", 400)
        assert {r["seq"] for r in home.ear.results("vib/a")} == set(range(400))
        assert home.ask("cam/a", envelope([1, 2, 3, 4]))["status"] == "ok"
        counts = home.counts("vib/a")
        assert (counts["answered"], counts["missing_upstream"]) == (400, 0)
        assert home.page()["state"] == "online"


def test_frames_that_wait_in_the_broker_outlive_its_restart(store: Path, tmp_path: Path) -> None:
    with site(tmp_path, store, *BOTH) as home:
        send_numbered(home, range(10))
        home.ear.result("vib/a", 10)
        home.gateway.stop()
        send_numbered(home, range(10, 300))
        home.broker.stop()
        home.ear.wait_lost()
        home.broker.start()
        home.ear.wait_connected()
        home.gateway.start()
        home.gateway.wait_ready()
        home.ear.result("vib/a", 300)
        assert [r["seq"] for r in home.ear.results("vib/a")] == list(range(300))
        assert home.counts("vib/a")["received"] == 290


def send_numbered(home: Site, numbers: range) -> None:
    """Send windows of a boot, each acknowledged by the broker."""
    infos = [home.send("vib/a", envelope([1, 2, 3, 4], boot="b1", seq=n)) for n in numbers]
    for info in infos:
        home.device.sent(info)


def test_a_gateway_that_vanishes_is_offline_and_its_start_was_killed(store: Path, tmp_path: Path) -> None:
    with site(tmp_path, store, *BOTH) as home:
        first = home.page()["start"]
        home.ear.wait(lambda: states(home.ear)[-1:] == ["online"], "online")
        assert home.ask("vib/a", envelope([1, 2, 3, 4]))["status"] == "ok"
        home.gateway.kill()
        home.ear.wait(lambda: states(home.ear)[-1:] == ["offline"], "the will")
        home.gateway.start()
        home.gateway.wait_ready()
        home.ear.wait(lambda: states(home.ear)[-1:] == ["online"], "online again")
        page = home.page()
        (ended,) = page["starts"]
        assert (ended["start"], ended["how"]) == (first, "killed")
        assert page["start"] != first
        settled = sum(ended["ledger"][b] for b in ("answered", "duplicate", "failed", "dropped"))
        assert ended["ledger"]["received"] == 1 == settled + ended["carried_out"] + ended["unknown"]
        with Ear(home.broker) as late:
            late.wait(lambda: bool(late.heard(topic=STATUS_TOPIC)), "the retained status")
            (kept,) = late.heard(topic=STATUS_TOPIC)
            assert kept.retain and kept.body["state"] == "online" and kept.body["start"] == page["start"]


def test_an_ended_gateway_says_so_and_leaves_no_will(store: Path, tmp_path: Path) -> None:
    with site(tmp_path, store, *BOTH) as home:
        assert home.ask("cam/a", envelope([1, 2, 3, 4]))["status"] == "ok"
        assert home.gateway.stop() == 0
        home.ear.wait(lambda: states(home.ear)[-1:] == ["stopped"], "stopped")
        with Ear(home.broker) as late:
            late.wait(lambda: states(late) == ["stopped"], "the retained status")
