"""A broker whose ACL denies results: frames are answered, nobody hears it, and the gateway says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes import misbehaving_payloads as payloads
from tests.fakes.gateway_site import ROOMY, route, site, topic
from tests.fakes.schemas import validate

pytestmark = pytest.mark.system


def test_denied_results_degrade_the_gateway_and_are_logged(store: Path, tmp_path: Path) -> None:
    acl = tmp_path / "acl"
    acl.write_text("topic deny penstock/v1/home/dev/+/+/result\ntopic readwrite #\n")
    with site(tmp_path, store, route("colours"), broker_config=f"{ROOMY}acl_file {acl}\n") as home:
        home.device.sent(home.device.send(topic("door/cam"), payloads.jpeg(), qos=1))
        home.ear.wait(
            lambda: [h.body["state"] for h in home.ear.heard("status")][-1:] == ["degraded"], "degraded"
        )
        status = validate("gateway-status", home.ear.heard("status")[-1].payload)
        assert status["reasons"] == ["link results: the broker refuses messages: not authorized (0x87)"]
        page = home.page()
        assert page["ledger"]["answered"] == 1 and page["state"] == "degraded"
        assert {link["name"]: link["refused"] for link in page["links"]}["results"] == {"0x87": 1}
        metrics = home.gateway.get("/metrics")[1].decode()
        assert 'penstock_link_refused{link="results",reason="0x87"} 1.0' in metrics
        (event,) = [event for event in home.gateway.events if event["event"] == "messages refused"]
        assert event["last_topic"] == topic("door/cam", "result")
        assert event["reasons"] == ["1: not authorized (0x87)"]
