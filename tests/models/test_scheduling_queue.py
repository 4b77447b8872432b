"""Whose turn it is: urgent before usual before historical, shares and flows in turn, in order within a flow, and what is
too late for the batch that it would join."""

from collections import Counter, deque

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from penstock_models.items import Item, Tensor
from penstock_models.scheduling.chain import Chain
from penstock_models.scheduling.queue import Plan, VersionQueue
from penstock_models.scheduling.request import HISTORICAL_RANK, NO_DEADLINE, Flow, Request, Share

SHARE = Share()


def flow(key: str, share: Share = SHARE, weight: float = 1.0) -> Flow:
    return Flow(key, share, weight)


def request(of: Flow, n: int = 0, rank: int = 4, deadline: float = NO_DEADLINE) -> Request:
    made = Request(of, Item(Tensor(f"{of.key}{n}".encode())))
    made.rank, made.deadline = rank, deadline
    return made


def name(of: Request) -> str:
    assert of.item is not None and isinstance(of.item.payload, Tensor)
    return bytes(of.item.payload.data).decode()


def names(requests: list[Request]) -> list[str]:
    return [name(r) for r in requests]


def take(queue: VersionQueue, limit: int = 9) -> list[str]:
    return names(queue.take(Plan(limit), 0.0).batch)


def served(queue: VersionQueue) -> str:
    """Run a batch of one, and say whose it was."""
    batch = queue.take(Plan(1), 0.0).batch
    queue.release(batch)
    return names(batch)[0]


def test_flows_take_turns() -> None:
    queue, a, b = VersionQueue(), flow("a"), flow("b")
    for n in range(3):
        queue.push(request(a, n))
    queue.push(request(b, 0))
    assert take(queue, 3) == ["a0", "b0", "a1"]


def test_shares_take_turns_whatever_their_flows_and_priorities() -> None:
    flooded, quiet = Share(), Share()
    queue, b = VersionQueue(), flow("b", quiet)
    for n in range(5):
        queue.push(request(flow(f"a{n}", flooded), rank=0))
        queue.push(request(b, n))
    assert take(queue, 6) == ["a00", "b0", "a10", "b1", "a20", "b2"]


@pytest.mark.parametrize("between", [1, 3, 10])
def test_a_quiet_share_goes_before_a_flooded_one_each_time_it_comes(between: int) -> None:
    """What it got up to now is nothing that the flood is owed."""
    queue, flood, quiet = VersionQueue(), flow("flood", Share()), flow("quiet", Share())
    for n in range(1000):
        queue.push(request(flood, n))
    for n in range(30):
        for _ in range(between):
            assert served(queue).startswith("flood")
        queue.push(request(quiet, n))
        assert served(queue) == f"quiet{n}"


def test_historical_requests_of_a_share_wait_for_the_live_ones_of_all() -> None:
    queue, a, b = VersionQueue(), flow("a", Share()), flow("b", Share())
    queue.push(request(a, rank=HISTORICAL_RANK))
    for n in range(2):
        queue.push(request(b, n))
    assert take(queue) == ["b0", "b1", "a0"]


def test_of_those_who_are_not_ahead_the_earliest_deadline_goes_first() -> None:
    queue = VersionQueue()
    a, b, c = flow("a"), flow("b"), flow("c")
    queue.push(request(a, 0, deadline=9.0))
    queue.push(request(a, 1, deadline=9.5))
    queue.push(request(b, 0))
    queue.push(request(c, 0, deadline=8.0))
    assert take(queue) == [
        "c0",
        "a0",
        "b0",
        "a1",
    ]  # a had its share: b goes before, though it has all the time


def test_an_idle_flow_earns_nothing() -> None:
    queue, a, b = VersionQueue(), flow("a"), flow("b")
    for n in range(50):
        queue.push(request(a, n))
    assert len(take(queue, 10)) == 10
    queue.release([request(a)])
    for n in range(50):
        queue.push(request(b, n))
    assert Counter(name[0] for name in take(queue, 20)) == {"a": 10, "b": 10}


def test_coming_and_going_earns_nothing() -> None:
    """A flow that is withdrawn again and again is not owed more each time."""
    queue, busy, fickle = VersionQueue(), flow("busy"), flow("fickle", weight=4.0)
    for n in range(100):
        queue.push(request(busy, n))
    for _ in range(10):
        withdrawn = request(fickle)
        queue.push(withdrawn)
        queue.remove(withdrawn)
        assert served(queue) == f"busy{100 - queue.waiting - 1}"
    for n in range(40):
        queue.push(request(fickle, n))
    order = [served(queue)[0] for _ in range(10)]
    assert order.count("f") == 8, "four of five are its share"


@given(
    weights=st.lists(st.floats(0.5, 8.0), min_size=1, max_size=6),
    deadlines=st.lists(st.integers(1, 100), min_size=1, max_size=8),
    rounds=st.integers(1, 60),
)
@example(weights=[2.0, 0.5], deadlines=[1], rounds=56)  # the light one is ahead by four of the heavy one's
def test_service_follows_the_weights_whatever_the_deadlines(
    weights: list[float], deadlines: list[int], rounds: int
) -> None:
    """While all have work, nobody is ahead of its fair share by more than one request, nor behind by more than one of
    every other flow."""
    queue = VersionQueue()
    flows = [flow(chr(97 + i), weight=weight) for i, weight in enumerate(weights)]
    for n in range(rounds):
        for i, one in enumerate(flows):
            queue.push(request(one, n, deadline=1000.0 + deadlines[(i + n) % len(deadlines)]))
    total = min(rounds, int(rounds * min(weights) / max(weights)))
    got: Counter[str] = Counter()
    for served in range(1, total + 1):
        got[take(queue, 1)[0][0]] += 1
        queue.release([request(one) for one in flows])
        for one in flows:
            fair = served * one.weight / sum(weights)
            assert fair - len(flows) <= got[one.key] <= fair + 1 + 1e-6


@given(floods=st.integers(1, 20), backlog=st.integers(1, 30), batch=st.integers(1, 8))
def test_a_quiet_flow_waits_for_one_round_of_the_flooded_ones_at_most(
    floods: int, backlog: int, batch: int
) -> None:
    queue = VersionQueue()
    flooded = [flow(f"f{i}_") for i in range(floods)]
    for n in range(backlog):
        for one in flooded:
            queue.push(request(one, n, deadline=5.0 + n))
    first = queue.take(Plan(batch), 0.0).batch
    queue.push(request(flow("quiet"), deadline=900.0))
    queue.release(first)
    assert "quiet0" in take(queue, floods + 1)


def test_drain_takes_what_waits_behind_a_batch_too() -> None:
    queue, a = VersionQueue(), flow("a")
    for n in range(3):
        queue.push(request(a, n))
    queue.take(Plan(1), 0.0)
    assert names(queue.drain()) == ["a1", "a2"] and queue.waiting == 0


def test_a_flow_that_runs_gives_no_more_requests_until_its_batch_is_done() -> None:
    queue, a, b = VersionQueue(), flow("a"), flow("b")
    for n in range(2):
        queue.push(request(a, n))
    first = queue.take(Plan(1), 0.0).batch
    queue.push(request(b, 0))
    assert take(queue) == ["b0"]
    assert not queue.ready
    queue.release(first)
    assert take(queue) == ["a1"]


@pytest.mark.parametrize("why", ["a stateful version", "a chain"])
def test_where_order_counts_a_batch_holds_one_request_of_a_flow(why: str) -> None:
    queue, a, b = VersionQueue(one_per_flow=why == "a stateful version"), flow("a"), flow("b")
    if why == "a chain":
        a.chain = b.chain = Chain([])
    for n in range(2):
        queue.push(request(a, n))
        queue.push(request(b, n))
    assert take(queue) == ["a0", "b0"]


def test_urgent_first_historical_last() -> None:
    queue, a, b, c = VersionQueue(), flow("a"), flow("b"), flow("c")
    queue.push(request(a, rank=HISTORICAL_RANK))
    queue.push(request(b))
    queue.push(request(c, rank=0))
    queue.push(request(a, 1, rank=0))  # overtakes within its own flow too
    assert take(queue) == ["c0", "a1", "b0", "a0"]


def test_a_removed_urgent_request_takes_its_urgency_with_it() -> None:
    queue, a, b = VersionQueue(), flow("a"), flow("b")
    urgent = request(a, 0, rank=0)
    queue.push(urgent)
    queue.push(request(a, 1, rank=HISTORICAL_RANK))
    queue.remove(urgent)
    queue.push(request(b))
    assert take(queue) == ["b0", "a1"]


@pytest.mark.parametrize(("weight", "expected"), [(1.0, 6), (2.0, 4), (0.5, 9)])
def test_how_many_run_before_a_new_request_goes_by_the_turns(weight: float, expected: int) -> None:
    """A flooded share of many flows does not make the line of another longer than one flow would."""
    queue, flooded, quiet = VersionQueue(), Share(), flow("quiet", Share(weight))
    for n in range(40):
        queue.push(request(flow(f"flood{n % 4}", flooded), n, rank=0))
    for n in range(3):
        queue.push(request(quiet, n))
    assert queue.ahead(quiet) == expected
    order = [served(queue) for _ in range(43)]
    last = max(place for place, one in enumerate(order) if one.startswith("quiet"))
    assert abs(last + 1 - expected) <= 2


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
    queue = VersionQueue()
    queue.push(request(flow("a"), deadline=2.0))
    queue.push(request(flow("b"), deadline=4.0))
    taken = queue.take(Plan(9, lambda _: run_s), now)
    found = (names(taken.batch), names(taken.in_queue), names(taken.predicted_late))
    assert found == (batch, in_queue, predicted)


@pytest.mark.parametrize(
    ("deadlines", "floor", "batch", "late"),
    [
        ([3.5, 9, 9, 9], 1, ["a0", "b0", "c0"], []),  # a fourth would make the first late
        ([1.5, 9, 9, 9], 1, ["a0"], []),  # tight, and nothing is dropped: it runs alone
        ([1.5, 9, 9, 9], 3, ["b0", "c0", "d0"], ["a0"]),  # under pressure it costs the others too much
        ([9, 9, 9, 1.5], 1, ["d0"], []),
        ([1.5, 9], 4, ["b0"], ["a0"]),  # no larger batch can be had than what waits
        ([2.5, 9], 4, ["a0", "b0"], []),
        ([0.5, 9], 1, ["b0"], ["a0"]),
    ],
)
def test_a_batch_is_as_large_as_its_tightest_member_allows(
    deadlines: list[float], floor: int, batch: list[str], late: list[str]
) -> None:
    queue = VersionQueue()
    for key, deadline in zip("abcd", deadlines):
        queue.push(request(flow(key), deadline=deadline))
    taken = queue.take(Plan(9, float, floor), 0.0)
    assert (names(taken.batch), names(taken.predicted_late)) == (batch, late)


def test_a_trial_takes_one_that_is_predicted_late_alone() -> None:
    queue, a = VersionQueue(), flow("a")
    for n in range(3):
        queue.push(request(a, n, deadline=1.0))
    taken = queue.take(Plan(9, lambda _: 5.0, trial=True), 0.0)
    assert (names(taken.batch), taken.predicted_late) == (["a0"], [])
    queue.push(request(flow("b"), deadline=0.0))
    assert names(queue.take(Plan(9, lambda _: 5.0, trial=True), 0.5).in_queue) == ["b0"]


def test_expire_takes_out_what_waits_too_long_and_knows_the_next() -> None:
    queue, a = VersionQueue(), flow("a")
    for n, deadline in enumerate((3.0, 1.0, 2.0)):
        queue.push(request(a, n, deadline=deadline))
    assert queue.next_deadline() == 1.0
    assert names(queue.expire(2.0)) == ["a1", "a2"]
    assert queue.next_deadline() == 3.0
    queue.take(Plan(1), 0.0)
    assert queue.next_deadline() == NO_DEADLINE
    assert queue.waiting == 0


def test_what_waits_moves_to_another_version_behind_what_runs() -> None:
    old, new, a, b = VersionQueue(), VersionQueue(), flow("a"), flow("b")
    for n in range(2):
        old.push(request(a, n, deadline=5.0))
        old.push(request(b, n, deadline=6.0))
    running = old.take(Plan(1), 0.0).batch
    for one in old.flows():
        new.adopt(one)
    assert names(running) == ["a0"] and (old.waiting, old.next_deadline()) == (0, NO_DEADLINE)
    assert names(new.take(Plan(9), 0.0).batch) == ["b0", "b1"] and not new.ready
    old.release(running)
    assert names(new.take(Plan(9), 0.0).batch) == ["a1"]


class QueueMachine(RuleBasedStateMachine):
    """Against a naive model of two versions: every request comes out once, in order within its flow."""

    def __init__(self) -> None:
        super().__init__()
        self.queues = [VersionQueue(), VersionQueue()]
        shares = [Share(), Share(3.0)]
        self.flows = [flow(f"{n}_", shares[n % 2], 1.0 + n) for n in range(4)]
        self.flows[0].chain = Chain([])
        self.inside: list[set[str]] = [set(), set()]
        self.running: deque[tuple[int, list[Request]]] = deque()
        self.n = 0

    def out(self, which: int, requests: list[Request]) -> None:
        for one in requests:
            assert not one.waiting
            self.inside[which].remove(name(one))

    @rule(which=st.integers(0, 3), rank=st.integers(0, 10), deadline=st.integers(1, 50))
    def push(self, which: int, rank: int, deadline: int) -> None:
        self.n += 1
        due = deadline if rank < HISTORICAL_RANK else NO_DEADLINE
        pushed = request(self.flows[which], self.n, rank, due)
        queue = pushed.flow.queue or self.queues[0]
        queue.push(pushed)
        self.inside[self.queues.index(queue)].add(name(pushed))

    @rule(
        which=st.integers(0, 1), limit=st.integers(1, 5), now=st.integers(0, 40), floor=st.integers(1, 3),
        trial=st.booleans(),
    )  # fmt: skip
    def take(self, which: int, limit: int, now: int, floor: int, trial: bool) -> None:
        taken = self.queues[which].take(Plan(limit, lambda n: n / 2, floor, trial), now)
        for out in taken:
            self.out(which, out)
        assert len(taken.batch) <= limit
        assert all(r.deadline >= now for r in taken.batch) and all(r.deadline < now for r in taken.in_queue)
        tried = trial and len(taken.batch) == 1
        assert tried or all(r.deadline >= now + len(taken.batch) / 2 for r in taken.batch)
        held = {r.flow for _, batch in self.running for r in batch}
        assert not held & {r.flow for r in taken.batch}
        assert sum(r.flow is self.flows[0] for r in taken.batch) <= 1
        if taken.batch:
            self.running.append((which, taken.batch))

    @rule()
    def release(self) -> None:
        if self.running:
            which, batch = self.running.popleft()
            self.queues[which].release(batch)

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        waiting = [r for one in self.flows for r in one.waiting]
        if waiting:
            gone = data.draw(st.sampled_from(waiting))
            assert gone.flow.queue is not None
            which = self.queues.index(gone.flow.queue)
            self.queues[which].remove(gone)
            self.out(which, [gone])

    @rule(which=st.integers(0, 1), now=st.integers(0, 60))
    def expire(self, which: int, now: int) -> None:
        expired = self.queues[which].expire(now)
        assert all(r.deadline <= now for r in expired)
        self.out(which, expired)
        assert self.queues[which].next_deadline() > now

    @rule(which=st.integers(0, 3), to=st.integers(0, 1))
    def adopt(self, which: int, to: int) -> None:
        mine = {name(r) for r in self.flows[which].waiting}
        self.queues[to].adopt(self.flows[which])
        self.inside[1 - to] -= mine
        self.inside[to] |= mine

    @rule(which=st.integers(0, 1))
    def drain(self, which: int) -> None:
        self.out(which, self.queues[which].drain())
        assert not self.inside[which]

    @invariant()
    def counts_agree(self) -> None:
        held = {r.flow for _, batch in self.running for r in batch}
        for queue, inside in zip(self.queues, self.inside):
            assert queue.waiting == len(inside)
            idle = [one for one in self.flows if one.waiting and one.queue is queue and one not in held]
            assert queue.ready == bool(idle)
            assert {one for one in queue.flows() if one.line is not None} == set(idle)
            for one in idle:
                assert one.line.rank == one.waiting[0].rank
                ranks = [r.rank for r in one.waiting]
                assert ranks == sorted(ranks)


TestQueueMachine = QueueMachine.TestCase


@given(st.lists(st.integers(0, 10), max_size=30))
def test_within_a_flow_rank_decides_then_arrival(ranks: list[int]) -> None:
    queue, a = VersionQueue(), flow("a")
    for n, rank in enumerate(ranks):
        queue.push(request(a, n, rank))
    expected = [f"a{n}" for n in sorted(range(len(ranks)), key=lambda n: (ranks[n], n))]
    assert take(queue, 99) == expected


def test_superseded_requests_are_forgotten_long_before_their_deadline() -> None:
    queue, a, b = VersionQueue(), flow("a"), flow("b")
    queue.push(request(b, deadline=2e6))
    for n in range(10_000):
        for older in list(a.waiting):
            queue.remove(older)
        queue.push(request(a, n, deadline=1e6))
    line = b.line
    assert len(queue._deadlines) < 200 and len(line._ready) + len(line._ahead) < 200
    assert queue.next_deadline() == 1e6 and names(queue.expire(1e6)) == ["a9999"]
