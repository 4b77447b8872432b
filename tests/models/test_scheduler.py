"""Batches: what is predicted, what a failing or a cancelled run leaves, drain."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from penstock_models.items import Answer, Item, Outcome, Refusal, Tensor
from penstock_models.scheduling.quarantine import HELD_S
from penstock_models.scheduling.request import Flow, Request, Share
from penstock_models.scheduling.runs import VersionRun
from penstock_models.scheduling.suspects import Suspect, Suspects
from tests.fakes.executor import ANSWER, servable, turns
from tests.fakes.owner import FakeOwner, running
from tests.fakes.virtual_time import in_virtual_time


def versions(count: int = 1, p50_ms: float = 0.01) -> list[VersionRun]:
    return [VersionRun(servable(f"m{n}", p50_ms=p50_ms)) for n in range(count)]


async def test_what_is_predicted_late_is_not_run_but_one_is_tried_now_and_then() -> None:
    async with running(FakeOwner()) as owner:
        times = owner.runs[0].times
        for _ in range(3):
            times.ran(1, 100.0, asyncio.get_running_loop().time())
        owner.submit("late", in_s=1.0)
        assert owner.refused == [("late", ("expired", "predicted_late"))]
        times._last_run -= 1.0
        owner.submit("tried", in_s=1.0)
        await owner.executor.finish()
        assert [frame for frame, _ in owner.done] == ["tried"]


async def test_one_behind_more_of_its_flow_than_can_be_run_in_time_is_refused_at_once() -> None:
    async with running(FakeOwner(*versions(p50_ms=100))) as owner:
        flow = owner.flow("a")
        for _ in range(12):
            owner.queue(flow, in_s=1.0)
        assert 8 <= owner.runs[0].queue.waiting <= 10
        assert owner.refused == [("a", ("expired", "predicted_late"))] * (12 - owner.runs[0].queue.waiting)
        owner.queue("b", in_s=1.0)  # another flow has its turn after one of them
        assert owner.refused[-1][0] == "a"


@in_virtual_time
async def test_what_waits_too_long_expires_by_the_timer() -> None:
    async with running(FakeOwner()) as owner:
        owner.submit("running")
        for name, in_s in (("a", 0.03), ("b", 0.01), ("c", 60.0)):
            owner.submit(name, in_s=in_s)
        await asyncio.sleep(0.03)
        assert owner.refused == [("b", ("expired", "in_queue")), ("a", ("expired", "in_queue"))]


async def test_models_take_turns_and_no_more_batches_run_than_there_are_slots() -> None:
    async with running(FakeOwner(*versions(2, p50_ms=20), slots=2)) as owner:
        for n in range(3):
            owner.queue(f"a{n}")
            owner.queue(f"b{n}", to=owner.runs[1])
        owner.scheduler.kick()
        await turns()
        assert len(owner.executor.running) == 2
        for _ in range(3):
            await owner.executor.finish()
        assert sorted(frame for frame, _ in owner.done[:2]) == ["a0", "b0"]
        assert len(owner.done) == 6


@pytest.mark.parametrize(("busy_runs", "batch"), [(0, ["c"]), (20, ["c"]), (120, ["c", "d"])])
@in_virtual_time
async def test_what_waits_is_shared_among_all_slots_until_they_were_busy_for_long(
    busy_runs: int, batch: list[str]
) -> None:
    async with running(FakeOwner(*versions(p50_ms=2), slots=2)) as owner:
        owner.submit("a", "b")
        for _ in range(busy_runs):
            await asyncio.sleep(0.001)
            owner.submit("more")
            await owner.executor.finish(count=1)
        owner.submit("c", "d")
        done = len(owner.done)
        await owner.executor.finish(count=1)
        await owner.executor.finish()
        assert [frame for frame, _ in owner.done[done + 2 :]] == batch


async def test_an_executor_that_raises_fails_its_batch_and_nothing_else() -> None:
    async with running(FakeOwner()) as owner:
        owner.submit("a")

        def broken(_: Item) -> Outcome:
            raise RuntimeError("broke")

        await owner.executor.finish(broken)
        assert owner.done == [("a", Refusal("failed", "internal", "broke"))]
        owner.submit("b")
        await owner.executor.finish()
        assert isinstance(owner.done[-1][1], Answer)


class Faulty(FakeOwner):
    """One who cannot take what it is told."""

    def outcomes(self, *_: object) -> None:
        raise ZeroDivisionError

    def settled(self, *_: object) -> None:
        raise ZeroDivisionError


@pytest.mark.parametrize("told", ["of an answer", "by the timer"])
@in_virtual_time
async def test_a_fault_of_its_owner_ends_the_scheduler_loudly(told: str) -> None:
    owner = Faulty()
    task = asyncio.create_task(owner.scheduler.run())
    await turns()
    if told == "by the timer":
        owner.runs[0].serving = False
        owner.submit("a", in_s=0.01)
    else:
        owner.submit("a")
        await owner.executor.finish()
    async with asyncio.timeout(5):
        with pytest.raises(ZeroDivisionError):
            await task


async def test_a_cancelled_scheduler_settles_what_it_had_taken() -> None:
    owner = FakeOwner()
    async with running(owner):
        owner.submit("a")
        assert owner.executor.running
    await owner.executor.finish()  # its outcomes come, and nobody takes them any more
    assert owner.refused == [("a", ("dropped", "shutdown"))] and owner.done == []
    owner.submit("b")  # after the end nothing starts
    assert owner.runs[0].queue.waiting == 1


@in_virtual_time
async def test_drain_waits_for_queue_and_runs_and_gives_up_in_time() -> None:
    async with running(FakeOwner(*versions(p50_ms=20))) as owner:
        assert await owner.scheduler.drain(0.01)
        owner.submit("a", "b")
        assert not await owner.scheduler.drain(0.01)
        draining = asyncio.create_task(owner.scheduler.drain(5))
        await owner.executor.finish()
        assert not draining.done()
        await owner.executor.finish()
        assert await draining and len(owner.done) == 2


TIMED_OUT: Outcome = Refusal("failed", "model_timeout", suspect=True)


async def test_a_batch_that_hung_is_taken_apart_and_only_the_guilty_frame_fails() -> None:
    async with running(FakeOwner()) as owner:
        owner.submit(*"abcd")
        await owner.executor.finish(lambda _: TIMED_OUT)
        assert owner.done == []
        for name in ("a", "b"):
            await owner.executor.finish()
            assert owner.done[-1] == (name, ANSWER)
        await owner.executor.finish(
            lambda _: TIMED_OUT
        )  # c alone, for the first time: its neighbours go first
        await owner.executor.finish()
        assert owner.done[-1] == ("d", ANSWER)
        await owner.executor.finish(lambda _: TIMED_OUT)
        assert owner.done[-1] == ("c", TIMED_OUT)
        assert await owner.scheduler.drain(1.0)


@in_virtual_time
async def test_a_suspect_is_not_run_after_its_deadline() -> None:
    async with running(FakeOwner()) as owner:
        owner.submit(*"abc", in_s=0.05)
        await asyncio.sleep(0.06)
        await owner.executor.finish(lambda _: TIMED_OUT)
        assert owner.executor.running == [] and owner.done == []
        assert sorted(owner.refused) == [(name, ("expired", "in_queue")) for name in "abc"]
        owner.submit("d")
        await owner.executor.finish()
        assert owner.done == [("d", ANSWER)]


@pytest.mark.parametrize("reason", ["model_timeout", "model_error"])
@in_virtual_time
async def test_a_suspect_that_failed_alone_and_is_too_late_is_told_how_it_failed(reason: str) -> None:
    async with running(FakeOwner()) as owner:
        owner.submit(*"ab", in_s=0.05)
        await owner.executor.finish(lambda _: Refusal("failed", reason, suspect=True))
        await asyncio.sleep(0.06)  # a runs alone meanwhile
        await owner.executor.finish(lambda _: Refusal("failed", reason, suspect=True))
        assert owner.refused == [("b", ("expired", "in_queue")), ("a", ("failed", reason))]


async def test_suspects_leave_a_slot_to_the_healthy() -> None:
    async with running(FakeOwner(slots=2)) as owner:
        owner.submit(*"abcd")
        await owner.executor.finish(lambda _: TIMED_OUT)
        owner.submit("healthy")
        await turns()
        assert len(owner.executor.running) == 2
        await owner.executor.finish()
        assert ("healthy", ANSWER) in owner.done


async def test_suspects_that_wait_at_the_stop_have_a_fate() -> None:
    owner = FakeOwner()
    async with running(owner):
        owner.submit(*"abc")
        await owner.executor.finish(lambda _: TIMED_OUT)
    assert sorted(owner.refused) == [(name, ("dropped", "shutdown")) for name in "abc"]


async def test_guilty_payloads_are_quarantined_once_the_version_has_proven_itself() -> None:
    guilty: Outcome = Refusal("failed", "model_error", "no")

    def answer(item: Item) -> Outcome:
        assert isinstance(item.payload, Tensor)
        return guilty if item.payload.data == b"bad" else ANSWER

    async def answered(*keys: str) -> None:
        owner.submit(*keys)
        while owner.executor.running:
            await owner.executor.finish(answer)

    async with running(FakeOwner()) as owner:
        await answered("bad")
        await answered("bad")  # it never answered anybody: the version may be broken itself
        assert owner.refused == []
        await answered("a", "b", "c")
        await answered("bad")
        assert [outcome for key, outcome in owner.done if key == "bad"] == [guilty] * 3
        owner.queue("bad")
        owner.queue("good")
        assert owner.refused == [("bad", ("rejected", "quarantined"))]
        now = asyncio.get_running_loop().time()
        item = Item(Tensor(b"bad"))
        assert owner.scheduler.quarantine.holds(owner.runs[0].info.digest, item, now)
        assert not owner.scheduler.quarantine.holds("sha256:other", item, now)
        assert not owner.scheduler.quarantine.holds(owner.runs[0].info.digest, item, now + HELD_S + 1)
        assert not owner.scheduler.quarantine  # nothing is hashed any more


async def test_a_withdrawn_request_frees_its_place_and_one_that_runs_does_not() -> None:
    async with running(FakeOwner()) as owner:
        first = owner.submit("a")
        second = owner.submit("b")
        assert not owner.scheduler.withdraw(first) and owner.scheduler.withdraw(second)
        assert not owner.scheduler.withdraw(second) and owner.runs[0].queue.waiting == 0
        await owner.executor.finish()
        assert owner.done == [("a", ANSWER)] and owner.refused == []


async def test_a_retired_version_ends_with_its_last_batch_and_what_waits_fails() -> None:
    async with running(FakeOwner()) as owner:
        (run,) = owner.runs
        owner.submit("a")
        owner.submit("b")
        retiring = asyncio.create_task(owner.scheduler.retire(run))
        await turns()
        assert not retiring.done() and owner.refused == [("b", ("failed", "not_ready"))]
        await owner.executor.finish()
        await retiring
        assert owner.done == [("a", ANSWER)] and owner.scheduler.runs == []


async def test_a_version_that_does_not_serve_keeps_what_waits() -> None:
    async with running(FakeOwner()) as owner:
        owner.runs[0].serving = False
        owner.submit("a")
        assert owner.executor.running == [] and owner.runs[0].queue.waiting == 1
        owner.runs[0].serving = True
        owner.scheduler.kick()
        await owner.executor.finish()
        assert owner.done == [("a", ANSWER)]


async def test_a_saturated_version_leaves_the_next_slot_to_a_quiet_one() -> None:
    async with running(FakeOwner(*versions(2, p50_ms=20))) as owner:
        owner.submit(*(f"a{n}" for n in range(20)))
        owner.submit("b", to=owner.runs[1])
        await owner.executor.finish()
        await owner.executor.finish()
        assert [key for key, _ in owner.done] == ["a0", "b"]


CRASHED: Outcome = Refusal("failed", "model_error", "its process ended", suspect=True)


async def test_a_request_under_which_the_process_died_is_tried_once_more() -> None:
    async with running(FakeOwner()) as owner:
        owner.submit("a")
        await owner.executor.finish(lambda _: CRASHED)
        assert owner.done == []
        await owner.executor.finish()
        assert owner.done == [("a", ANSWER)] and not owner.scheduler.quarantine
        owner.submit("b")
        await owner.executor.finish(lambda _: CRASHED)
        await owner.executor.finish(lambda _: CRASHED)
        assert owner.done[-1] == ("b", CRASHED) and await owner.scheduler.drain(1.0)


async def test_one_hang_alone_may_be_the_machines_fault_and_two_are_not() -> None:
    async with running(FakeOwner()) as owner:
        for _ in range(3):
            for key in ("x", "y", "z", "slow"):
                owner.submit(key)
                await owner.executor.finish(
                    lambda item: TIMED_OUT if item.payload == Tensor(b"slow") else ANSWER
                )
        assert [outcome for key, outcome in owner.done if key == "slow"] == [TIMED_OUT] * 2
        assert owner.refused == [("slow", ("rejected", "quarantined"))]


async def test_suspects_of_a_version_that_goes_are_tried_by_the_next_or_fail() -> None:
    async with running(FakeOwner(*versions(2))) as owner:
        old, new = owner.runs

        class Moving:
            now: VersionRun | None = old

            def run_for(self, flow: Flow) -> VersionRun | None:
                return self.now

        target = Moving()
        owner.submit("a", "b", to=target)
        target.now = new
        retiring = asyncio.create_task(owner.scheduler.retire(old))
        await turns()
        await owner.executor.finish(lambda _: CRASHED)  # while it retires
        await retiring
        await owner.executor.finish()
        await owner.executor.finish()
        assert sorted(owner.done) == [("a", ANSWER), ("b", ANSWER)] and await owner.scheduler.drain(1.0)


@in_virtual_time
async def test_suspects_of_a_version_that_does_not_serve_expire_in_time() -> None:
    async with running(FakeOwner()) as owner:
        owner.submit(*"ab", in_s=0.05)
        owner.runs[0].serving = False
        await owner.executor.finish(lambda _: CRASHED)
        assert await owner.scheduler.drain(2.0)
        assert sorted(owner.refused) == [("a", ("expired", "in_queue")), ("b", ("expired", "in_queue"))]


@in_virtual_time
async def test_a_flow_waits_for_its_suspect_that_runs() -> None:
    """Though another suspect of the flow, which is too late, has its fate before."""
    async with running(FakeOwner(slots=2)) as owner:
        flow = owner.flow("a")
        owner.queue(flow)
        owner.submit(flow, in_s=0.05)
        await owner.executor.finish(lambda _: CRASHED)
        owner.submit(flow, payload=Tensor(b"next"))
        await asyncio.sleep(0.06)
        assert owner.refused == [("a", ("expired", "in_queue"))] and len(owner.executor.running) == 1
        await owner.executor.finish()
        assert owner.executor.running[0][0][0].payload == Tensor(b"next")


@pytest.mark.parametrize(
    "empty",
    [
        lambda owner, request: owner.scheduler.withdraw(request),
        lambda owner, request: owner.scheduler.give_up(owner.runs[0]),
        lambda owner, request: asyncio.ensure_future(owner.scheduler.retire(owner.runs[0])),
    ],
    ids=["withdrawn", "given up", "retired"],
)
async def test_who_drains_hears_of_the_last_request_that_goes_without_a_run(
    empty: Callable[..., object],
) -> None:
    async with running(FakeOwner()) as owner:
        owner.runs[0].serving = False
        request = owner.submit("a")
        draining = asyncio.create_task(owner.scheduler.drain(60.0))
        await turns()
        assert not draining.done()
        empty(owner, request)
        await turns()
        assert draining.done() and await draining


async def test_a_retirement_that_is_cancelled_strands_nobody() -> None:
    async with running(FakeOwner()) as owner:
        (run,) = owner.runs
        owner.submit("a")
        retiring = asyncio.create_task(owner.scheduler.retire(run))
        await turns()
        retiring.cancel()
        await asyncio.wait([retiring])
        owner.scheduler.runs.append(run)
        owner.submit("b")
        await owner.executor.finish()
        await owner.executor.finish()
        assert owner.done == [("a", ANSWER), ("b", ANSWER)] and await owner.scheduler.drain(1.0)


def test_a_suspect_is_too_late_at_its_deadline() -> None:
    """Not a moment later: a timer that fires then and finds nothing would be set again for the same time."""
    (run,) = versions()
    suspects, request = Suspects(), Request(Flow("a", Share()))
    request.deadline = 5.0
    suspects.add([Suspect(run, request)])
    assert suspects.expire(4.9) == [] and suspects.next_deadline() == 5.0
    assert [suspect.request for suspect in suspects.expire(5.0)] == [request] and not suspects


def test_the_first_suspect_whose_version_serves_is_tried_and_the_others_keep_their_places() -> None:
    down, up = versions(2)
    waiting = [Suspect(run, Request(Flow(str(n), Share()))) for n, run in enumerate((down, up, down))]
    suspects = Suspects()
    suspects.add(waiting)
    down.serving = False
    assert suspects.next() is waiting[1] and suspects.next() is None  # one at a time
    suspects.trying = None
    assert suspects.next() is None
    down.serving = True
    assert suspects.next() is waiting[0]
