"""Identity of frames: verdicts, gaps, receipts, bounds; a state machine against a set of every number."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from penstock_gateway.identity import (
    LISTED,
    MAX_BOOTS,
    MAX_RANGES,
    MAX_SEQ,
    Progress,
    RecentDigests,
    SeqWindow,
    StreamIdentity,
    Verdict,
    frame_digest,
)

NEW, DUPLICATE, LATE = Verdict.NEW, Verdict.DUPLICATE, Verdict.LATE
GAP_S = 30.0


def stream(*numbers: int, boot: str = "b", now_s: float = 0.0) -> StreamIdentity:
    identity = StreamIdentity("dev/cam", GAP_S)
    for seq in numbers:
        identity.offer(boot, seq, now_s)
    return identity


@pytest.mark.parametrize(
    ("numbers", "through", "missing"),
    [
        ((0,), 0, ()),
        ((7,), 7, ()),
        ((0, 1, 2), 2, ()),
        ((5, 8), 8, ((6, 7),)),
        ((5, 8, 6), 8, ((7, 7),)),
        ((5, 8, 6, 7), 8, ()),
        ((5, 9, 7), 9, ((6, 6), (8, 8))),
        ((5, 3), 5, ()),
        ((5, 3, 7), 7, ((6, 6),)),
        ((0, MAX_SEQ), MAX_SEQ, ((1, MAX_SEQ - 1),)),
        (tuple(range(0, 34, 2)), 32, tuple((n, n) for n in range(1, 32, 2))),
        (tuple(range(0, 36, 2)), 32, tuple((n, n) for n in range(1, 32, 2))),
        (tuple(range(0, 80, 2)), 32, tuple((n, n) for n in range(1, 32, 2))),
    ],
)
def test_progress_says_what_arrived_and_stops_before_a_17th_gap(
    numbers: tuple[int, ...], through: int, missing: tuple[tuple[int, int], ...]
) -> None:
    assert stream(*numbers).progress() == Progress("b", through, missing)


def test_a_number_is_new_once_in_each_boot() -> None:
    identity = stream(5, 3)
    assert identity.offer("b", 3, 0.0) == (DUPLICATE, 0)
    assert identity.offer("b", 5, 0.0) == (DUPLICATE, 0)
    assert identity.offer("b", 4, 0.0) == (NEW, 0)
    assert identity.offer("c", 5, 0.0) == (NEW, 0)


@pytest.mark.parametrize(("boot", "seq"), [(None, 1), ("b", None), (None, None)])
def test_a_frame_without_a_full_number_is_always_new(boot: str | None, seq: int | None) -> None:
    identity = stream()
    assert [identity.offer(boot, seq, 0.0) for _ in range(2)] == [(NEW, 0), (NEW, 0)]
    assert identity.progress() == Progress()


def test_a_gap_is_counted_after_its_time_and_a_late_frame_lowers_the_count() -> None:
    identity = stream(0, 4, now_s=100.0)
    assert identity.next_due() == 130.0
    assert identity.expire(129.9) == 0
    assert identity.progress().missing == ((1, 3),)
    assert identity.expire(130.0) == 3
    assert identity.progress() == Progress("b", 4)
    assert identity.next_due() is None
    assert identity.offer("b", 2, 131.0) == (LATE, -1)
    assert identity.offer("b", 2, 131.0) == (DUPLICATE, 0)


def test_a_gap_beyond_the_16th_has_its_time_from_when_it_is_listed() -> None:
    identity = stream(*range(0, 36, 2))  # 17 gaps
    assert identity.expire(GAP_S) == LISTED
    assert identity.progress() == Progress("b", 34, ((33, 33),))
    assert identity.expire(2 * GAP_S - 0.1) == 0
    assert identity.expire(2 * GAP_S) == 1


def test_a_recovered_gap_lets_the_next_one_be_listed() -> None:
    identity = stream(*range(0, 36, 2))
    identity.offer("b", 1, 10.0)
    assert identity.progress() == Progress("b", 34, tuple((n, n) for n in range(3, 34, 2)))
    assert identity.expire(GAP_S) == LISTED - 1
    assert identity.expire(10.0 + GAP_S) == 1


def test_a_split_gap_keeps_its_age() -> None:
    identity = stream(0, 10)
    identity.offer("b", 5, 20.0)
    assert identity.expire(GAP_S) == 8


def test_receipts_speak_of_the_newest_boot_and_only_of_what_is_durable() -> None:
    identity = stream(0, 1)
    sealed = identity.seal(0.0)
    identity.offer("b", 2, 0.0)
    assert identity.durable == Progress()
    identity.confirm(sealed)
    assert identity.durable == Progress("b", 1)
    identity.offer("c", 0, 0.0)
    identity.offer("b", 3, 0.0)
    identity.confirm(identity.seal(0.0))
    assert identity.durable == Progress("c", 0)


def test_a_fifth_boot_evicts_the_one_unused_for_longest_and_counts_its_gaps() -> None:
    identity = StreamIdentity("dev/cam", GAP_S)
    for boot in "abcd":
        identity.offer(boot, 0, 0.0)
        identity.offer(boot, 3, 0.0)
    identity.offer("a", 4, 0.0)
    assert identity.offer("e", 0, 0.0) == (NEW, 2)  # b goes, awaiting 1 and 2
    assert identity.offer("a", 4, 0.0) == (DUPLICATE, 0)
    assert identity.seal(0.0).missing == 2


def test_the_bound_on_ranges_counts_the_oldest_gaps_early_and_forgets_them() -> None:
    window, lost = SeqWindow(0), 0
    for seq in range(0, 2 * MAX_RANGES + 20, 2):
        window.offer(seq, 0.0)
        lost += window.shrink(0.0)
    assert len(window.have) == 2 * MAX_RANGES
    assert lost == 10
    assert window.offer(1, 0.0) is DUPLICATE
    assert window.offer(21, 0.0) is NEW


def test_memory_is_small_and_bounded() -> None:
    def size(identity: StreamIdentity) -> int:
        parts: list[Any] = [identity, identity._boots, identity.durable]
        for window in identity._boots.values():
            parts += [window, window.have, window._marks, *window._marks]
        return sum(map(sys.getsizeof, parts))

    plain = stream(*range(1000))
    plain.confirm(plain.seal(0.0))
    assert size(plain) < 800
    assert len(plain.seal(0.0).blob) < 40
    worst = StreamIdentity("dev/cam", GAP_S)
    for boot in range(MAX_BOOTS + 2):
        for seq in range(0, 10 * MAX_RANGES, 2):
            worst.offer(f"boot-{boot}", MAX_SEQ - 10 * MAX_RANGES + seq, float(seq))
    worst.confirm(worst.seal(0.0))
    assert size(worst) < 16_000


def test_a_restart_keeps_verdicts_receipts_and_ages_but_not_the_time_between() -> None:
    before = stream(0, 4, now_s=100.0)
    sealed = before.seal(now_s=110.0)
    after = StreamIdentity.restore("dev/cam", sealed.blob, GAP_S, now_s=5.0)
    assert after.durable == Progress("b", 4, ((1, 3),))
    assert after.offer("b", 4, 5.0) == (DUPLICATE, 0)
    assert after.next_due() == 25.0  # ten of its thirty seconds are over
    assert after.expire(25.0) == 3


@pytest.mark.parametrize("blob", [b"", b"\xc1", b"\x93\x02\xa0\x90", b"\x90"])
def test_a_damaged_or_newer_blob_is_refused_with_the_name_of_its_stream(blob: bytes) -> None:
    with pytest.raises(ValueError, match="stream dev/cam: identity"):
        StreamIdentity.restore("dev/cam", blob, GAP_S, 0.0)


def test_only_a_redelivery_of_the_same_payload_is_a_duplicate() -> None:
    recent = RecentDigests(limit=2)
    a, b, c = (frame_digest(1, "t", payload) for payload in (b"a", b"b", b"c"))
    assert recent.offer(a, dup=False)
    assert recent.offer(a, dup=False)  # the device's own second sending
    assert not recent.offer(a, dup=True)
    assert recent.offer(b, dup=True)  # the first delivery never reached us
    assert recent.offer(c, dup=False)
    assert recent.offer(a, dup=True)  # forgotten: two newer ones came
    assert len({frame_digest(1, "t", b"a"), frame_digest(1, "u", b"a"), frame_digest(2, "t", b"a")}) == 3
    assert not RecentDigests(2, known=[a]).offer(a, dup=True)


class AgainstEveryNumber(RuleBasedStateMachine):
    """The stream against a model that keeps every number and every awaited gap as plain sets."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.stream = StreamIdentity("dev/cam", GAP_S)
        self.seen: dict[str, set[int]] = {}
        self.first: dict[str, int] = {}
        self.passed: dict[str, set[int]] = {}
        self.since: dict[str, dict[int, float]] = {}
        self.missing = 0
        self.newest = ""

    @rule(
        boot=st.sampled_from("ab"),
        jump=st.one_of(st.just(1), st.integers(-8, 6), st.just(40)),
        n=st.integers(1, 3),
    )
    def offer(self, boot: str, jump: int, n: int) -> None:
        for _ in range(n):
            seq = max(0, max(self.seen.get(boot, {100})) + jump)
            self._offer(boot, seq)

    @precondition(lambda self: any(self.passed.values()))
    @rule(data=st.data())
    def offer_late(self, data: st.DataObject) -> None:
        boot = data.draw(st.sampled_from([b for b, numbers in self.passed.items() if numbers]))
        self._offer(boot, data.draw(st.sampled_from(sorted(self.passed[boot]))))

    def _offer(self, boot: str, seq: int) -> None:
        if boot not in self.seen:
            self.newest = boot
            self.seen[boot], self.passed[boot], self.since[boot] = set(), set(), {}
            self.first[boot] = seq
        expected = (NEW, 0)
        if seq in self.seen[boot]:
            expected = (DUPLICATE, 0)
        elif seq in self.passed[boot]:
            expected = (LATE, -1)
            self.passed[boot].remove(seq)
            self.missing -= 1
        self.seen[boot].add(seq)
        self._relist(boot)
        assert self.stream.offer(boot, seq, self.now) == expected

    def _gaps(self, boot: str) -> list[list[int]]:
        """The awaited numbers in runs; a run ends at a number that came, not at one that was passed."""
        runs: list[list[int]] = [[]]
        for seq in range(self.first[boot], max(self.seen[boot])):
            if seq in self.seen[boot]:
                runs.append([])
            elif seq not in self.passed[boot]:
                runs[-1].append(seq)
        return [run for run in runs if run]

    def _relist(self, boot: str) -> None:
        listed = {seq for run in self._gaps(boot)[:LISTED] for seq in run}
        old = self.since[boot]
        self.since[boot] = {seq: old.get(seq, self.now) for seq in listed}

    @rule(seconds=st.sampled_from([0.5, 7.0, 31.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        expected = 0
        for boot in self.seen:
            while due := {s for s, since in self.since[boot].items() if since + GAP_S <= self.now}:
                expected += len(due)
                self.passed[boot] |= due
                self._relist(boot)
        self.missing += expected
        assert self.stream.expire(self.now) == expected

    @rule()
    def restart(self) -> None:
        blob = self.stream.seal(self.now).blob
        self.stream = StreamIdentity.restore("dev/cam", blob, GAP_S, self.now)

    @invariant()
    def receipt_is_right(self) -> None:
        if not self.seen:
            return
        told = self.stream.progress()
        runs = self._gaps(self.newest)
        assert told.boot == self.newest
        assert [list(range(a, b + 1)) for a, b in told.missing] == runs[:LISTED]
        assert told.through == (runs[LISTED][0] - 1 if len(runs) > LISTED else max(self.seen[self.newest]))

    @invariant()
    def counted_is_what_was_passed(self) -> None:
        assert self.missing == sum(map(len, self.passed.values()))


AgainstEveryNumber.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAgainstEveryNumber = AgainstEveryNumber.TestCase
