"""Which connections a configuration comes to, and what one remembers of its broker."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from penstock_gateway.broker_check import Needs
from penstock_gateway.connections import SESSION_EXPIRY_S, Watch, every_name, plan
from penstock_gateway.embedded import Address
from penstock_gateway.mqtt import LinkOptions, Publish
from tests.fakes.gateway_core import GRANTED, FakeLink, configure, route

BROKER = Address("127.0.0.1", 1883, "")
WILL = Publish("will", b"")
EVERY = [route(topic=f"{place}/{{device}}/{{stream}}") for place in ("one", "two")]
LATEST = [route("latest", f"{place}/{{device}}/{{stream}}") for place in ("three", "four")]


def test_frames_never_share_a_connection_with_commands_nor_one_every_route_with_another(
    tmp_path: Path,
) -> None:
    config = configure(tmp_path, *EVERY, *LATEST)
    plans = plan(config, BROKER, WILL)
    names = [every_name(r) for r in config.route if r.mode == "every"]
    assert [p.name for p in plans] == ["control", "results", "latest", *names]
    assert [p.options.session_expiry_s for p in plans] == [SESSION_EXPIRY_S, 0, 0, *2 * [SESSION_EXPIRY_S]]
    assert [len(p.options.subscriptions) for p in plans] == [0, 0, 2, 1, 1]
    assert plans[0].options.will is WILL and all(p.options.will is None for p in plans[1:])
    assert len({p.options.client_id for p in plans}) == len(plans)
    assert all(p.options.max_packet is None for p in plans)  # contracts 5: no smaller than the largest frame


def test_a_session_keeps_its_name_when_routes_come_and_go(tmp_path: Path) -> None:
    before = plan(configure(tmp_path, *EVERY), BROKER, WILL)[-1]
    after = plan(configure(tmp_path, *LATEST, EVERY[1]), BROKER, WILL)[-1]
    assert before.options.client_id == after.options.client_id


@pytest.mark.parametrize(("kind", "protocol"), [("amqtt", 4), ("mosquitto", 5), ("", 5)])
def test_amqtt_is_spoken_to_in_its_own_version(tmp_path: Path, kind: str, protocol: int) -> None:
    plans = plan(configure(tmp_path, *EVERY), Address("127.0.0.1", 1883, kind), WILL)
    assert {p.options.protocol for p in plans} == {protocol}


def test_a_watch_knows_since_when_and_why() -> None:
    changes: list[bool] = []
    watch = Watch("control", Needs(0), lambda: changes.append(watch.connected))
    assert not watch.heard
    link = FakeLink(LinkOptions("127.0.0.1", 1883, "c"))
    watch.down("refused")
    assert watch.heard and watch.view(link).reason == "refused"
    watch.up(GRANTED)
    link.overruns, link.dropped, link.refused = 3, 4, Counter({"0x87": 5})
    view = watch.view(link)
    assert watch.heard and (view.protocol, view.reason) == (5, None)
    assert (view.overruns, view.dropped, view.refused) == (3, 4, {"0x87": 5})
    watch.since = 0
    watch.up(GRANTED)
    assert watch.since == 0
    watch.down("lost")
    assert watch.since > 0 and watch.view(link).protocol is None
    assert changes == [False, True, True, False]
