"""What the broker refuses: told in the log, in the state, on the pages, and taken back a minute later."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from penstock_gateway import refusals
from penstock_gateway.logs import Limiter, Log
from penstock_gateway.mqtt import LinkOptions
from penstock_gateway.refusals import RECENT_S, Refusals
from tests.fakes.gateway_core import FakeLink, core, route, until

DENIED = "link results: the broker refuses messages: not authorized (0x87)"


@pytest.fixture(autouse=True)
def fresh_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """What another test has logged holds nothing back here."""
    monkeypatch.setattr(refusals, "log", Limiter(Log(refusals.__name__)))


def links() -> dict[str, FakeLink]:
    return {name: FakeLink(LinkOptions("127.0.0.1", 1883, name)) for name in ("control", "results")}


def test_what_is_refused_degrades_for_a_minute_after_the_last_one() -> None:
    found = links()
    changes: list[list[str]] = []
    refused = Refusals(found, lambda: changes.append(refused.degraded))
    refused.look(0.0)
    assert changes == []
    for now in (1.0, 2.0, 3.0):
        found["results"].refused["0x87"] += 10
        refused.look(now)
    assert changes == [[DENIED]], "it is told once"
    refused.look(3.0 + RECENT_S - 0.1)
    assert refused.degraded == [DENIED]
    refused.look(3.0 + RECENT_S)
    assert changes == [[DENIED], []]
    found["control"].refused["packet_too_large"] += 1
    refused.look(100.0)
    assert changes[-1] == ["link control: the broker refuses messages: packet too large"]


def test_a_message_that_no_broker_could_take_is_logged_and_no_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    found = links()
    refused = Refusals(found, lambda: pytest.fail("nothing changed"))
    found["results"].refused["not_encodable"] += 1
    refused.look(0.0)
    assert refused.degraded == [] and len(caplog.records) == 1


def test_the_log_says_how_many_why_and_where_and_not_every_second(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    found = links()
    refused = Refusals(found, lambda: None)
    for now in range(50):
        found["results"].refused["0x87"] += 3
        found["results"].refused_topic = f"dev/d{now}/cam/result"
        refused.look(float(now))
    assert 1 <= len(caplog.records) < 10
    fields = vars(caplog.records[0])
    said = str(fields)
    assert "3: not authorized (0x87)" in said and "dev/d0/cam/result" in said and "results" in said


async def test_refused_results_show_on_every_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "PERIOD_S", 0.001)
    async with core(tmp_path, route()) as gw:
        assert gw.statuses()[-1]["state"] == "online"
        gw.results.refused["0x87"] += 2
        await until(lambda: gw.statuses()[-1]["state"] == "degraded")
        assert gw.statuses()[-1]["reasons"] == [DENIED]
        assert gw.gateway._views.ready() == [], "it is subscribed, and answers what is not refused"
        page = gw.gateway._views.status(None)
        assert page is not None and {link.name: link.refused for link in page.links}["results"] == {"0x87": 2}
        families = {f.name: f for f in text_string_to_metric_families(gw.gateway._views.metrics().decode())}
        samples = families["penstock_link_refused"].samples
        assert [(s.labels, s.value) for s in samples] == [({"link": "results", "reason": "0x87"}, 2.0)]
