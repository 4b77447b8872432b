"""Every way in which devices and ledger can disagree is found and named; books of the same fates never disagree."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from penstock_gateway.ledger import FATES, Counts, Fate
from penstock_gateway.wire import LedgerView
from penstock_sim.measure import ledgers
from penstock_sim.measure.closing import Allowed, Heard, differences, lost

ANSWERED: Fate = ("answered", "")
SILENT = ("superseded", "duplicate", "dropped", "unchanged")


def ledger(fates: Sequence[Fate], in_flight: int = 0, carried: int = 0, late: int = 0) -> dict[str, Any]:
    """As the gateway's status page has it."""
    counts = Counts()
    counts.received, counts.carried, counts.late = len(fates) + in_flight, carried, late
    for fate in fates:
        counts.settle(fate)
    return dict(msgspec.to_builtins(LedgerView.of(counts)))


def results(fates: Sequence[Fate]) -> dict[str, int]:
    """What a device hears of them."""
    told: Counter[str] = Counter()
    for bucket, reason in fates:
        if bucket not in SILENT and reason != "topic":
            status = ("degraded" if reason else "ok") if bucket == "answered" else bucket
            told[f"{status}: {reason}" if reason else status] += 1
    return dict(told)


FOUR: list[Fate] = [ANSWERED, ANSWERED, ("expired", "in_queue"), ("superseded", "newer_frame")]
HEARD = {"ok": 2, "expired: in_queue": 1}


@pytest.mark.parametrize(
    ("heard", "changed", "allowed", "found"),
    [
        (Heard(4, HEARD), {}, Allowed(), []),
        # The ledger's own sum
        (Heard(4, HEARD), {"received": 5}, Allowed(), ["sum of the ledger's fates: expected 5, came 4",
                                                      "frames in the ledger that were sent: expected 4, came 5"]),
        (Heard(5, HEARD), {"received": 5, "in_flight": 1}, Allowed(), ["frames without a fate at the end: expected 0, came 1"]),
        (Heard(5, HEARD), {"received": 5, "unknown": 1}, Allowed(), []),
        (Heard(4, HEARD), {"received": 5, "carried_out": 1, "carried": 1}, Allowed(), []),
        # Frames
        (Heard(6, HEARD), {}, Allowed(), ["frames lost: expected 0, came 2"]),
        (Heard(6, HEARD), {}, Allowed(lost=2), []),
        (Heard(6, HEARD), {}, Allowed(lost=1), ["frames lost: expected 1, came 2"]),
        (Heard(6, HEARD), {}, Allowed(lost=math.inf), []),
        (Heard(3, HEARD), {}, Allowed(lost=math.inf), ["frames in the ledger that were sent: expected 3, came 4"]),
        (Heard(4, HEARD), {"received": 5, "duplicate": 1}, Allowed(), []),
        # Results
        (Heard(4, {"ok": 1, "expired: in_queue": 1}), {}, Allowed(), ["results answered: expected 2, came 1"]),
        (Heard(4, {"ok": 1, "expired: in_queue": 1}), {}, Allowed(unheard=True), []),
        (Heard(4, {"ok": 3, "expired: in_queue": 1}), {}, Allowed(unheard=True), ["results answered: expected 2, came 3"]),
        (Heard(4, {"ok": 3, "expired: in_queue": 1}), {}, Allowed(uncounted=1), []),
        (Heard(4, {"ok": 4, "expired: in_queue": 1}), {}, Allowed(uncounted=1), ["results answered: expected 2, came 4"]),
        (Heard(4, {"ok": 3, "expired: in_queue": 2}), {}, Allowed(uncounted=1),
         ["results expired: in_queue: expected 1, came 2"]),
        (Heard(4, {"ok": 2, "expired: on_arrival": 1}), {}, Allowed(),
         ["results expired: in_queue: expected 1, came 0", "results expired: on_arrival: expected 0, came 1"]),
        (Heard(4, {"ok": 1, "degraded: stale": 1, "expired: in_queue": 1}), {}, Allowed(),
         ["results answered: expected 2, came 1", "results answered: stale: expected 0, came 1"]),
        (Heard(4, {"degraded: stale": 2, "expired: in_queue": 1}),
         {"reasons": {"answered": {"stale": 2}, "expired": {"in_queue": 1}}}, Allowed(), []),
        (Heard(4, HEARD | {"superseded: newer_frame": 1}), {}, Allowed(),
         ["results superseded: newer_frame: expected 0, came 1"]),
        (Heard(4, HEARD | {"rejected: topic": 1}), {}, Allowed(), ["results rejected: topic: expected 0, came 1"]),
        (Heard(4, HEARD | {"perhaps": 1}), {}, Allowed(), ["results perhaps: expected 0, came 1"]),
        (Heard(4, HEARD | {"unchanged: gate": 1}), {}, Allowed(), ["results unchanged: gate: expected 0, came 1"]),
        (Heard(6, HEARD | {"unchanged: gate": 1}),
         {"received": 6, "unchanged": 2, "reasons": {"unchanged": {"gate": 2}, "expired": {"in_queue": 1}}}, Allowed(), []),
        (Heard(4, HEARD, repeated=2), {}, Allowed(), ["frames with a second result: expected 0, came 2"]),
        (Heard(4, HEARD, repeated=2), {}, Allowed(uncounted=2), []),
        (Heard(4, HEARD, repeated=3), {}, Allowed(uncounted=2), ["frames with a second result: expected 0, came 1"]),
        (Heard(4, HEARD, unmatched=1), {}, Allowed(math.inf, True, True, 9), ["results of no frame that was sent: expected 0, came 1"]),
        # Deadlines
        (Heard(4, HEARD, late=2), {"late": 1}, Allowed(),
         ["answers after their deadline that the ledger counts as late: expected 1, came 2"]),
        (Heard(4, HEARD, late=2), {"late": 2}, Allowed(), []),
        (Heard(4, HEARD, late=0), {"late": 2}, Allowed(), []),
        (Heard(4, HEARD, late=2), {}, Allowed(delayed=True), []),
    ],
)  # fmt: skip
def test_what_does_not_agree_is_named(
    heard: Heard, changed: dict[str, Any], allowed: Allowed, found: list[str]
) -> None:
    told = [str(one) for one in differences("cam/a", heard, ledger(FOUR) | changed, allowed)]
    assert told == [f"cam/a: {what}" for what in found]


def test_lost_frames_are_those_that_never_arrived() -> None:
    assert lost(Heard(9, HEARD), ledger(FOUR)) == 5
    assert lost(Heard(9, HEARD), ledger([*FOUR, ("duplicate", "duplicate")], carried=1)) == 6
    assert lost(Heard(3, HEARD), ledger(FOUR)) == 0


@given(fates=st.lists(st.sampled_from(sorted(FATES)), max_size=60), uncounted=st.integers(0, 5))
def test_books_of_the_same_fates_never_differ(fates: list[Fate], uncounted: int) -> None:
    sent = sum(bucket != "duplicate" for bucket, _ in fates)
    for allowed in (Allowed(), Allowed(math.inf, True, True, uncounted)):
        assert differences("cam/a", Heard(sent, results(fates)), ledger(fates), allowed) == []


@given(fates=st.lists(st.sampled_from(sorted(FATES)), min_size=1, max_size=30), data=st.data())
def test_one_frame_with_another_fate_at_the_devices_always_differs(
    fates: list[Fate], data: st.DataObject
) -> None:
    number = data.draw(st.integers(0, len(fates) - 1))
    other = data.draw(st.sampled_from(sorted(FATES)))
    heard = [*fates[:number], other, *fates[number + 1 :]]
    sent = sum(bucket != "duplicate" for bucket, _ in heard)
    same = results(heard) == results(fates) and sent == sum(bucket != "duplicate" for bucket, _ in fates)
    assert same == (differences("cam/a", Heard(sent, results(heard)), ledger(fates)) == [])


START = st.tuples(st.lists(st.sampled_from(sorted(FATES)), max_size=12), st.integers(0, 3), st.integers(0, 3))
"""What a start settles, how many frames it leaves in its journal, and how many it had in flight without one."""


@given(
    earlier=st.lists(st.sampled_from(sorted(FATES)), max_size=9),
    starts=st.lists(START, min_size=1, max_size=5),
)
def test_books_close_over_the_kills_of_a_gateway(
    earlier: list[Fate], starts: list[tuple[list[Fate], int, int]]
) -> None:
    """Each start takes over what the one before left, settles some frames, and is killed; the last one settles all."""
    ended: list[dict[str, Any]] = [
        {"start": "long ago", "ledger": ledger(FOUR), "carried_out": 0, "unknown": 0}
    ]
    carried = sent = 0
    told: list[Fate] = []
    for number, (settled, left, unknown) in enumerate(starts):
        last = number == len(starts) - 1
        left, unknown = (0, 0) if last else (left, unknown)
        fates = settled + [ANSWERED] * max(
            0, carried - left
        )  # what was carried over is settled, or left again
        if not last and len(fates) + left < carried:
            left = carried - len(fates)
        new = len(fates) + left + unknown - carried
        sent += new - sum(bucket == "duplicate" for bucket, _ in fates)
        told += fates
        books = ledger([*(earlier if number == 0 else []), *fates])
        books |= {"received": books["received"] + left + unknown, "carried": carried, "in_flight": 0}
        ended.append({"start": str(number), "ledger": books, "carried_out": left, "unknown": unknown})
        carried = left
    before = {"start": "0", "ledger": ledger(earlier), "streams": {}}
    after = {"start": ended[-1]["start"], "ledger": ended[-1]["ledger"], "starts": ended[:-1], "streams": {}}
    total = ledgers.whole(before, after)
    assert total is not None
    assert differences("all", Heard(sent, results(told)), total) == []
    assert (ledgers.streams(before, after) is None) == (len(starts) > 1)


def test_streams_are_taken_from_one_start_less_what_was_there_before() -> None:
    before = {"start": "a", "ledger": ledger(FOUR), "streams": {"cam/a": ledger(FOUR)}}
    after = {
        "start": "a", "starts": [], "ledger": ledger(FOUR * 3),
        "streams": {"cam/a": ledger(FOUR * 2, in_flight=1), "cam/b": ledger(FOUR)},
    }  # fmt: skip
    found = ledgers.streams(before, after)
    assert found is not None
    assert {name: (one["received"], one["in_flight"]) for name, one in found.items()} == {
        "cam/a": (5, 1),
        "cam/b": (4, 0),
    }
    assert found["cam/a"]["reasons"] == {"expired": {"in_queue": 1}, "superseded": {"newer_frame": 1}}
    assert ledgers.streams(None, after) is None
    whole = ledgers.whole(before, after)
    assert whole is not None and whole["received"] == 8
    everything = ledgers.whole(None, after)
    assert everything is not None and everything["received"] == 12


def test_a_start_that_the_gateway_has_forgotten_makes_no_total() -> None:
    ended = [{"start": str(n), "ledger": ledger(FOUR), "carried_out": 0, "unknown": 0} for n in range(2, 18)]
    after = {"start": "18", "ledger": ledger(FOUR), "starts": ended}
    assert ledgers.whole({"start": "1", "ledger": ledger(FOUR)}, after) is None
