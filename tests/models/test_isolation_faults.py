"""What goes wrong in a version's process costs that process: crashes, silence, leaks, lies, and a parent that is gone."""

import asyncio
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from penstock_models.executor import ThreadExecutor
from penstock_models.gaps import Gaps
from penstock_models.isolation import desk, process_host
from penstock_models.isolation.channel import Channel, ChannelError
from penstock_models.isolation.line import CONTROL, Line
from penstock_models.isolation.packing import PackedOutcome
from penstock_models.isolation.process_host import ProcessHost
from penstock_models.isolation.spawning import MAX_LAST_WORDS
from penstock_models.isolation.words import (
    Call,
    Close,
    Done,
    Load,
    Loaded,
    Probe,
    Probed,
    Run,
    calls,
    replies,
)
from penstock_models.items import Answer, Outcome, OutputTensor, Refusal, ServableInfo
from tests.models.hosted import FOREVER, SECOND, alive, children, hosted, pid_of, until, written
from tests.models.loaded import bundle, fates, floats, integers, looper, output, scaler

ROOT = Path(__file__).parents[2]
INFO = ServableInfo("fake", 1, "sha256:fake", "fake:cpu", "raw", 1, False, 0.1, 0)


@pytest.fixture
def small(tmp_path: Path) -> str:
    return written(bundle(scaler()), tmp_path / "small")


@pytest.fixture
def loops(tmp_path: Path) -> str:
    return written(bundle(looper()), tmp_path / "loops")


def refusals(outcomes: Sequence[Outcome]) -> list[Refusal]:
    assert all(isinstance(outcome, Refusal) for outcome in outcomes), outcomes
    return [outcome for outcome in outcomes if isinstance(outcome, Refusal)]


# --- crashes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL])
async def test_a_crash_fails_what_runs_and_nothing_else(
    small: str, loops: str, number: signal.Signals
) -> None:
    executor = ThreadExecutor(1)
    info = await executor.load(small)
    async with hosted(loops, threads=2) as host:
        running = [host.run([integers(FOREVER)] * 2, 60.0) for _ in range(2)]
        waiting = host.run([integers(1)], 60.0)
        probing = asyncio.create_task(host.probe())
        await asyncio.sleep(0)
        os.kill(pid_of(host), number)
        assert f"ended by {number.name}" in await asyncio.wait_for(host.lost, 5)
        for outcomes in await asyncio.gather(*running):
            assert fates(outcomes) == ["failed: model_error"] * 2
            assert all(r.suspect and f"ended by {number.name}" in r.detail for r in refusals(outcomes))
        assert fates(await waiting) == ["failed: not_ready"] and not refusals(await waiting)[0].suspect
        assert not await probing and not await host.probe()
        late = await host.run([integers(1)], 1.0)
        assert fates(late) == ["failed: not_ready"] and number.name in refusals(late)[0].detail
        assert not children()
    assert fates(await executor.run(info.digest, [floats(1, 2)], 5.0)) == ["ok"]
    await executor.close()


async def test_a_kill_from_outside_is_told_as_such(loops: str) -> None:
    async with hosted(loops) as host:
        assert output((await host.run([integers(1)], 5.0))[0]) == [1]
        os.kill(pid_of(host), signal.SIGKILL)
        assert "for want of memory" in await host.lost


async def test_last_words_are_kept_within_bounds_and_off_our_terminal(
    small: str, capfd: pytest.CaptureFixture[str]
) -> None:
    async with hosted(small) as host:
        host._channel.send(b"rubbish")
        reason = await asyncio.wait_for(host.lost, 5)
        assert "ended with exit code 70; it said: " in reason and reason.endswith(
            "what is no word of this protocol"
        )
        host._child.pipe_data_received(1, b"x" * 10 * MAX_LAST_WORDS)
        assert len(host._child._last_words) == MAX_LAST_WORDS and len(host._child.epitaph()) < 500
    assert capfd.readouterr() == ("", "")


END: dict[str, Callable[[ProcessHost], object]] = {
    "killed": lambda host: os.kill(pid_of(host), signal.SIGKILL),
    "crashed": lambda host: os.kill(pid_of(host), signal.SIGSEGV),
    "retired": lambda host: host._retire("too old"),
    "closed": lambda host: None,
}


@pytest.mark.parametrize("end", END.values(), ids=END)
async def test_every_batch_has_one_fate_whatever_happens(
    loops: str, end: Callable[[ProcessHost], object], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk, "MAX_WAITING", 8)
    chance = random.Random(seed)
    turns = [1, 1, SECOND // 100, FOREVER]
    async with hosted(loops, threads=2) as host:
        runs: list[tuple[int, asyncio.Future[list[Outcome]]]] = []
        ended_at = chance.randrange(60)
        for step in range(60):
            batch = [integers(chance.choice(turns)) for _ in range(chance.randint(1, 4))]
            runs.append((len(batch), host.run(batch, 0.05)))
            if chance.random() < 0.2:
                chance.choice(runs)[1].cancel()
            if chance.random() < 0.5:
                await asyncio.sleep(chance.random() * 0.02)
            if step == ended_at:
                end(host)
    fated = [(count, await run) for count, run in runs if not run.cancelled()]
    assert all(count == len(outcomes) for count, outcomes in fated)
    assert {fate for _, outcomes in fated for fate in fates(outcomes)} <= {
        "ok", "dropped: full", "failed: model_timeout", "failed: model_error", "failed: not_ready",
    }  # fmt: skip
    assert host._desk.quiet().done() and not children()


# --- silence -------------------------------------------------------------------------------------------------------------


async def test_a_run_beyond_its_limit_costs_only_itself(loops: str) -> None:
    async with hosted(loops) as host:
        items = [integers(1), integers(FOREVER), integers(2)]
        assert set(fates(await host.run(items, 0.2))) == {"failed: model_timeout"}
        alone = [fates(await host.run([item], 0.2))[0] for item in items]
        assert alone == ["ok", "failed: model_timeout", "ok"] and not host.lost.done()


async def test_a_process_that_does_not_answer_is_ended(loops: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "SILENCE_S", 0.3)
    async with hosted(loops, threads=2) as host:
        other = host.run([integers(1)], 60.0)
        await other
        os.kill(pid_of(host), signal.SIGSTOP)
        late, other = host.run([integers(1)], 0.1), host.run([integers(1)], 60.0)
        assert fates(await asyncio.wait_for(late, 5)) == ["failed: model_timeout"]
        assert fates(await other) == ["failed: model_error"]
        assert all(r.suspect for r in refusals([*await late, *await other]))
        assert "silence 0.3 s after the limit of 0.1 s" in await host.lost
        assert not children()


# --- leaks ---------------------------------------------------------------------------------------------------------------


async def test_too_much_memory_ends_the_process_after_what_runs(
    loops: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_host, "SAMPLE_S", 0.02)
    async with hosted(loops, limit_bytes=10**9) as host:
        running, waiting = host.run([integers(SECOND // 3)], 10.0), host.run([integers(1)], 10.0)
        host._limit_bytes = 10**7
        assert fates(await waiting) == ["failed: not_ready"] and not running.done() and not host.lost.done()
        assert fates(await host.run([integers(1)], 1.0)) == ["failed: not_ready"]
        assert fates(await running) == ["ok"]
        reason = await asyncio.wait_for(host.lost, 5)
        assert host.resident_bytes == 0
        assert re.fullmatch(r"ended for its memory: \d\d+ MB, at most 10 MB are allowed", reason)


async def test_what_runs_too_long_does_not_hold_up_that_end(
    loops: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_host, "RETIRE_S", 0.1)
    async with hosted(loops, limit_bytes=10**7) as host:
        running = host.run([integers(FOREVER)], 60.0)
        assert "memory" in await asyncio.wait_for(host.lost, 5)
        outcomes = await running
        assert fates(outcomes) in (["failed: model_error"], ["failed: not_ready"])


async def test_memory_is_looked_at_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_host, "SAMPLE_S", 0.02)
    async with hosted(written(bundle(scaler(width=2_000_000)), tmp_path)) as host:
        before = host.resident_bytes
        assert fates(await host.run([floats(*[1.0] * 2_000_000)], 5.0)) == ["ok"]  # 8 MB in its slot
        await until(lambda: host.resident_bytes > before + 3_000_000)


# --- a parent that is gone -----------------------------------------------------------------------------------------------

PARENT = """
import asyncio, json, sys
from tests.models.hosted import opened, pid_of
from tests.models.loaded import integers

async def main():
    host = await opened(sys.argv[1])
    running = host.run([integers(2**62)], 600.0)
    await asyncio.sleep(0.1)
    print(json.dumps(pid_of(host)), flush=True)
    await running

asyncio.run(main())
"""


@pytest.mark.parametrize("stopped", [False, True], ids=["serving", "stopped"])
async def test_a_process_goes_with_its_parent(loops: str, stopped: bool) -> None:
    """Also one that is in a run, and one that reads no socket."""
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, loops, stdout=subprocess.PIPE, cwd=ROOT
    )
    assert parent.stdout is not None
    pid = json.loads(await parent.stdout.readline())
    if stopped:
        os.kill(pid, signal.SIGSTOP)
    assert alive(pid)
    parent.kill()
    await parent.wait()
    await until(lambda: not alive(pid))


# --- lies: a process that speaks, but not as it should ---------------------------------------------------------------------


class FakeProcess:
    """The other end of a host's line, which says what a test wants; also the host's `Child`."""

    pid = os.getpid()

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.line = Line[Call](Channel(theirs), calls, 3)
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        channel = Channel(ours)
        child: Any = self
        self.host = ProcessHost(child, Line(channel, replies, 3), channel, 0, Gaps(1))

    def signal(self, number: signal.Signals) -> None: ...

    def kill(self) -> None:
        if not self.ended.done():
            self.line.close()
            self.ended.set_result(None)

    def epitaph(self) -> str:
        return "ended by a test"

    async def heard(self) -> tuple[Any, Call]:
        async with asyncio.timeout(5):
            while (heard := self.line.hear()) is None:  # noqa: ASYNC110  # the host's half of the line is what is tested
                await asyncio.sleep(0.001)
        return heard


@pytest.fixture
async def fake() -> FakeProcess:
    process = FakeProcess()
    loading = asyncio.create_task(process.host._load(Load(b"x", (), 1, "", 0), 5.0))
    await process.heard()
    process.line.say(process.line.slots[CONTROL], Loaded(INFO))
    await loading
    assert process.host.info == INFO
    return process


ONE = PackedOutcome(Answer(), None)
ELSEWHERE = PackedOutcome(Answer(outputs={"y": OutputTensor("u1", (9,), b"")}), None, {"y": (1 << 40, 9)})

Lie = Callable[[FakeProcess, Any], object]

LIES: dict[str, tuple[Lie, str]] = {
    "too few outcomes": (lambda fake, slot: fake.line.say(slot, Done(())), "no 1 outcomes"),
    "too many outcomes": (lambda fake, slot: fake.line.say(slot, Done((ONE, ONE))), "no 1 outcomes"),
    "no outcome": (lambda fake, slot: fake.line.say(slot, Done((PackedOutcome(None, None),))), "none"),
    "bytes elsewhere": (lambda fake, slot: fake.line.say(slot, Done((ELSEWHERE,))), "of a buffer of 0 bytes"),
    "a probe's answer": (lambda fake, slot: fake.line.say(slot, Probed(True)), "no 1 outcomes"),
    "another slot": (lambda fake, slot: fake.line.say(fake.line.slots[1], Done((ONE,))), "nobody asked"),
    "loaded again": (
        lambda fake, slot: fake.line.say(fake.line.slots[CONTROL], Loaded(INFO)),
        "loaded already",
    ),
    "a call": (lambda fake, slot: fake.line.say(slot, Close()), "no word"),
    "rubbish": (lambda fake, slot: fake.line._channel.send(b"\xff" * 100), "no word"),
    "too long": (lambda fake, slot: fake.line._channel._end.send(bytes(100_000)), "more than"),
}


@pytest.mark.parametrize(("lie", "said"), LIES.values(), ids=LIES)
async def test_a_process_that_lies_is_ended(fake: FakeProcess, lie: Lie, said: str) -> None:
    run = fake.host.run([floats(1)], 5.0)
    slot, word = await fake.heard()
    assert isinstance(word, Run)
    lie(fake, slot)
    outcomes = await asyncio.wait_for(run, 5)
    assert fates(outcomes) == ["failed: model_error"] and said in refusals(outcomes)[0].detail
    assert said in await fake.host.lost
    await fake.host.close()


async def test_a_process_in_which_a_run_hangs_is_ended_after_the_others(fake: FakeProcess) -> None:
    hanging, other = fake.host.run([floats(1)], 5.0), fake.host.run([floats(2)], 5.0)
    waiting = fake.host.run([floats(3)], 5.0)
    (first, _), (second, _) = await fake.heard(), await fake.heard()
    fake.line.say(
        first, Done((PackedOutcome(None, Refusal("failed", "model_timeout")),), "m: 1 of 4 threads")
    )
    assert fates(await hanging) == ["failed: model_timeout"] and fates(await waiting) == ["failed: not_ready"]
    assert not fake.host.lost.done()
    fake.line.say(second, Done((ONE,), "m: 1 of 4 threads"))
    assert fates(await other) == ["ok"]
    assert await fake.host.lost == "ended for a run that does not come back (m: 1 of 4 threads)"
    await fake.host.close()


async def test_what_was_said_before_the_end_counts(fake: FakeProcess) -> None:
    """The answer and the end are there at once, and the end is seen first."""
    run, other = fake.host.run([floats(1)], 5.0), fake.host.run([floats(1)], 5.0)
    waiting = fake.host.run([floats(1)], 5.0)
    slot, _ = await fake.heard()
    fake.line.say(slot, Done((ONE,)))
    fake.host._on_end(fake.ended)
    assert (fates(await run), fates(await other)) == (["ok"], ["failed: model_error"])
    assert fates(await waiting) == ["failed: not_ready"]
    fake.kill()


async def test_probes_take_their_turn(fake: FakeProcess) -> None:
    probes = [asyncio.create_task(fake.host.probe()) for _ in range(3)]
    for good in (True, False):
        slot, word = await fake.heard()
        assert isinstance(word, Probe)
        fake.line.say(slot, Probed(good))
    slot, _ = await fake.heard()
    fake.line.say(slot, Done((ONE,)))
    assert await asyncio.gather(*probes) == [True, False, False]
    assert "probe" in await fake.host.lost
    await fake.host.close()


async def test_a_process_that_takes_no_messages_is_ended(
    fake: FakeProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(data: bytes, fd: int = -1) -> None:
        raise ChannelError("it does not take its messages: its queue is full")

    monkeypatch.setattr(fake.host._channel, "send", full)
    assert fates(await fake.host.run([floats(1)], 5.0)) == ["failed: model_error"]
    assert "queue is full" in await fake.host.lost
    await fake.host.close()
