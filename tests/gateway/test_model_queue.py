"""Whose turn it is: urgent before usual before historical, streams in turn, in order within a stream."""

from collections import deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from penstock_gateway.frames import HISTORICAL_RANK, NO_DEADLINE, Frame, Stream
from penstock_gateway.ledger import Counts
from penstock_gateway.model_queue import ModelQueue


def stream(name: str, lane: Any = None) -> Stream:
    return Stream("dev", name, lane, Counts(), ("", ""))


def frame(of: Stream, n: int = 0, rank: int = 4, deadline: float = NO_DEADLINE) -> Frame:
    made = Frame(of, f"{of.name}{n}", 0.0, 0, 1)
    made.rank, made.deadline = rank, deadline
    return made


def ids(frames: list[Frame]) -> list[str]:
    return [f.id for f in frames]


def test_streams_take_turns() -> None:
    queue, a, b = ModelQueue(), stream("a"), stream("b")
    for n in range(3):
        queue.push(frame(a, n))
    queue.push(frame(b, 0))
    assert ids(queue.take(3, 0.0, 0.0).batch) == ["a0", "b0", "a1"]


def test_lanes_take_turns_whatever_their_streams_and_priorities() -> None:
    queue, b = ModelQueue(), stream("b", "quiet")
    for n in range(5):
        queue.push(frame(stream(f"a{n}", "flooded"), rank=0))
        queue.push(frame(b, n))
    assert ids(queue.take(6, 0.0, 0.0).batch) == ["a00", "b0", "a10", "b1", "a20", "b2"]


def test_historical_frames_of_a_lane_wait_for_the_live_ones_of_all() -> None:
    queue, a, b = ModelQueue(), stream("a", "one"), stream("b", "two")
    queue.push(frame(a, rank=HISTORICAL_RANK))
    for n in range(2):
        queue.push(frame(b, n))
    assert ids(queue.take(9, 0.0, 0.0).batch) == ["b0", "b1", "a0"]


def test_drain_takes_what_waits_behind_a_batch_too() -> None:
    queue, a = ModelQueue(), stream("a")
    for n in range(3):
        queue.push(frame(a, n))
    queue.take(1, 0.0, 0.0)
    assert ids(queue.drain()) == ["a1", "a2"] and queue.waiting == 0


def test_a_stream_that_runs_gives_no_more_frames_until_its_batch_is_done() -> None:
    queue, a, b = ModelQueue(), stream("a"), stream("b")
    for n in range(2):
        queue.push(frame(a, n))
    first = queue.take(1, 0.0, 0.0).batch
    queue.push(frame(b, 0))
    assert ids(queue.take(9, 0.0, 0.0).batch) == ["b0"]
    assert not queue.ready
    queue.release(first)
    assert ids(queue.take(9, 0.0, 0.0).batch) == ["a1"]


def test_a_stateful_model_gets_one_frame_of_a_stream_at_a_time() -> None:
    queue, a, b = ModelQueue(one_per_stream=True), stream("a"), stream("b")
    for n in range(2):
        queue.push(frame(a, n))
        queue.push(frame(b, n))
    assert ids(queue.take(9, 0.0, 0.0).batch) == ["a0", "b0"]


def test_urgent_first_historical_last() -> None:
    queue, a, b, c = ModelQueue(), stream("a"), stream("b"), stream("c")
    queue.push(frame(a, rank=HISTORICAL_RANK))
    queue.push(frame(b))
    queue.push(frame(c, rank=0))
    queue.push(frame(a, 1, rank=0))  # overtakes within its own stream too
    assert ids(queue.take(9, 0.0, 0.0).batch) == ["c0", "a1", "b0", "a0"]


def test_a_removed_urgent_frame_takes_its_urgency_with_it() -> None:
    queue, a, b = ModelQueue(), stream("a"), stream("b")
    urgent = frame(a, 0, rank=0)
    queue.push(urgent)
    queue.push(frame(a, 1, rank=HISTORICAL_RANK))
    queue.remove(urgent)
    queue.push(frame(b))
    assert ids(queue.take(9, 0.0, 0.0).batch) == ["b0", "a1"]


@pytest.mark.parametrize(
    ("now", "run_s", "batch", "in_queue", "predicted"),
    [
        (1.0, 0.5, ["a0", "b0"], [], []),
        (1.0, 1.5, ["b0"], [], ["a0"]),
        (2.5, 0.1, ["b0"], ["a0"], []),
        (9.0, 0.0, [], ["a0", "b0"], []),
    ],
)
def test_what_is_late_is_not_run(
    now: float, run_s: float, batch: list[str], in_queue: list[str], predicted: list[str]
) -> None:
    queue = ModelQueue()
    queue.push(frame(stream("a"), deadline=2.0))
    queue.push(frame(stream("b"), deadline=4.0))
    taken = queue.take(9, now, run_s)
    assert (ids(taken.batch), ids(taken.in_queue), ids(taken.predicted_late)) == (batch, in_queue, predicted)


def test_expire_takes_out_what_waits_too_long_and_knows_the_next() -> None:
    queue, a = ModelQueue(), stream("a")
    for n, deadline in enumerate((3.0, 1.0, 2.0)):
        queue.push(frame(a, n, deadline=deadline))
    assert queue.next_deadline() == 1.0
    assert ids(queue.expire(2.0)) == ["a1", "a2"]
    assert queue.next_deadline() == 3.0
    queue.take(1, 0.0, 0.0)
    assert queue.next_deadline() == NO_DEADLINE
    assert queue.waiting == 0


class QueueMachine(RuleBasedStateMachine):
    """Against a naive model: every pushed frame comes out once, in rank order within its stream."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = ModelQueue()
        self.streams = [stream(str(n), f"lane {n % 2}") for n in range(4)]
        self.inside: set[str] = set()
        self.running: deque[list[Frame]] = deque()
        self.n = 0

    @rule(which=st.integers(0, 3), rank=st.integers(0, 10), deadline=st.integers(1, 50))
    def push(self, which: int, rank: int, deadline: int) -> None:
        self.n += 1
        pushed = frame(self.streams[which], self.n, rank, deadline if rank < HISTORICAL_RANK else NO_DEADLINE)
        self.queue.push(pushed)
        self.inside.add(pushed.id)

    @rule(limit=st.integers(1, 5), now=st.integers(0, 40))
    def take(self, limit: int, now: int) -> None:
        taken = self.queue.take(limit, now, 1.0)
        for out in (*taken.batch, *taken.in_queue, *taken.predicted_late):
            self.inside.remove(out.id)
        assert len(taken.batch) <= limit
        running = {f.stream.name for batch in self.running for f in batch}
        assert not running & {f.stream.name for f in taken.batch}
        if taken.batch:
            self.running.append(taken.batch)

    @rule()
    def release(self) -> None:
        if self.running:
            self.queue.release(self.running.popleft())

    @rule(now=st.integers(0, 60))
    def expire(self, now: int) -> None:
        for out in self.queue.expire(now):
            assert out.deadline <= now
            self.inside.remove(out.id)

    @rule()
    def drain(self) -> None:
        assert {f.id for f in self.queue.drain()} == self.inside
        self.inside.clear()

    @invariant()
    def counts_agree(self) -> None:
        assert self.queue.waiting == len(self.inside)
        held = {f.stream.name for batch in self.running for f in batch}
        idle = any(s.waiting for s in self.streams if s.name not in held)
        assert self.queue.ready == idle
        for turns in self.queue._lanes.values():
            assert turns.live == sum(map(len, turns.lines[:HISTORICAL_RANK]))


TestQueueMachine = QueueMachine.TestCase


@given(st.lists(st.integers(0, 10), max_size=30))
def test_within_a_stream_rank_decides_then_arrival(ranks: list[int]) -> None:
    queue, a = ModelQueue(), stream("a")
    for n, rank in enumerate(ranks):
        queue.push(frame(a, n, rank))
    expected = [f"a{n}" for n in sorted(range(len(ranks)), key=lambda n: (ranks[n], n))]
    assert ids(queue.take(99, 0.0, 0.0).batch) == expected


def test_superseded_frames_are_forgotten_long_before_their_deadline() -> None:
    queue, a = ModelQueue(), stream("a")
    for n in range(10_000):
        for older in list(a.waiting):
            queue.remove(older)
        queue.push(frame(a, n, deadline=1e6))
    assert len(queue._deadlines) < 200
    assert queue.next_deadline() == 1e6 and ids(queue.expire(1e6)) == ["a9999"]
