"""Too much at once: the newest picture wins, every stream gets its share, and a full route is its own affair."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.fakes.clients import Device, envelope
from tests.fakes.clients_steady import Steady
from tests.fakes.gateway_site import Site, device_route, route, site, topic

pytestmark = pytest.mark.system

SLOW = envelope([20_000.0, 0, 0, 0])
"""Tens of milliseconds of `patient`."""

SLOW_IS_FULL = [True, False, False]
"""Which of the `every` routes stopped reading."""


def numbered(value: float, **keys: int) -> Callable[[int], bytes]:
    return lambda n: envelope([value, 0, 0, 0], boot="b1", seq=n, **keys)


@pytest.fixture
def home(store: Path, tmp_path: Path) -> Iterator[Site]:
    routes = (
        route("patient", deadline_ms=5000),
        device_route("patient", "slow", kind="data", mode="every", queue=50, deadline_ms=60_000),
        device_route("halves", "quick", kind="data", mode="every"),
        device_route("patient", "same", kind="data", mode="every"),
    )
    with site(tmp_path, store, *routes, top="threads = 2") as made:
        yield made


def test_the_newest_frame_replaces_the_one_that_waits(home: Site) -> None:
    """A burst on one stream: the first runs, the last is answered, and what lay between is superseded."""
    for n in range(50):
        home.send("door/cam", numbered(20_000.0)(n))
    home.ear.wait(lambda: [r["seq"] for r in home.ear.results("door/cam")][-1:] == [49], "the newest")
    seen = [r["seq"] for r in home.ear.results("door/cam")]
    assert seen == sorted(seen)
    total = home.check_books()
    assert total["answered"] + total["superseded"] == 50 and total["superseded"] >= 40
    assert total["reasons"] == {"superseded": {"newer_frame": total["superseded"]}}


def test_a_flooding_stream_leaves_the_others_their_share(home: Site) -> None:
    """One camera sends 40 times what the others do; each of theirs is answered."""
    with Device(home.broker) as flood, Device(home.broker) as calm, ExitStack() as running:
        flooding = Steady(flood, topic("flood/cam"), 200, numbered(10_000.0), qos=0)
        calm_ones = [Steady(calm, topic(f"calm/{n}"), 4, numbered(1.0), count=12) for n in range(3)]
        running.enter_context(flooding)
        for stream in calm_ones:
            running.enter_context(stream)
        for stream in calm_ones:
            stream.join()
        flooding.stop()
        for stream in calm_ones:
            stream.check_kept(home.ear)
        total = home.check_books(more=flooding.sent + sum(stream.sent for stream in calm_ones))
        counts = home.counts("flood/cam")
        assert counts["answered"] > 0 and counts["superseded"] > 0
        assert total["superseded"] == counts["superseded"]


@pytest.mark.parametrize(("other", "rate"), [("quick", 100), ("same", 10)])
def test_a_full_route_leaves_another_its_rate_and_its_acknowledgements(
    home: Site, other: str, rate: int, record_property: Callable[[str, object], None]
) -> None:
    """`slow` gets far more than its model can do: it stops reading. Another route, on a model of its own or on the same
    one, keeps its beat and its receipts, though `slow` calls its frames urgent."""
    count = 4 * rate
    with Device(home.broker) as flood, Device(home.broker) as calm, ExitStack() as running:
        flooding = [Steady(flood, topic(f"slow/{n}", "data"), 75, numbered(20_000.0, pr=9)) for n in range(4)]
        quiet = Steady(calm, topic(f"{other}/vib", "data"), rate, numbered(1.0), count=count)
        for stream in flooding:
            running.enter_context(stream)
        home.gateway.wait_for(lambda: paused(home) == SLOW_IS_FULL, "has not filled the slow route")
        with quiet:
            quiet.join()
        assert paused(home) == SLOW_IS_FULL
        record_property("share of the rate", round(quiet.check_kept(home.ear), 4))
        home.ear.wait(lambda: through(home, f"{other}/vib") == count - 1, "the receipt", timeout_s=1.5)
    slow = [home.counts(f"slow/{n}") for n in range(4)]
    assert sum(c["received"] for c in slow) <= 50 + 1000 + sum(c["answered"] for c in slow)
    assert home.counts(f"{other}/vib")["answered"] == count
    told = [h.body["window"] for h in home.ear.heard(topic=topic("slow/0", "receipt"))]
    assert 0 in told, "a device of a full route is told to pause"


def paused(home: Site) -> list[bool]:
    return [found["paused"] for found in home.page()["routes"] if found["mode"] == "every"]


def through(home: Site, stream: str) -> int:
    told = home.ear.heard(topic=topic(stream, "receipt"))
    return int(told[-1].body["through"]) if told else -1


def test_a_full_route_drops_what_its_configuration_says(store: Path, tmp_path: Path) -> None:
    """`drop_oldest` and `drop_newest` count each frame as `dropped: full`, and keep reading."""
    routes = (
        device_route("patient", "old", mode="every", queue=10, on_full="drop_oldest", deadline_ms=60_000),
        device_route("patient", "new", mode="every", queue=10, on_full="drop_newest", deadline_ms=60_000),
    )
    with site(tmp_path, store, *routes, top="threads = 2") as home:
        for _ in range(4):  # the gateway learns how slow it is, and makes no batch as large as the queue
            home.ask("old/first", SLOW)
        for n in range(40):
            for device in ("old", "new"):
                home.send(f"{device}/vib", numbered(20_000.0)(n))
        home.gateway.wait_settled(84)
        kept: dict[str, list[int]] = {}
        for device in ("old", "new"):
            counts = home.counts(f"{device}/vib")
            home.ear.result(f"{device}/vib", counts["answered"])  # the books are closed first
            kept[device] = [result["seq"] for result in home.ear.results(f"{device}/vib")]
            assert counts["answered"] + counts["dropped"] == 40
            assert counts["reasons"] == {"dropped": {"full": counts["dropped"]}}
            assert 10 <= counts["answered"] < 40
        assert 39 in kept["old"] and 39 not in kept["new"] and {0, 1, 2} <= set(kept["new"])
        assert kept["old"] == sorted(kept["old"]) and kept["new"] == sorted(kept["new"])
