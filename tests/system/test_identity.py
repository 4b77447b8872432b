"""Who a frame is, how old it may be, and what its device is told: contracts 2 and 5, seen from outside."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.broker import mosquitto
from tests.fakes.clients import Device, Ear, envelope
from tests.fakes.gateway import gateway
from tests.fakes.gateway_site import ROOMY, Site, config, device_route, site, topic
from tests.fakes.misbehaving import Wire

pytestmark = pytest.mark.system

GAP_S = 1.0
BUSY = 30_000.0
"""Turns of `patient` that take some tens of milliseconds."""


@pytest.fixture(scope="module")
def home(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    routes = (
        device_route("halves", "cam", max_age_ms=5000, deadline_ms=2000),
        device_route("halves", "vib", mode="every", max_age_ms=5000, gap_s=GAP_S),
        device_route("patient", "slow", mode="every", deadline_ms=20_000),
    )
    with site(tmp_path_factory.mktemp("identity"), store, *routes, top="threads = 1") as made:
        yield made
        made.check_books()


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def window(value: float = 1.0, **keys: Any) -> bytes:
    return envelope([value, 0, 0, 0], **keys)


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_a_device_without_boot_may_begin_again(home: Site) -> None:
    """Its second life uses the same numbers, and even the same payloads: every frame is answered."""
    for seq in [0, 1, 2, 0, 1, 2]:
        home.send("vib/reborn", window(seq=seq))
    home.ear.result("vib/reborn", 6)
    assert [r["seq"] for r in home.ear.results("vib/reborn")] == [0, 1, 2, 0, 1, 2]
    counts = home.counts("vib/reborn")
    assert (counts["answered"], counts["duplicate"], counts["missing_upstream"]) == (6, 0, 0)


def test_a_new_boot_begins_a_new_count(home: Site) -> None:
    for boot, seq in [("a", 0), ("a", 1), ("b", 0), ("b", 1), ("a", 1), ("b", 0)]:
        home.send("vib/boots", window(boot=boot, seq=seq))
    home.ear.result("vib/boots", 4)
    home.gateway.wait_for(lambda: home.counts("vib/boots")["duplicate"] == 2, "has not counted both")
    told = [(r["boot"], r["seq"]) for r in home.ear.results("vib/boots")]
    assert told == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]


@pytest.mark.parametrize("killed", [False, True], ids=["the connection breaks", "the gateway is killed"])
def test_what_the_broker_delivers_again_counts_once(store: Path, tmp_path: Path, killed: bool) -> None:
    """The broker never sees our acknowledgements: it sends everything again, with DUP. One effect each."""
    routes = (device_route("halves", "vib", mode="every"),)
    with (
        mosquitto(ROOMY) as broker,
        Wire(broker) as wire,
        Ear(broker) as ear,
        Device(broker) as device,
        gateway(config(wire.url, store, *routes), tmp_path) as process,
    ):
        process.wait_ready()
        wire.withhold("every-")
        for seq in range(10):
            device.send(topic("vib/named"), window(boot="b1", seq=seq))
            device.send(topic("vib/plain"), window(seq))
        ear.result("vib/named", 10)
        ear.result("vib/plain", 10)
        wire.wait_withheld(20)
        if killed:
            process.kill()
        wire.cut()
        wire.release()
        if killed:
            process.start()
            process.wait_ready()
        process.wait_for(lambda: process.ledger()["duplicate"] == 20, "has not seen all again")
        device.sent(device.send(topic("vib/plain"), window(3)))  # the device's own second sending is new
        # An answer whose way out was cut is said again, and is the same answer: it has the same id.
        ear.wait(lambda: (len(ids(ear, "vib/named")), len(ids(ear, "vib/plain"))) == (10, 11), "21 answers")
        ours = 1 if killed else 21
        process.wait_for(
            lambda: (now := process.ledger())["answered"] == ours + now["carried"],
            "answers others than these",
        )
        assert process.wait_settled(21)["duplicate"] == 20


def test_windows_alike_that_were_on_their_way_at_a_kill_are_all_answered(store: Path, tmp_path: Path) -> None:
    """They come with DUP, though the gateway never read them: what tells them from a redelivery is their packet id."""
    routes = (device_route("halves", "vib", mode="every"),)
    with (
        mosquitto(ROOMY) as broker,
        Ear(broker) as ear,
        Device(broker) as device,
        gateway(config(broker.url, store, *routes), tmp_path) as process,
    ):
        process.wait_ready()
        device.sent(device.send(topic("vib/alike"), window()))
        process.wait_settled(1)
        os.kill(process.pid, signal.SIGSTOP)
        for _ in range(20):
            device.sent(device.send(topic("vib/alike"), window()))
        process.kill()
        process.start()
        process.wait_ready()
        ear.wait(lambda: len(ids(ear, "vib/alike")) == 21, "21 answers")
        ledger = process.wait_settled(20)
        again = ledger["received"] - 20  # the first, where the kill took its acknowledgement along
        assert again in (0, 1)
        assert ledger["duplicate"] <= again and ledger["answered"] + ledger["duplicate"] == 20 + again


def ids(ear: Ear, stream: str) -> set[str]:
    return {result["id"] for result in ear.results(stream)}


# --- receipts --------------------------------------------------------------------------------------------------------


def receipts(ear: Ear, stream: str) -> list[dict[str, Any]]:
    return [h.body for h in ear.heard(topic=topic(stream, "receipt"))]


def wait_receipt(home: Site, stream: str, through: int, missing: list[list[int]]) -> dict[str, Any]:
    def told() -> bool:
        found = receipts(home.ear, stream)
        return bool(found) and (found[-1]["through"], found[-1]["missing"]) == (through, missing)

    home.ear.wait(told, f"receipt through {through}", timeout_s=5)
    return receipts(home.ear, stream)[-1]


def test_a_receipt_tells_what_came_and_what_is_missing(home: Site) -> None:
    began = time.monotonic()
    for seq in (5, 6, 9, 12):
        home.send("vib/told", window(boot="b1", seq=seq))
    told = wait_receipt(home, "vib/told", 12, [[7, 8], [10, 11]])
    assert time.monotonic() - began < 1.0
    assert told["boot"] == "b1" and told["window"] > 0
    for seq in (7, 8, 10):
        home.send("vib/told", window(boot="b1", seq=seq))
    wait_receipt(home, "vib/told", 12, [[11, 11]])
    wait_receipt(home, "vib/told", 12, [])  # gap_s is over
    assert home.counts("vib/told")["missing_upstream"] == 1
    home.send("vib/told", window(boot="b1", seq=11))  # late, and accepted all the same
    home.ear.result("vib/told", 8)
    assert home.counts("vib/told")["missing_upstream"] == 0
    with Ear(home.broker) as late:
        late.wait(lambda: bool(receipts(late, "vib/told")), "the retained receipt")
        (kept,) = late.heard(topic=topic("vib/told", "receipt"))
        assert kept.retain and kept.body["through"] == 12


def test_receipts_come_at_most_five_a_second(home: Site) -> None:
    began = time.monotonic()
    for seq in range(400):
        home.device.sent(home.send("vib/many", window(boot="b1", seq=seq)))
    wait_receipt(home, "vib/many", 399, [])
    seconds = time.monotonic() - began
    heard = home.ear.heard(topic=topic("vib/many", "receipt"))
    assert 1 <= len(heard) <= 5 * seconds + 1
    # Over a second, as the way here shortens the time between two by what delayed the first.
    assert all(b.at - a.at > 0.75 for a, b in zip(heard, heard[5:]))


def test_a_receipt_lists_at_most_sixteen_gaps_and_stops_before_the_next(home: Site) -> None:
    for seq in range(0, 60, 3):
        home.send("vib/holes", window(boot="b1", seq=seq))
    wait_receipt(home, "vib/holes", 48, [[seq + 1, seq + 2] for seq in range(0, 48, 3)])


def test_a_receipt_covers_what_was_settled_without_an_answer(home: Site) -> None:
    for seq, data in enumerate(([1, 0, 0, 0], [1, 2], [1, 0, 0, 0])):
        home.send("vib/odd", envelope(data, boot="b1", seq=seq))
    wait_receipt(home, "vib/odd", 2, [])
    assert [r["status"] for r in home.ear.results("vib/odd")] == ["ok", "rejected", "ok"]


# --- deadlines, age, priority ----------------------------------------------------------------------------------------


def keep_busy(home: Site, frames: int = 6) -> None:
    """Fill the one thread for a while, from another model's route; when it returns, the second frame runs."""
    done = len(home.ear.results("slow/busy"))
    for _ in range(frames):
        home.send("slow/busy", window(BUSY))
    home.ear.result("slow/busy", done + 1)


@pytest.mark.parametrize(
    ("stream", "keys", "options"),
    [
        ("cam/dl", {"dl": 1}, {}),
        ("vib/dl", {"dl": 1}, {}),
        ("cam/properties", {}, {"user": {"dl": 1}}),
    ],
)
def test_a_frame_whose_own_deadline_passes_is_expired(
    home: Site, stream: str, keys: dict[str, Any], options: dict[str, Any]
) -> None:
    keep_busy(home)
    result = home.ask(stream, window(**keys), **options)
    assert result["status"] == "expired" and result["reason"] in ("in_queue", "predicted_late")
    assert (result["answered_by"], result["model"]) == (None, None)


def test_a_deadline_that_holds_changes_nothing(home: Site) -> None:
    assert home.ask("cam/patient", window(dl=2000), expiry_s=60)["status"] == "ok"


@pytest.mark.parametrize(
    ("stream", "fate", "historical"),
    [("cam/old", ("expired", "max_age"), False), ("vib/old", ("ok", None), True)],
)
def test_an_old_frame_is_never_a_fresh_alarm(
    home: Site, stream: str, fate: tuple[str, str | None], historical: bool
) -> None:
    result = home.ask(stream, window(ts=now_ms() - 6000))
    assert (result["status"], result["reason"]) == fate
    assert result.get("historical", False) == historical
    fresh = home.ask(stream, window(ts=now_ms()))
    assert (fresh["status"], fresh.get("historical", False)) == ("ok", False)


def test_after_an_outage_old_frames_are_expired_or_historical(store: Path, tmp_path: Path) -> None:
    """The gateway was away; its cameras' frames are gone with it, its sensors' wait in the broker and are old."""
    routes = (
        device_route("halves", "cam", max_age_ms=500),
        device_route("halves", "vib", mode="every", max_age_ms=500),
    )
    with site(tmp_path, store, *routes) as home:
        assert home.ask("vib/a", window(ts=now_ms()))["status"] == "ok"
        home.gateway.stop()
        taken = now_ms()
        for stream in ("cam/a", "vib/a"):
            for _ in range(3):
                home.device.sent(home.send(stream, window(ts=taken)))
        home.gateway.wait_for(lambda: now_ms() - taken > 600, "stays away too short")
        home.gateway.start()
        home.gateway.wait_ready()
        home.ear.result("vib/a", 4)
        assert all(r["historical"] for r in home.ear.results("vib/a")[1:])
        assert home.ask("cam/a", window(ts=taken))["reason"] == "max_age"
        assert home.ask("cam/a", window(ts=now_ms()))["status"] == "ok"
        assert home.counts("cam/a")["received"] == 2, "a clean session brings nothing from before"


def test_urgent_frames_go_first(home: Site) -> None:
    keep_busy(home)
    order = [("calm", 0), ("plain", None), ("urgent", 9)]
    for name, pr in order:
        home.send(f"slow/{name}", window(1, **({} if pr is None else {"pr": pr})))
    for name, _ in order:
        home.ear.result(f"slow/{name}")
    streams = [r["stream"] for r in home.ear.results() if r["stream"] in ("calm", "plain", "urgent")]
    assert streams == ["urgent", "plain", "calm"]


def test_live_frames_go_before_historical_ones(home: Site) -> None:
    keep_busy(home)
    for seq in range(5):
        home.send("slow/past", window(1, ts=now_ms() - 120_000, seq=seq))
    home.send("slow/live", window(1, ts=now_ms()))
    home.ear.result("slow/past", 5)
    streams = [r["stream"] for r in home.ear.results() if r["stream"] in ("past", "live")]
    assert streams == ["live"] + ["past"] * 5
