"""What a device keeps until its receipt: the rules as tables, and all of them at once against the gateway's own count."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from penstock_gateway.identity import StreamIdentity, Verdict
from penstock_sim.store import Receipt, Store

FAR = 1 << 40


def opened(count: int, window: int = 100, limit: int = 100) -> Store[str]:
    """A store with frames 0 … count-1, all of them out and at the broker, after a receipt that covers none."""
    store: Store[str] = Store(limit)
    store.hear(Receipt("b", -1, (), window))
    for seq in range(count):
        store.put(seq, f"f{seq}")
    while (taken := store.take()) is not None:
        store.posted(taken[0])
    return store


def take_all(store: Store[str]) -> list[int]:
    taken = []
    while (found := store.take()) is not None:
        taken.append(found[0])
    return taken


@pytest.mark.parametrize(
    ("through", "missing", "safe", "again"),
    [
        (-1, (), [], []),
        (3, (), [0, 1, 2, 3], []),
        (9, (), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], []),
        (4, ((0, 0), (2, 3)), [1, 4], [0, 2, 3]),
        (9, ((0, 9),), [], list(range(10))),
        (9, ((5, 5), (1, 1)), [0, 2, 3, 4, 6, 7, 8, 9], [1, 5]),  # in any order
        (4, ((2, 2), (7, 8)), [0, 1, 3, 4], [2]),  # beyond `through` nothing is said
        (FAR, ((3, FAR),), [0, 1, 2], [3, 4, 5, 6, 7, 8, 9]),
        (9, ((4, 3),), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], []),  # an empty range
        (9, ((100, 200),), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], []),
    ],
)
def test_a_receipt_forgets_what_is_safe_and_sends_again_what_is_listed(
    through: int, missing: tuple[tuple[int, int], ...], safe: list[int], again: list[int]
) -> None:
    store = opened(10)
    assert store.hear(Receipt("b", through, missing)) == safe
    assert take_all(store) == again
    assert len(store) == 10 - len(safe)
    assert store.forgotten == 0


def test_until_the_first_receipt_only_the_oldest_frame_is_out() -> None:
    store: Store[str] = Store(10)
    for seq in (4, 5, 6):
        store.put(seq, "")
    assert take_all(store) == [4]
    assert store.hear(Receipt("b", 4)) == [4]
    assert take_all(store) == [5, 6]


def test_the_window_counts_what_is_out_and_zero_stops_resends_too() -> None:
    store = opened(10, window=4)
    assert store.out == 4
    store.hear(Receipt("b", 1, (), 3))
    assert take_all(store) == [4]  # 2 and 3 are out still
    store.hear(Receipt("b", 3, ((2, 2),), 0))
    assert take_all(store) == []
    store.hear(Receipt("b", 3, ((2, 2),), 2))
    assert take_all(store) == [2]  # with 4 it is two that are out


def test_a_frame_that_was_sent_again_is_due_when_what_followed_it_was_seen_and_it_was_not() -> None:
    store = opened(4)
    store.hear(Receipt("b", 3, ((1, 1),)))
    assert take_all(store) == [1]
    store.posted(1)
    for _ in range(3):  # receipts that were made before the second sending could arrive
        store.hear(Receipt("b", 3, ((1, 1),)))
        assert take_all(store) == []
    store.put(4, "")
    assert take_all(store) == [4]
    store.hear(Receipt("b", 4, ((1, 1),)))
    assert take_all(store) == [1]


def test_a_probe_makes_the_next_listing_count() -> None:
    store = opened(4)
    store.hear(Receipt("b", 3, ((1, 1), (3, 3))))
    assert take_all(store) == [1, 3]
    assert store.probe() is None  # both are on their way to the broker
    store.posted(1)
    store.posted(3)
    assert store.probe() == (3, "f3")
    store.posted(3)
    store.hear(Receipt("b", 3, ((1, 1),)))
    assert take_all(store) == [1]


def test_a_probe_is_the_newest_frame_or_before_the_first_receipt_the_oldest() -> None:
    assert opened(5).probe() == (4, "f4")
    store: Store[str] = Store(10)
    store.put(0, "first")
    store.put(1, "second")
    assert store.probe() == (0, "first")  # nothing was out
    assert store.probe() is None
    store.posted(0)
    assert store.probe() == (0, "first")


def test_a_pause_whose_end_is_lost_ends_by_a_probe() -> None:
    store = opened(2)
    store.hear(Receipt("b", 1, (), 0))
    store.put(2, "next")
    assert store.take() is None
    assert store.probe() == (2, "next")


def test_a_new_connection_sends_again_what_the_broker_had_one_frame_first() -> None:
    store = opened(3)
    store.put(3, "")
    assert take_all(store) == [3]  # and not posted: its sender delivers it
    store.reopen()
    assert take_all(store) == []  # 3 is out, and no receipt was heard on this connection
    store.hear(Receipt("b", 0))
    assert take_all(store) == [1, 2]


def test_a_listed_frame_outlives_the_gateway_that_passed_its_gap() -> None:
    store = opened(5)
    store.hear(Receipt("b", 4, ((2, 2),)))
    assert store.hear(Receipt("b", 4)) == []  # passed before it could be sent again
    assert take_all(store) == [2]
    store.posted(2)
    store.reopen()
    assert store.hear(Receipt("b", 4)) == []  # whether it came through is not known
    assert take_all(store) == [2]
    assert store.hear(Receipt("b", 4)) == [2]


def test_what_was_never_sent_is_never_safe() -> None:
    store: Store[str] = Store(10)
    store.put(0, "")
    assert store.hear(Receipt("b", 5)) == []
    store.put(1, "", sent=True)
    assert store.hear(Receipt("b", 5)) == [1]  # an earlier run may have sent it


def test_the_oldest_goes_when_it_is_full() -> None:
    store: Store[str] = Store(3)
    gone = [seq for number in range(6) for seq in store.put(number, "")]
    assert gone == [0, 1, 2] and store.forgotten == 3
    store.posted(0)  # the broker has what is forgotten meanwhile
    assert take_all(store) == [3]


def test_numbers_grow() -> None:
    store = opened(2)
    with pytest.raises(ValueError, match="expected a seq above 1, came 1"):
        store.put(1, "")


def test_frames_that_are_sent_at_once() -> None:
    """The virtual devices' way: kept when sent, and all of it again over a new connection."""
    store: Store[str] = Store(5)
    for seq in range(6):
        store.keep(seq, f"f{seq}")
    assert store.forgotten == 1 and store.paused is True
    assert store.receipt(Receipt("b", 3, ((2, 2),), 10)) == [(2, "f2")]
    assert [seq for seq, _ in store.all()] == [2, 4, 5]
    assert not store.paused
    for seq in range(6, 16):
        assert not store.paused
        store.keep(seq, "")
    assert store.paused and store.forgotten == 9
    store.receipt(Receipt("b", 15, (), 0))
    assert store.paused and len(store) == 0
    store.receipt(Receipt("b", 15, (), 1))
    assert not store.paused
    store.keep(16, "")
    store.keep(0, "after a reboot")
    assert [seq for seq, _ in store.all()] == [0] and store.forgotten == 10


@pytest.mark.parametrize("text", [b'{"v":2,"boot":"b","through":1,"missing":[],"window":1}', b'{"v":1,"boot":"b","through":1,"missing":[],"window":-1}'])  # fmt: skip
def test_a_receipt_of_another_version_or_sense_is_none(text: bytes) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(text, type=Receipt)


class Line(RuleBasedStateMachine):
    """A device's store, a broker that loses, and the gateway's own count of one boot.

    What the device sends stands in `link` (not yet acknowledged), then in `broker`; a kill of the broker empties it and
    breaks the connection, an overflow empties it and tells nobody. Receipts come in order, the last one is retained.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.made = 0
        self.link: list[int] = []
        self.broker: list[int] = []
        self.receipts: list[Receipt] = []
        self.retained: Receipt | None = None
        self.known: set[int] = set()  # at the gateway
        self.sent: set[int] = set()
        self.gone: set[int] = set()  # by the limit
        self.safe: set[int] = set()
        self.again: set[int] = set()  # what may be sent again
        self.owed: set[int] = set()  # was listed once, and not sent since
        self.listed: set[int] = set()
        self.window = 1
        self.calm = True  # no connection broke yet, and nothing was probed

    @initialize(limit=st.integers(3, 12), passes=st.booleans(), first=st.integers(0, 2))
    def begin(self, limit: int, passes: bool, first: int) -> None:
        self.store: Store[int] = Store(limit)
        self.gateway = StreamIdentity("door/vib", 30.0 if passes else 1e9)
        self.made = first

    # --- the device

    @rule(count=st.integers(1, 6))
    def make(self, count: int) -> None:
        for _ in range(count):
            self.gone |= set(self.store.put(self.made, self.made))
            self.made += 1

    @rule(count=st.integers(1, 8))
    def take(self, count: int) -> None:
        for _ in range(count):
            out = self.store.out
            found = self.store.take()
            if found is None:
                return
            assert found[0] == found[1] and out < self.window, "more than the window was out"
            self._check_reason(found[0])
            self._send(found[0])

    def _check_reason(self, seq: int) -> None:
        if seq not in self.sent:
            assert seq > max(self.sent, default=-1)
            return
        assert seq in self.again, "sent again without a reason"
        assert not self.calm or seq not in self.link + self.broker, "sent again while it is on its way"
        self.again.discard(seq)

    @rule()
    def probe(self) -> None:
        if (found := self.store.probe()) is not None:
            self.calm = False
            self._send(found[0])

    def _send(self, seq: int) -> None:
        assert seq not in self.link
        self.sent.add(seq)
        self.owed.discard(seq)
        self.link.append(seq)

    # --- the broker

    @precondition(lambda self: self.link)
    @rule(count=st.integers(1, 5))
    def post(self, count: int) -> None:
        for seq in self.link[:count]:
            self.broker.append(seq)
            self.store.posted(seq)
        del self.link[:count]

    @rule(keeps=st.booleans(), retains=st.booleans())
    def reconnect(self, keeps: bool, retains: bool) -> None:
        """A connection breaks; the broker may have been killed, with what it had."""
        self.receipts.clear()
        if not keeps:
            self.broker.clear()
            self.retained = self.retained if retains else None
        self.store.reopen()
        self.window, self.calm = 1, False
        self.again |= self.sent - self.safe - self.gone
        if self.retained is not None:
            self.receipts.append(self.retained)

    @rule(first=st.integers(0, 6), count=st.integers(1, 3))
    def overflow(self, first: int, count: int) -> None:
        """The broker drops some, and has told their sender Success."""
        del self.broker[first : first + count]

    @rule(first=st.integers(0, 6), count=st.integers(0, 3))
    def go_round(self, first: int, count: int) -> None:
        """Some frames on their whole way, with a loss on it, and the receipt for the rest."""
        self.take(8)
        if self.link:
            self.post(len(self.link))
        self.overflow(first, count)
        if self.broker:
            self.deliver(len(self.broker))
        self.say(100)
        while self.receipts:
            self.hear()

    # --- the gateway

    @precondition(lambda self: self.broker)
    @rule(count=st.integers(1, 5))
    def deliver(self, count: int) -> None:
        for seq in self.broker[:count]:
            verdict, _ = self.gateway.offer("b", seq, self.now)
            assert (verdict is Verdict.DUPLICATE) == (seq in self.known)
            self.known.add(seq)
        del self.broker[:count]

    @rule(seconds=st.sampled_from([1.0, 40.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.gateway.expire(self.now)

    @rule(window=st.sampled_from([0, 1, 2, 5, 100, 100]))
    def say(self, window: int) -> None:
        told = self.gateway.progress()
        if told.boot:
            self.retained = Receipt("b", told.through, told.missing, window)
            self.receipts.append(self.retained)

    @precondition(lambda self: self.receipts)
    @rule()
    def hear(self) -> None:
        receipt = self.receipts.pop(0)
        listed = {seq for a, b in receipt.missing for seq in range(a, b + 1)}
        safe = set(self.store.hear(receipt))
        self.window = receipt.window
        self.again |= listed & self.sent
        assert not safe & (listed | self.owed)
        if self.calm:
            self.owed |= (listed & self.again) - self.listed - self.safe - self.gone
        self.listed |= listed
        for seq in safe:
            assert seq <= receipt.through and seq in self.sent
            assert seq in self.known or self._passed(seq), f"{seq} was forgotten and never arrived"
        self.safe |= safe

    def _passed(self, seq: int) -> bool:
        """Whether the gateway gave it up, and counted that."""
        window = self.gateway._boots["b"]
        return window.first <= seq < window.passed_to

    # --- always

    @invariant()
    def nothing_is_lost_silently(self) -> None:
        if not hasattr(self, "store"):
            return
        kept = {seq for seq, _ in self.store.all()}
        made = self.sent | kept | self.gone | self.safe
        assert made == kept | self.gone | self.safe and not kept & (self.gone | self.safe)
        assert len(self.gone) == self.store.forgotten

    def teardown(self) -> None:
        """With a line that works again, everything kept gets through."""
        if not hasattr(self, "store"):
            return
        for _ in range(20 * (len(self.store) + 2)):
            if not len(self.store):
                return
            while self.link or self.broker:
                self.post(5) if self.link else self.deliver(5)
            self.say(100)
            while self.receipts:
                self.hear()
            self.take(len(self.store))
            if not self.link:
                self.probe()
        raise AssertionError(f"stuck with {[seq for seq, _ in self.store.all()]}")


Line.TestCase.settings = settings(max_examples=300, stateful_step_count=50)
TestLine: Any = Line.TestCase
