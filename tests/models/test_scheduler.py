"""Batches: what is predicted, what a failing or a cancelled run leaves, drain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from penstock_models.items import Answer, Item, Outcome, Refusal, Tensor
from penstock_models.scheduling.quarantine import HELD_S
from penstock_models.scheduling.request import Flow, Request, Share
from penstock_models.scheduling.runs import VersionRun
from penstock_models.scheduling.scheduler import Fate, Scheduler
from tests.fakes.executor import ANSWER, FakeExecutor, servable, turns


class Desk:
    """A scheduler over a fake executor that notes what it is told."""

    def __init__(self, slots: int = 1, runs: int = 1, p50_ms: float = 0.01) -> None:
        self.executor = FakeExecutor()
        self.done: list[tuple[str, Outcome]] = []
        self.settled: list[tuple[str, Fate]] = []
        self.scheduler = Scheduler(self.executor, slots, self._outcomes, self._settled)
        self.share = Share()
        self.runs = [VersionRun(servable(f"m{n}", p50_ms=p50_ms)) for n in range(runs)]
        self.scheduler.runs.extend(self.runs)

    def _outcomes(self, run: VersionRun, batch: list[Request], outcomes: Sequence[Outcome]) -> None:
        self.done += [(r.flow.key, outcome) for r, outcome in zip(batch, outcomes, strict=True)]

    def _settled(self, requests: list[Request], fate: Fate) -> None:
        self.settled += [(r.flow.key, fate) for r in requests]

    def submit(self, key: str, in_s: float = 60.0, run: int = 0, flow: Flow | None = None) -> Request:
        request = Request(flow or Flow(key, self.share), Item(Tensor(key.encode())))
        request.deadline = asyncio.get_running_loop().time() + in_s
        self.scheduler.submit(self.runs[run], request)
        return request


@asynccontextmanager
async def running(desk: Desk) -> AsyncIterator[Desk]:
    task = asyncio.create_task(desk.scheduler.run())
    await turns()
    try:
        yield desk
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()


async def test_what_is_predicted_late_is_not_run_but_one_is_tried_now_and_then() -> None:
    async with running(Desk()) as desk:
        times = desk.runs[0].times
        for _ in range(3):
            times.ran(1, 100.0, asyncio.get_running_loop().time())
        desk.submit("late", 1.0)
        desk.scheduler.kick()
        assert desk.settled == [("late", ("expired", "predicted_late"))]
        times._last_run -= 1.0
        desk.submit("tried", 1.0)
        desk.scheduler.kick()
        await desk.executor.finish()
        assert [frame for frame, _ in desk.done] == ["tried"]


async def test_one_behind_more_of_its_flow_than_can_be_run_in_time_is_refused_at_once() -> None:
    async with running(Desk(p50_ms=100)) as desk:
        flow = Flow("a", desk.share)
        for _ in range(12):
            desk.submit("a", in_s=1.0, flow=flow)
        assert 8 <= desk.runs[0].queue.waiting <= 10
        assert desk.settled == [("a", ("expired", "predicted_late"))] * (12 - desk.runs[0].queue.waiting)
        desk.submit("b", in_s=1.0)  # another flow has its turn after one of them
        assert desk.settled[-1][0] == "a"


async def test_what_waits_too_long_expires_by_the_timer() -> None:
    async with running(Desk()) as desk:
        desk.submit("running")
        desk.scheduler.kick()
        for name, in_s in (("a", 0.03), ("b", 0.01), ("c", 60.0)):
            desk.submit(name, in_s)
        desk.scheduler.kick()
        async with asyncio.timeout(5):
            while len(desk.settled) < 2:  # noqa: ASYNC110  the timer is the scheduler's own
                await asyncio.sleep(0.005)
        assert desk.settled == [("b", ("expired", "in_queue")), ("a", ("expired", "in_queue"))]


async def test_models_take_turns_and_no_more_batches_run_than_there_are_slots() -> None:
    async with running(Desk(slots=2, runs=2, p50_ms=20)) as desk:
        for n in range(3):
            desk.submit(f"a{n}")
            desk.submit(f"b{n}", run=1)
        desk.scheduler.kick()
        await turns()
        assert len(desk.executor.running) == 2
        for _ in range(3):
            await desk.executor.finish()
        assert sorted(frame for frame, _ in desk.done[:2]) == ["a0", "b0"]
        assert len(desk.done) == 6


async def test_an_executor_that_raises_fails_its_batch_and_nothing_else() -> None:
    async with running(Desk()) as desk:
        desk.submit("a")
        desk.scheduler.kick()

        def broken(_: Item) -> Outcome:
            raise RuntimeError("broke")

        await desk.executor.finish(broken)
        assert desk.done == [("a", Refusal("failed", "internal", "broke"))]
        desk.submit("b")
        desk.scheduler.kick()
        await desk.executor.finish()
        assert isinstance(desk.done[-1][1], Answer)


async def test_a_fault_of_its_owner_ends_the_scheduler_loudly() -> None:
    desk = Desk()
    desk.scheduler._on_outcomes = lambda *_: 1 / 0  # type: ignore[assignment]
    task = asyncio.create_task(desk.scheduler.run())
    await turns()
    desk.submit("a")
    desk.scheduler.kick()
    await desk.executor.finish()
    with pytest.raises(ZeroDivisionError):
        await task


async def test_a_cancelled_scheduler_settles_what_it_had_taken() -> None:
    desk = Desk()
    async with running(desk):
        desk.submit("a")
        desk.scheduler.kick()
        assert desk.executor.running
    await desk.executor.finish()  # its outcomes come, and nobody takes them any more
    assert desk.settled == [("a", ("dropped", "shutdown"))] and desk.done == []
    desk.submit("b")
    desk.scheduler.kick()  # after the end nothing starts
    assert desk.runs[0].queue.waiting == 1


async def test_drain_waits_for_queue_and_runs_and_gives_up_in_time() -> None:
    async with running(Desk(p50_ms=20)) as desk:
        assert await desk.scheduler.drain(0.01)
        desk.submit("a")
        desk.submit("b")
        desk.scheduler.kick()
        assert not await desk.scheduler.drain(0.01)
        draining = asyncio.create_task(desk.scheduler.drain(5))
        await desk.executor.finish()
        assert not draining.done()
        await desk.executor.finish()
        assert await draining and len(desk.done) == 2


TIMED_OUT: Outcome = Refusal("failed", "model_timeout", suspect=True)


async def test_a_batch_that_hung_is_taken_apart_and_only_the_guilty_frame_fails() -> None:
    async with running(Desk()) as desk:
        for name in "abcd":
            desk.submit(name)
        desk.scheduler.kick()
        await desk.executor.finish(lambda _: TIMED_OUT)
        assert desk.done == []
        for name in ("a", "b"):
            await desk.executor.finish()
            assert desk.done[-1] == (name, ANSWER)
        await desk.executor.finish(
            lambda _: TIMED_OUT
        )  # c alone, for the first time: its neighbours go first
        await desk.executor.finish()
        assert desk.done[-1] == ("d", ANSWER)
        await desk.executor.finish(lambda _: TIMED_OUT)
        assert desk.done[-1] == ("c", TIMED_OUT)
        assert await desk.scheduler.drain(1.0)


async def test_a_suspect_is_not_run_after_its_deadline() -> None:
    async with running(Desk()) as desk:
        for name in "abc":
            desk.submit(name, in_s=0.05)
        desk.scheduler.kick()
        await asyncio.sleep(0.06)
        await desk.executor.finish(lambda _: TIMED_OUT)
        assert desk.executor.running == [] and desk.done == []
        assert sorted(desk.settled) == [(name, ("expired", "in_queue")) for name in "abc"]
        desk.submit("d")
        desk.scheduler.kick()
        await desk.executor.finish()
        assert desk.done == [("d", ANSWER)]


async def test_a_suspect_that_hung_alone_and_is_too_late_is_the_guilty_one() -> None:
    async with running(Desk()) as desk:
        for name in "ab":
            desk.submit(name, in_s=0.05)
        desk.scheduler.kick()
        await desk.executor.finish(lambda _: TIMED_OUT)
        await asyncio.sleep(0.06)  # a runs alone meanwhile
        await desk.executor.finish(lambda _: TIMED_OUT)
        assert desk.settled == [("b", ("expired", "in_queue")), ("a", ("failed", "model_timeout"))]


async def test_suspects_leave_a_slot_to_the_healthy() -> None:
    async with running(Desk(slots=2)) as desk:
        for name in "abcd":
            desk.submit(name)
        desk.scheduler.kick()
        await desk.executor.finish(lambda _: TIMED_OUT)
        desk.submit("healthy")
        desk.scheduler.kick()
        await turns()
        assert len(desk.executor.running) == 2
        await desk.executor.finish()
        assert ("healthy", ANSWER) in desk.done


async def test_suspects_that_wait_at_the_stop_have_a_fate() -> None:
    desk = Desk()
    async with running(desk):
        for name in "abc":
            desk.submit(name)
        desk.scheduler.kick()
        await desk.executor.finish(lambda _: TIMED_OUT)
    assert sorted(desk.settled) == [(name, ("dropped", "shutdown")) for name in "abc"]


async def test_guilty_payloads_are_quarantined_once_the_version_has_proven_itself() -> None:
    guilty: Outcome = Refusal("failed", "model_error", "no")

    def answer(item: Item) -> Outcome:
        assert isinstance(item.payload, Tensor)
        return guilty if item.payload.data == b"bad" else ANSWER

    async def answered(*keys: str) -> None:
        for key in keys:
            desk.submit(key)
        desk.scheduler.kick()
        while desk.executor.running:
            await desk.executor.finish(answer)

    async with running(Desk()) as desk:
        await answered("bad")
        await answered("bad")  # it never answered anybody: the version may be broken itself
        assert desk.settled == []
        await answered("a", "b", "c")
        await answered("bad")
        assert [outcome for key, outcome in desk.done if key == "bad"] == [guilty] * 3
        desk.submit("bad")
        desk.submit("good")
        assert desk.settled == [("bad", ("rejected", "quarantined"))]
        now = asyncio.get_running_loop().time()
        item = Item(Tensor(b"bad"))
        assert desk.scheduler.quarantine.holds("sha256:m0", item, now)
        assert not desk.scheduler.quarantine.holds("sha256:m1", item, now)
        assert not desk.scheduler.quarantine.holds("sha256:m0", item, now + HELD_S + 1)


async def test_a_withdrawn_request_frees_its_place_and_one_that_runs_does_not() -> None:
    async with running(Desk()) as desk:
        first = desk.submit("a")
        desk.scheduler.kick()
        second = desk.submit("b")
        assert not desk.scheduler.withdraw(first) and desk.scheduler.withdraw(second)
        assert not desk.scheduler.withdraw(second) and desk.runs[0].queue.waiting == 0
        await desk.executor.finish()
        assert desk.done == [("a", ANSWER)] and desk.settled == []


async def test_a_retired_version_ends_with_its_last_batch_and_what_waits_fails() -> None:
    async with running(Desk()) as desk:
        (run,) = desk.runs
        desk.submit("a")
        desk.scheduler.kick()
        desk.submit("b")
        retiring = asyncio.create_task(desk.scheduler.retire(run))
        await turns()
        assert not retiring.done() and desk.settled == [("b", ("failed", "not_ready"))]
        await desk.executor.finish()
        await retiring
        assert desk.done == [("a", ANSWER)] and desk.scheduler.runs == []


async def test_a_version_that_does_not_serve_keeps_what_waits() -> None:
    async with running(Desk()) as desk:
        desk.runs[0].serving = False
        desk.submit("a")
        desk.scheduler.kick()
        assert desk.executor.running == [] and desk.runs[0].queue.waiting == 1
        desk.runs[0].serving = True
        desk.scheduler.kick()
        await desk.executor.finish()
        assert desk.done == [("a", ANSWER)]


async def test_a_saturated_version_leaves_the_next_slot_to_a_quiet_one() -> None:
    async with running(Desk(runs=2, p50_ms=20)) as desk:
        for n in range(20):
            desk.submit(f"a{n}")
        desk.scheduler.kick()
        desk.submit("b", run=1)
        await desk.executor.finish()
        await desk.executor.finish()
        assert [key for key, _ in desk.done] == ["a0", "b"]


CRASHED: Outcome = Refusal("failed", "model_error", "its process ended", suspect=True)


async def test_a_request_under_which_the_process_died_is_tried_once_more() -> None:
    async with running(Desk()) as desk:
        desk.submit("a")
        desk.scheduler.kick()
        await desk.executor.finish(lambda _: CRASHED)
        assert desk.done == []
        await desk.executor.finish()
        assert desk.done == [("a", ANSWER)] and not desk.scheduler.quarantine
        desk.submit("b")
        desk.scheduler.kick()
        await desk.executor.finish(lambda _: CRASHED)
        await desk.executor.finish(lambda _: CRASHED)
        assert desk.done[-1] == ("b", CRASHED) and await desk.scheduler.drain(1.0)


async def test_one_hang_alone_may_be_the_machines_fault_and_two_are_not() -> None:
    async with running(Desk()) as desk:
        for _ in range(3):
            for key in ("x", "y", "z", "slow"):
                desk.submit(key)
                desk.scheduler.kick()
                await desk.executor.finish(
                    lambda item: TIMED_OUT if item.payload == Tensor(b"slow") else ANSWER
                )
        assert [outcome for key, outcome in desk.done if key == "slow"] == [TIMED_OUT] * 2
        assert desk.settled == [("slow", ("rejected", "quarantined"))]


async def test_suspects_of_a_version_that_goes_are_tried_by_the_next_or_fail() -> None:
    async with running(Desk(runs=2)) as desk:
        old, new = desk.runs

        class Moving:
            now: VersionRun | None = old

            def run_for(self, flow: Flow) -> VersionRun | None:
                return self.now

        target = Moving()
        for key in "ab":
            request = Request(Flow(key, desk.share), Item(Tensor(key.encode())))
            request.deadline = asyncio.get_running_loop().time() + 60
            desk.scheduler.submit(target, request)
        desk.scheduler.kick()
        target.now = new
        retiring = asyncio.create_task(desk.scheduler.retire(old))
        await turns()
        await desk.executor.finish(lambda _: CRASHED)  # while it retires
        await retiring
        await desk.executor.finish()
        await desk.executor.finish()
        assert sorted(desk.done) == [("a", ANSWER), ("b", ANSWER)] and await desk.scheduler.drain(1.0)


async def test_suspects_of_a_version_that_does_not_serve_expire_in_time() -> None:
    async with running(Desk()) as desk:
        for key in "ab":
            desk.submit(key, in_s=0.05)
        desk.scheduler.kick()
        desk.runs[0].serving = False
        await desk.executor.finish(lambda _: CRASHED)
        assert await desk.scheduler.drain(2.0)
        assert sorted(desk.settled) == [("a", ("expired", "in_queue")), ("b", ("expired", "in_queue"))]
