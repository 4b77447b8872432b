"""Batches: what is predicted, what a failing or a cancelled run leaves, drain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from penstock_gateway.dispatcher import Dispatcher, ModelRun, RunTime
from penstock_gateway.frames import Frame, Lane, Stream
from penstock_gateway.ledger import Counts, Fate
from penstock_gateway.model_queue import ModelQueue
from penstock_models.items import Answer, Item, Outcome, Refusal, Tensor
from tests.fakes.gateway_core import ANSWER, FakeExecutor, servable, turns

ITEM = Item(Tensor(b"x"))
ROUTE: Any = None  # a lane whose bounds nobody asks for


class Desk:
    """A dispatcher over a fake executor that notes what it is told."""

    def __init__(self, slots: int = 1, models: int = 1, p50_ms: float = 0.01) -> None:
        self.executor = FakeExecutor()
        self.done: list[tuple[str, Outcome]] = []
        self.settled: list[tuple[str, Fate]] = []
        self.dispatcher = Dispatcher(self.executor, slots, self._outcomes, self._settled)
        self.lane = Lane(ROUTE, ModelQueue())
        self.models = [ModelRun(servable(f"m{n}", p50_ms=p50_ms)) for n in range(models)]
        self.dispatcher.models.extend(self.models)

    def _outcomes(self, model: ModelRun, batch: list[Frame], outcomes: Sequence[Outcome]) -> None:
        self.done += [(frame.id, outcome) for frame, outcome in zip(batch, outcomes, strict=True)]

    def _settled(self, frames: list[Frame], fate: Fate) -> None:
        self.settled += [(frame.id, fate) for frame in frames]

    def push(self, frame_id: str, in_s: float = 60.0, model: int = 0) -> None:
        stream = Stream("d", frame_id, self.lane, Counts(), ("", ""))
        frame = Frame(stream, frame_id, 0.0, 0, 1)
        frame.item = ITEM
        frame.deadline = asyncio.get_running_loop().time() + in_s
        self.models[model].queue.push(frame)


@asynccontextmanager
async def running(desk: Desk) -> AsyncIterator[Desk]:
    task = asyncio.create_task(desk.dispatcher.run())
    await turns()
    try:
        yield desk
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()


@pytest.mark.parametrize(
    ("item_s", "waiting", "slots", "limit"),
    [
        (0.001, 100, 1, 25),
        (0.02, 100, 1, 1),
        (0.01, 4, 2, 2),  # shared among the free slots
        (0.0001, 4, 2, 10),  # too little work to share
        (0.0, 10_000, 1, 64),
        (5.0, 1, 1, 1),
    ],
)
def test_a_batch_is_bounded_in_time_and_items_and_shared_among_the_slots(
    item_s: float, waiting: int, slots: int, limit: int
) -> None:
    assert RunTime(item_s).batch_limit(waiting, slots) == limit


def test_a_prediction_that_was_not_tried_for_a_second_is_not_believed() -> None:
    run_time = RunTime(0.5)
    assert run_time.predict(2, now=100.0) == 0.0
    run_time.ran(1, 0.5, now=100.0)
    assert run_time.predict(2, now=100.9) == 1.0
    assert run_time.predict(2, now=101.0) == 0.0
    assert (
        run_time.timeout_s(1) == 2.5 and RunTime(0.0).timeout_s(1) == 1.0 and RunTime(99).timeout_s(9) == 60.0
    )


async def test_what_is_predicted_late_is_not_run_and_once_a_second_one_is_tried() -> None:
    async with running(Desk()) as desk:
        run_time = desk.models[0].run_time
        run_time.ran(1, 100.0, asyncio.get_running_loop().time())
        desk.push("late", 1.0)
        desk.dispatcher.kick()
        assert desk.settled == [("late", ("expired", "predicted_late"))]
        run_time._last_run -= 1.0
        desk.push("tried", 1.0)
        desk.dispatcher.kick()
        await desk.executor.finish()
        assert [frame for frame, _ in desk.done] == ["tried"]


async def test_what_waits_too_long_expires_by_the_timer() -> None:
    async with running(Desk()) as desk:
        desk.push("running")
        desk.dispatcher.kick()
        for name, in_s in (("a", 0.03), ("b", 0.01), ("c", 60.0)):
            desk.push(name, in_s)
        desk.dispatcher.kick()
        async with asyncio.timeout(5):
            while len(desk.settled) < 2:  # noqa: ASYNC110  the timer is the dispatcher's own
                await asyncio.sleep(0.005)
        assert desk.settled == [("b", ("expired", "in_queue")), ("a", ("expired", "in_queue"))]


async def test_models_take_turns_and_no_more_batches_run_than_there_are_slots() -> None:
    async with running(Desk(slots=2, models=2, p50_ms=20)) as desk:
        for n in range(3):
            desk.push(f"a{n}")
            desk.push(f"b{n}", model=1)
        desk.dispatcher.kick()
        await turns()
        assert len(desk.executor.running) == 2
        for _ in range(3):
            await desk.executor.finish()
        assert sorted(frame for frame, _ in desk.done[:2]) == ["a0", "b0"]
        assert len(desk.done) == 6


async def test_an_executor_that_raises_fails_its_batch_and_nothing_else() -> None:
    async with running(Desk()) as desk:
        desk.push("a")
        desk.dispatcher.kick()

        def broken(_: Item) -> Outcome:
            raise RuntimeError("broke")

        await desk.executor.finish(broken)
        assert desk.done == [("a", Refusal("failed", "internal", "broke"))]
        desk.push("b")
        desk.dispatcher.kick()
        await desk.executor.finish()
        assert isinstance(desk.done[-1][1], Answer)


async def test_a_fault_of_its_owner_ends_the_dispatcher_loudly() -> None:
    desk = Desk()
    desk.dispatcher._on_outcomes = lambda *_: 1 / 0  # type: ignore[assignment]
    task = asyncio.create_task(desk.dispatcher.run())
    await turns()
    desk.push("a")
    desk.dispatcher.kick()
    await desk.executor.finish()
    with pytest.raises(ZeroDivisionError):
        await task


async def test_a_cancelled_dispatcher_settles_what_it_had_taken() -> None:
    desk = Desk()
    async with running(desk):
        desk.push("a")
        desk.dispatcher.kick()
        assert desk.executor.running
    await desk.executor.finish()  # its outcomes come, and nobody takes them any more
    assert desk.settled == [("a", ("dropped", "shutdown"))] and desk.done == []
    desk.push("b")
    desk.dispatcher.kick()  # after the end nothing starts
    assert desk.models[0].queue.waiting == 1


async def test_drain_waits_for_queue_and_runs_and_gives_up_in_time() -> None:
    async with running(Desk(p50_ms=20)) as desk:
        assert await desk.dispatcher.drain(0.01)
        desk.push("a")
        desk.push("b")
        desk.dispatcher.kick()
        assert not await desk.dispatcher.drain(0.01)
        draining = asyncio.create_task(desk.dispatcher.drain(5))
        await desk.executor.finish()
        assert not draining.done()
        await desk.executor.finish()
        assert await draining and len(desk.done) == 2


TIMED_OUT: Outcome = Refusal("failed", "model_timeout", suspect=True)


async def test_a_batch_that_hung_is_taken_apart_and_only_the_guilty_frame_fails() -> None:
    async with running(Desk()) as desk:
        for name in "abcd":
            desk.push(name)
        desk.dispatcher.kick()
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
        assert await desk.dispatcher.drain(1.0)


async def test_a_suspect_is_not_run_after_its_deadline() -> None:
    async with running(Desk()) as desk:
        for name in "abc":
            desk.push(name, in_s=0.05)
        desk.dispatcher.kick()
        await asyncio.sleep(0.06)
        await desk.executor.finish(lambda _: TIMED_OUT)
        assert desk.executor.running == [] and desk.done == []
        assert sorted(desk.settled) == [(name, ("expired", "in_queue")) for name in "abc"]
        desk.push("d")
        desk.dispatcher.kick()
        await desk.executor.finish()
        assert desk.done == [("d", ANSWER)]


async def test_a_suspect_that_hung_alone_and_is_too_late_is_the_guilty_one() -> None:
    async with running(Desk()) as desk:
        for name in "ab":
            desk.push(name, in_s=0.05)
        desk.dispatcher.kick()
        await desk.executor.finish(lambda _: TIMED_OUT)
        await asyncio.sleep(0.06)  # a runs alone meanwhile
        await desk.executor.finish(lambda _: TIMED_OUT)
        assert desk.settled == [("b", ("expired", "in_queue")), ("a", ("failed", "model_timeout"))]


async def test_suspects_leave_a_slot_to_the_healthy() -> None:
    async with running(Desk(slots=2)) as desk:
        for name in "abcd":
            desk.push(name)
        desk.dispatcher.kick()
        await desk.executor.finish(lambda _: TIMED_OUT)
        desk.push("healthy")
        desk.dispatcher.kick()
        await turns()
        assert len(desk.executor.running) == 2
        await desk.executor.finish()
        assert ("healthy", ANSWER) in desk.done


async def test_suspects_that_wait_at_the_stop_have_a_fate() -> None:
    desk = Desk()
    async with running(desk):
        for name in "abc":
            desk.push(name)
        desk.dispatcher.kick()
        await desk.executor.finish(lambda _: TIMED_OUT)
    assert sorted(desk.settled) == [(name, ("dropped", "shutdown")) for name in "abc"]
