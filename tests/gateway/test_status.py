"""What the gateway tells of itself: the first status, what degrades it, the page, the stats, the metrics."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from penstock_gateway import gateway
from penstock_gateway.connections import every_name
from penstock_gateway.ledger import FATES
from penstock_gateway.wire import MAX_STATS_BYTES, MAX_STATS_STREAMS, BuildStatus
from penstock_models.devices.builds import Progress
from tests.conftest import ROOT
from tests.fakes.executor import servable
from tests.fakes.gateway_core import GRANTED, Core, core, route, until

CAM = "penstock/v1/home/dev/{device}/{stream}/frame"


async def test_the_first_status_waits_until_every_link_has_answered(tmp_path: Path) -> None:
    async with core(tmp_path, route(), mute=["results"]) as gw:
        assert gw.statuses() == []
        assert gw.gateway._views.ready() == ["link results: connecting"]
        assert gw.results.state is not None
        gw.results.state.up(GRANTED)
        assert [(s["state"], s["reasons"]) for s in gw.statuses()] == [("online", [])]
        assert gw.gateway._views.ready() == []


async def test_a_link_that_fails_at_start_makes_the_first_status_degraded(tmp_path: Path) -> None:
    async with core(tmp_path, route(), mute=["results"]) as gw:
        assert gw.results.state is not None
        gw.results.state.down("refused")
        (status,) = gw.statuses()
        assert (status["state"], status["reasons"]) == ("degraded", ["link results: refused"])


async def test_a_status_is_published_when_it_changes_and_tried_again_where_it_did_not_fit(
    tmp_path: Path,
) -> None:
    async with core(tmp_path, route()) as gw:
        assert gw.results.state is not None
        before = len(gw.statuses())
        for _ in range(100):
            gw.results.state.down("refused")
        assert [s["reasons"] for s in gw.statuses()[before:]] == [["link results: refused"]]
        gw.control.room = 0
        gw.results.state.down("lost")
        gw.control.room = 10_000
        gw.results.state.down("lost")
        assert [s["reasons"] for s in gw.statuses()[before + 1 :]] == [["link results: lost"]]


async def test_a_refused_subscription_is_not_ready_and_degraded_until_it_is_granted(tmp_path: Path) -> None:
    async with core(tmp_path, route("latest", CAM), mute=["latest"]) as gw:
        link = gw.links["latest"].state
        assert link is not None
        link.up(msgspec.structs.replace(GRANTED, refused=("cams/#", "doors/#")))
        said = "link latest: the broker refused to subscribe to cams/#, doors/#"
        assert gw.gateway._views.ready() == [said]
        assert [(s["state"], s["reasons"]) for s in gw.statuses()] == [("degraded", [said])]
        page = gw.gateway._views.status(None)
        assert page is not None and page.links[-1].connected
        assert f"link latest: {page.links[-1].reason}" == said
        link.down("lost")
        link.up(GRANTED)
        assert gw.gateway._views.ready() == []
        assert gw.statuses()[-1]["state"] == "online"


async def test_what_makes_a_gateway_degraded_and_online_again(tmp_path: Path) -> None:
    async with core(tmp_path, route()) as gw:
        gw.journal.stuck = True
        gw.journal.events.on_stuck("full")
        assert gw.statuses()[-1]["reasons"] == ["journal: the disk is full"]
        since = gw.statuses()[-1]["since"]
        gw.journal.broken = "it failed"
        gw.journal.events.on_broken("it failed")
        assert gw.statuses()[-1]["reasons"] == ["journal: it failed"]
        assert gw.statuses()[-1]["since"] == since
        gw.journal.stuck, gw.journal.broken = False, None
        gw.journal.events.on_unstuck()
        assert gw.statuses()[-1]["state"] == "online"
    assert gw.statuses()[-1]["state"] == "stopped"


async def test_a_deadline_that_cannot_be_met_is_told(tmp_path: Path) -> None:
    said = "deadline_infeasible: 200 ms < p95 310 ms"
    async with core(tmp_path, route(deadline_ms=200), info=servable(p50_ms=310)) as gw:
        page = gw.gateway._views.status(None)
        assert page is not None and page.routes[0].infeasible == said
        assert gw.statuses()[-1]["reasons"] == [f"route 0: {said}"]


async def test_the_page_shows_streams_models_routes_and_links(tmp_path: Path) -> None:
    async with core(tmp_path, route(), route("latest", CAM)) as gw:
        every = gw.links[every_name(gw.gateway._config.route[0])]
        gw.bring("a/vib", link=every)
        gw.bring("x/cam", kind="frame", link=gw.links["latest"])
        page = gw.gateway._views.status(None)
        assert page is not None and page.ledger.received == page.ledger.in_flight == 2
        assert set(page.streams) == {"a/vib", "x/cam"}
        assert [(r.mode, r.waiting) for r in page.routes] == [("every", 1), ("latest", 1)]
        assert page.models[0].placement == "fake:cpu"
        assert all(link.connected for link in page.links) and len(page.links) == 4
        one = gw.gateway._views.status("a/vib")
        assert one is not None and set(one.streams) == {"a/vib"}
        assert gw.gateway._views.status("no/such") is None


async def test_an_engine_that_is_built_is_shown_until_it_serves(tmp_path: Path) -> None:
    async with core(tmp_path, route()) as gw:
        building = Progress("tensorrt", "building", 95.04, 570.0, 12_300)
        failed = Progress("cuda", "failed", retry_s=29.96, reason="out of memory")
        gw.fake.building = [building, failed]
        page = gw.gateway._views.status(None)
        assert page is not None and page.models[0].builds == (
            BuildStatus(
                device="tensorrt", phase="building", elapsed_s=95.0, expected_s=570.0, made_bytes=12_300
            ),
            BuildStatus(device="cuda", phase="failed", retry_s=30.0, reason="out of memory"),
        )
        assert series(gw, "penstock_engine_build_seconds") == {("tensorrt", "m", "1"): 95.04}
        gw.fake.building = [Progress("tensorrt", "serving")]
        assert series(gw, "penstock_engine_build_seconds") == {}


def series(gw: Core, name: str) -> dict[tuple[str, ...], float]:
    """Values of a gauge by those of its labels, whose names are in order of the alphabet."""
    families = text_string_to_metric_families(gw.gateway._views.metrics().decode())
    (family,) = (family for family in families if family.name == name)
    return {tuple(sample.labels.values()): sample.value for sample in family.samples}


async def test_stats_bring_the_streams_that_changed_most_and_the_others_later(tmp_path: Path) -> None:
    async with core(tmp_path, route()) as gw:
        for n in range(MAX_STATS_STREAMS + 5):
            gw.bring(f"d{n}/vib")
        gw.bring("d7/vib")
        first = gw.gateway._views.stats()
        assert len(first.streams) == MAX_STATS_STREAMS and next(iter(first.streams)) == "d7/vib"
        gw.bring("d3/vib")
        second = gw.gateway._views.stats()
        assert set(second.streams) - {"d3/vib"} == set(gw.gateway._views._parts.ledger.streams) - set(
            first.streams
        )
        assert list(gw.gateway._views.stats().streams) == []


async def test_stats_that_are_cut_to_their_size_bring_the_rest_later(tmp_path: Path) -> None:
    names = [f"{n:064d}/{n:064d}" for n in range(MAX_STATS_STREAMS)]
    async with core(tmp_path, route()) as gw:
        for name in names:
            gw.bring(name)
            gw.counts(name).fates = dict.fromkeys(FATES, 10**9)
        told = list(gw.gateway._views.stats().streams)
        assert 0 < len(told) < MAX_STATS_STREAMS
        while more := gw.gateway._views.stats().streams:
            told += more
        assert told == names
        for name in names:
            gw.counts(name).fates = dict.fromkeys(FATES, 0)


async def test_stats_come_every_period_within_their_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "STATS_S", 0.02)
    topic = "penstock/v1/home/gw/gw1/stats"
    async with core(tmp_path, route()) as gw:
        for n in range(MAX_STATS_STREAMS + 20):
            gw.bring(f"d{n}/vib")
        before = len(gw.control.sent(topic))
        await until(lambda: len(gw.control.sent(topic)) >= before + 2)
        gw.bring("d5/vib")
        await until(lambda: gw.control.sent(topic)[-1]["ledger"]["received"] == MAX_STATS_STREAMS + 21)
        told = [stats["streams"] for stats in gw.control.sent(topic)[before:]]
        assert [len(streams) for streams in told[:2]] == [MAX_STATS_STREAMS, 20]
        assert all(
            len(message.payload) <= MAX_STATS_BYTES
            for message, _ in gw.control.outbox
            if message.topic == topic
        )
        assert told[-1]["d5/vib"]["received"] == 2 and len(told[-1]) == 1


async def test_the_scrape_page_parses_adds_up_and_is_described(tmp_path: Path) -> None:
    async with core(tmp_path, route(), route(topic="b/{device}/{stream}", model="m:1")) as gw:
        for seq in (0, 0, 3):
            gw.bring("a/vib", boot="b", seq=seq)
        gw.journal.commit()
        await gw.executor.finish()
        families = {f.name: f for f in text_string_to_metric_families(gw.gateway._views.metrics().decode())}
        fates = {tuple(s.labels.values()): s.value for s in families["penstock_frames"].samples}
        assert fates == {("duplicate", "duplicate"): 1.0, ("answered", "ok"): 2.0}
        assert sum(fates.values()) == families["penstock_frames_received"].samples[0].value
        count = next(s for s in families["penstock_infer_seconds"].samples if s.name.endswith("_count"))
        assert count.value == 2 and count.labels == {"model": "m", "version": "1"}
        seen = [(s.name, tuple(s.labels.items())) for f in families.values() for s in f.samples]
        assert len(seen) == len(set(seen)), "a series stands twice"
        assert not any("stream" in dict(labels) for _, labels in seen)
        named = set(re.findall(r"`(penstock_\w+)`", (ROOT / "gateway" / "README.md").read_text()))
        assert {f"{f.name}_total" if f.type == "counter" else f.name for f in families.values()} == named - {
            "penstock_gateway"
        }


async def test_a_stop_is_told_before_the_links_close(tmp_path: Path) -> None:
    async with core(tmp_path, route()) as gw:
        gw.bring("a/vib")
        gw.journal.commit()
    states = [status["state"] for status in gw.statuses()]
    assert states[0] == "online" and states[-1] == "stopped"
    assert gw.ledger.fates == {("answered", ""): 1}
    assert gw.journal.disk.rows == {}
