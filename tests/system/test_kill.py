"""`kill -9` of the gateway in a QoS 1 flow: every window has exactly one settled fate, and the books close.

Nothing here belongs to the gateway but the process under test: the flow and the listener are paho-mqtt, the broker
is Mosquitto on the shipped configuration (or a stock one, whose queue is too short on purpose).
"""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.fakes.broker import mosquitto
from tests.fakes.flow import PASSWORD, Flow, Results
from tests.fakes.gateway import Gateway, gateway
from tests.system.test_deploy_broker import shipped

pytestmark = [pytest.mark.system, pytest.mark.soak, pytest.mark.timeout(400)]

BUNDLE = ROOT / "models" / "penstock_models" / "demo" / "vibration-1.bundle"
WINDOW = bytes(range(256)) * 2
CONFIG = """
site = "home"
gateway = "gw"
[mqtt]
url = "{url}"
{login}
[models]
path = "bundles"
[[route]]
topic = "penstock/v1/home/dev/{{device}}/{{stream}}/data"
model = "vibration"
mode = "every"
deadline_ms = 20000
gap_s = {gap_s}
content_type = "application/x-tensor"
dtype = "u8"
shape = [512]
"""


def a_gateway(folder: Path, url: str, *, login: bool, gap_s: float = 30.0) -> Gateway:
    (folder / "bundles").mkdir()
    shutil.copy(BUNDLE, folder / "bundles")
    secret = folder / "password"
    secret.write_text(PASSWORD)
    secret.chmod(0o600)
    lines = 'username = "gateway"\npassword_file = "password"' if login else ""
    return gateway(CONFIG.format(url=url, login=lines, gap_s=gap_s), folder)


def settled(book: dict[str, Any]) -> int:
    buckets = ("answered", "unchanged", "superseded", "duplicate", "expired", "rejected", "failed", "dropped")
    return sum(book[bucket] for bucket in buckets)


def assert_books_close(page: dict[str, Any]) -> tuple[int, int]:
    """Every start closes, and each passes its rows on to the next; returns (settled but duplicates, unknown)."""
    carried, fates, unknown = 0, 0, 0
    for start in page["starts"]:
        book = start["ledger"]
        assert book["received"] == settled(book) + start["carried_out"] + start["unknown"], start
        assert book["carried"] == carried, start
        carried, unknown = start["carried_out"], unknown + start["unknown"]
        fates += settled(book) - book["duplicate"]
    now = page["ledger"]
    assert now["carried"] == carried
    assert now["received"] == settled(now) + now["in_flight"]
    return fates + settled(now) - now["duplicate"], unknown


def test_a_kill_loses_nothing_and_answers_nothing_twice(
    tmp_path: Path, soak: bool, record_property: Callable[[str, object], None]
) -> None:
    kills, away_s = (10, 5.0) if soak else (2, 2.0)
    broker_folder = tmp_path / "broker"
    broker_folder.mkdir()
    with (
        shipped(broker_folder) as broker,
        a_gateway(tmp_path, broker.url, login=True) as gw,
    ):
        gw.wait_ready()
        results = Results(broker.port, "operator")
        flows = [Flow(broker.port, device, WINDOW, rate=500, user=device) for device in ("door", "yard")]
        for _ in range(kills):
            gw.wait_for(lambda: gw.ledger()["answered"] > 1000, "answers too little", 60)
            gw.kill()
            time.sleep(away_s)  # the outage, not a wait for something
            gw.start()
            gw.wait_ready()
        sent = [key for flow in flows for key in flow.stop()]
        results.wait_for(len(sent))
        gw.wait_for(lambda: gw.ledger()["in_flight"] == 0, "has frames in flight")
        page = gw.status()
        assert gw.stop() == 0
        results.close()

    assert results.seen.keys() == set(sent)
    effects = {key: {(r["id"], r["status"], r["reason"]) for r in seen} for key, seen in results.seen.items()}
    assert {key: effect for key, effect in effects.items() if len(effect) > 1} == {}
    fates, unknown = assert_books_close(page)
    assert (fates, unknown) == (len(sent), 0)
    assert [start["how"] for start in page["starts"]] == ["killed"] * kills
    assert page["ledger"]["missing_upstream"] == 0
    for name, value in (
        ("kills", kills),
        ("windows", len(sent)),
        ("duplicate_results", sum(len(seen) - 1 for seen in results.seen.values())),
        ("duplicate_deliveries", sum(s["ledger"]["duplicate"] for s in (page, *page["starts"]))),
    ):
        record_property(name, value)


def test_a_broker_with_a_short_queue_loses_and_the_ledger_says_how_many(tmp_path: Path) -> None:
    """A stock Mosquitto keeps 1,000 messages for an absent gateway and drops the rest, telling nobody."""
    with mosquitto() as broker, a_gateway(tmp_path, broker.url, login=False, gap_s=2.0) as gw:
        gw.wait_ready()
        flow = Flow(broker.port, "door", WINDOW, rate=1000)
        gw.wait_for(lambda: gw.ledger()["answered"] > 500, "answers too little")
        gw.kill()
        time.sleep(2.5)  # 2,500 windows, of which the broker keeps about 1,000
        gw.start()
        gw.wait_ready()
        gw.wait_for(lambda: gw.ledger()["answered"] > 2000, "answers too little", 60)
        sent = flow.stop()
        gw.wait_for(lambda: gw.ledger()["in_flight"] == 0, "has frames in flight")
        fates, _ = assert_books_close(gw.status())
        lost = len(sent) - fates
        gw.wait_for(lambda: gw.ledger()["missing_upstream"] >= lost, "has not counted the loss")
        page = gw.status()

    assert lost > 500, "the broker kept more than this test expects of a stock one"
    missing = page["ledger"]["missing_upstream"] + sum(
        s["ledger"]["missing_upstream"] for s in page["starts"]
    )
    assert missing == lost
