"""Processes that nobody waits for are stopped while few slots are free, and never for good."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import psutil
import pytest

from penstock_models.errors import HostError
from penstock_models.gaps import BREATH_S, PAUSE_S, Gaps
from penstock_models.vetting.vet import vet
from tests.fakes.virtual_time import in_virtual_time
from tests.models.hosted import children, opened, pid_of, until, written
from tests.models.loaded import bundle, scaler

STOP, GO = signal.SIGSTOP, signal.SIGCONT


class Process:
    """Remembers what it was sent."""

    def __init__(self) -> None:
        self.sent: list[signal.Signals] = []

    def send(self, number: signal.Signals) -> None:
        self.sent.append(number)

    @property
    def stopped(self) -> bool:
        return bool(self.sent) and self.sent[-1] == STOP


@pytest.fixture
def process() -> Process:
    return Process()


@pytest.mark.parametrize(("slots", "most"), [(1, 0), (2, 0), (3, 1), (8, 6)])
async def test_it_runs_while_a_slot_is_free_for_it_and_one_for_what_comes(
    slots: int, most: int, process: Process
) -> None:
    gaps = Gaps(slots)
    with gaps.within(process.send):
        for _ in range(most):
            gaps.begin()
        assert not process.sent
        gaps.begin()
        assert process.stopped
        gaps.end()
        await asyncio.sleep(0)
        assert process.sent == [STOP, GO]
    assert not process.stopped


async def test_a_slot_that_is_taken_at_once_lets_nothing_go_on(process: Process) -> None:
    gaps = Gaps(1)
    with gaps.within(process.send):
        gaps.begin()
        for _ in range(5):
            gaps.end()
            gaps.begin()
            await asyncio.sleep(0)
        assert process.sent == [STOP]


async def test_one_that_starts_beside_busy_slots_is_stopped_and_goes_on_when_it_is_done(
    process: Process,
) -> None:
    gaps, other = Gaps(1), Process()
    gaps.begin()
    with gaps.within(process.send):
        assert process.stopped
        with gaps.within(other.send):
            assert other.stopped
        assert not other.stopped and process.stopped
    assert not process.stopped


@in_virtual_time
async def test_beside_slots_that_are_always_busy_it_runs_for_a_moment_now_and_then() -> None:
    gaps, process = Gaps(1), Process()
    with gaps.within(process.send):
        gaps.begin()
        await asyncio.sleep(BREATH_S / 2)
        for _ in range(3):
            assert process.stopped
            await asyncio.sleep(PAUSE_S)
            assert not process.stopped
            await asyncio.sleep(BREATH_S)


async def test_a_time_limit_does_not_count_while_it_is_stopped(process: Process) -> None:
    gaps, loop = Gaps(1), asyncio.get_running_loop()
    done = loop.create_future()
    with gaps.within(process.send):
        began, runs = loop.time(), gaps.running_s
        loop.call_later(0.05, gaps.begin)
        loop.call_later(0.08, gaps.end)
        assert not await gaps.wait(done, 0.1)
        took, ran = loop.time() - began, gaps.running_s - runs
        assert 0.1 <= ran <= took - 0.02
        loop.call_later(0.01, done.set_result, None)
        assert await gaps.wait(done, 0.1)


@in_virtual_time
async def test_nothing_is_sent_to_one_that_left() -> None:
    gaps, process = Gaps(1), Process()
    gaps.begin()
    with gaps.within(process.send):
        pass
    sent = list(process.sent)
    await asyncio.sleep(3 * PAUSE_S)
    gaps.end()
    await asyncio.sleep(PAUSE_S)
    assert process.sent == sent == [STOP, GO]


# --- a real process ------------------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> str:
    return written(bundle(scaler(width=2)), tmp_path)


def is_stopped(pid: int) -> bool:
    return psutil.Process(pid).status() == psutil.STATUS_STOPPED


async def test_a_load_beside_busy_slots_is_stopped_and_ends_in_the_gap(path: str) -> None:
    before, gaps = children(), Gaps(1)
    gaps.begin()
    loading = asyncio.create_task(opened(path, gaps=gaps))
    await until(lambda: any(map(is_stopped, children() - before)))
    assert not loading.done()
    gaps.end()
    host = await loading
    try:
        gaps.begin()  # it serves now, and is nothing that waits
        assert not is_stopped(pid_of(host)) and await host.probe()
    finally:
        await host.close()


async def test_a_load_beside_slots_that_are_always_busy_ends_too(path: str) -> None:
    gaps = Gaps(1)
    gaps.begin()
    host = await opened(path, gaps=gaps)
    assert await host.probe()
    await host.close()


async def test_a_close_beside_busy_slots_ends_too(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gaps = Gaps(1)
    host = await opened(path, gaps=gaps)
    pid, sent, send = pid_of(host), Process(), host._child.signal

    def both(number: signal.Signals) -> None:
        sent.send(number)
        send(number)

    monkeypatch.setattr(host._child, "signal", both)
    gaps.begin()
    await host.close()
    assert sent.sent[:2] == [STOP, GO]
    assert not psutil.pid_exists(pid)


async def test_a_load_that_does_not_end_is_given_up_in_the_gaps_too(path: str) -> None:
    before, gaps = children(), Gaps(1)
    gaps.begin()
    with pytest.raises(HostError, match="not loaded within"):
        await opened(path, gaps=gaps, load_timeout_s=0.02)
    assert children() == before


async def test_a_trial_beside_busy_slots_is_stopped_and_ends_in_the_gap(path: str) -> None:
    before, gaps = children(), Gaps(1)
    trial = asyncio.create_task(vet(path, gaps=gaps))
    await until(lambda: bool(children() - before))
    gaps.begin()
    await until(lambda: any(map(is_stopped, children() - before)))
    gaps.end()
    assert (await trial).ok and children() == before
