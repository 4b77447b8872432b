"""A host over devices: chosen, given up, rebuilt behind the runs, taken back; nothing left behind."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

import pytest

from penstock_models.devices.supervised import SupervisedHost, how_it_went
from penstock_models.devices.supervision import Supervision
from penstock_models.errors import BundleError, GoldenError, HostError, ModelRefused, PlacementError
from penstock_models.hosts import Host
from penstock_models.items import Answer, Outcome, Refusal
from tests.fakes.devices import ENDED, FAILED, ITEM, LIMITS, QUICK, Box, FakeHost, fate, until
from tests.models.loaded import fates


@pytest.fixture
def box() -> Box:
    return Box()


Start = Callable[..., Coroutine[Any, Any, SupervisedHost]]


@pytest.fixture
async def start(box: Box) -> AsyncIterator[Start]:
    started: list[SupervisedHost] = []

    async def begin(devices: Sequence[str] = ("npu", "cpu"), slow: Sequence[str] = ()) -> SupervisedHost:
        machine = Supervision(devices, QUICK, slow=slow)
        host = await SupervisedHost.open("made", machine, box.open, on_change=box.changed, limits=LIMITS)
        started.append(host)
        return host

    yield begin
    for host in started:
        await host.close()
    assert box.open_hosts == [], "a host was left behind"


async def test_it_is_a_host_on_the_best_device(box: Box, start: Start) -> None:
    seam: Host = (host := await start())
    assert seam.info.placement == "fake:npu" and seam.resident_bytes == 1000
    assert await fate(seam, 3) == "ok" and await seam.probe()
    assert host.available and host.degraded == "" and not seam.lost.done()
    assert box.asked == ["npu"]


async def test_device_that_refuses_is_passed_over(box: Box, start: Start) -> None:
    box.refuses["npu"] = PlacementError("none", ["npu: no such device"])
    host = await start()
    assert host.info.placement == "fake:cpu"
    assert host.degraded.startswith("made: on cpu instead of npu since 2")
    assert host.degraded.endswith(": npu: npu: no such device")
    del box.refuses["npu"]
    await until(lambda: host.info.placement == "fake:npu")
    assert host.degraded == "" and await fate(host) == "ok"
    await until(lambda: box.open_hosts == ["npu"])


@pytest.mark.parametrize(
    ("npu", "cpu", "expected", "words"),
    [
        (PlacementError("no npu"), PlacementError("no cpu"), PlacementError, "npu: no npu; cpu: no cpu"),
        (PlacementError("no npu"), OSError("disk\nfull"), PlacementError, "cpu: disk full"),
        (PlacementError("no npu"), BundleError("golden wrong"), BundleError, "cpu: golden wrong"),
        (ModelRefused("custom_op", "Frob"), None, ModelRefused, "custom_op: Frob"),
    ],
)
async def test_nothing_that_takes_the_version_is_an_error_at_once(
    box: Box, start: Start, npu: Exception, cpu: Exception | None, expected: type[Exception], words: str
) -> None:
    box.refuses = {"npu": npu} | ({"cpu": cpu} if cpu else {})
    with pytest.raises(expected, match=words):
        await start()
    assert box.open_hosts == [] and box.hosts == [] and len(box.asked) <= 3


@pytest.mark.parametrize(
    "error", [GoldenError("wrong", ["wrong"]), HostError("crashed", "ended by SIGSEGV"), OSError("disk full")]
)
async def test_an_only_device_is_heard_in_its_own_words(box: Box, start: Start, error: Exception) -> None:
    box.refuses["npu"] = error
    with pytest.raises(type(error)) as raised:
        await start(["npu"])
    assert raised.value is error and box.hosts == []


async def test_crash_is_answered_and_the_next_device_serves(box: Box, start: Start) -> None:
    host = await start()
    box.waits["cpu"] = asyncio.Event()
    box.waits["npu"] = asyncio.Event()  # so that it does not come back within this test
    first = box.hosts[0]
    first.hold()
    run = host.run([ITEM, ITEM], 1.0)
    changes = box.changes
    first.crash()
    outcomes = await run
    assert all(isinstance(outcome, Refusal) and outcome.suspect for outcome in outcomes)
    await until(lambda: not host.available)
    assert box.changes > changes
    refused = (await host.run([ITEM, ITEM], 1.0))[1]
    assert isinstance(refused, Refusal) and (refused.bucket, refused.reason) == ("failed", "not_ready")
    assert "on no device" in refused.detail and "ended by SIGSEGV" in refused.detail
    assert not await host.probe()
    await until(lambda: box.asked == ["npu", "cpu"])
    box.waits["cpu"].set()
    await until(lambda: host.available)
    assert await fate(host) == "ok" and host.info.placement == "fake:cpu"
    assert "npu: ended by SIGSEGV" in host.degraded
    await until(lambda: first.closed)


async def test_it_returns_when_the_device_is_well_and_runs_go_on(box: Box, start: Start) -> None:
    host = await start()
    box.hosts[0].crash()
    await until(lambda: host.available and host.info.placement == "fake:cpu")
    old = box.hosts[1]
    old.hold()
    running = host.run([ITEM], 1.0)
    await until(lambda: host.info.placement == "fake:npu")
    assert await fate(host) == "ok"  # the new one serves while the old one's batch still runs
    assert fates(await running) == ["ok"]
    await until(lambda: old.closed)
    assert host.degraded == ""


async def test_wrong_golden_on_the_candidate_keeps_the_old_one(box: Box, start: Start) -> None:
    host = await start()
    wrong: list[FakeHost] = []
    real = box.open

    async def open_wrong(device: str) -> Host:
        opened = await real(device)
        if device == "npu" and len(wrong) < 3:
            assert isinstance(opened, FakeHost)
            opened.fail(golden=None if len(wrong) == 1 else False)  # wrong twice, and hanging once
            wrong.append(opened)
        return opened

    host._open_host = open_wrong
    box.hosts[0].crash()
    await until(lambda: len(wrong) == 3 and all(one.closed for one in wrong))
    assert host.info.placement == "fake:cpu" and await fate(host) == "ok"
    await until(lambda: host.info.placement == "fake:npu")


@pytest.mark.parametrize(("refusal", "golden"), [(FAILED, False), (ENDED, False), (ENDED, None)])
async def test_device_that_fails_its_runs_is_given_up(
    box: Box, start: Start, refusal: Refusal, golden: bool | None
) -> None:
    host = await start()
    box.hosts[0].fail(refusal, golden)
    box.refuses["npu"] = PlacementError("still broken")
    async with asyncio.timeout(5):
        while host.info.placement == "fake:npu":
            await host.run([ITEM, ITEM], 1.0)
            await asyncio.sleep(0.001)
    assert await fate(host) == "ok"
    await until(lambda: box.hosts[0].closed)


async def test_guilty_items_do_not_cost_the_device(box: Box, start: Start) -> None:
    host = await start()
    box.hosts[0].fail(ENDED, golden=True)
    for _ in range(QUICK.hangs_limit - 1):
        await host.run([ITEM], 1.0)
        await asyncio.sleep(0.01)
    assert host.info.placement == "fake:npu" and host.available and box.asked == ["npu"]


async def test_opening_that_hangs_is_ended_and_named(box: Box, start: Start) -> None:
    box.waits["npu"] = asyncio.Event()
    host = await start()
    assert host.info.placement == "fake:cpu" and "npu: was not open within 0.3 s" in host.degraded


async def test_cancelled_run_is_no_verdict(box: Box, start: Start) -> None:
    host = await start()
    box.hosts[0].hold()
    for _ in range(10):
        run = host.run([ITEM], 1.0)
        run.cancel()
    await asyncio.sleep(0)
    assert host.available and host.degraded == ""


async def test_run_of_a_host_that_left_does_not_count_against_the_next(box: Box, start: Start) -> None:
    host = await start()
    first = box.hosts[0]
    first.crash()
    await until(lambda: host.available and host.info.placement == "fake:cpu")
    second = box.hosts[1]
    second.hold()
    second.last = FAILED
    runs = [host.run([ITEM], 1.0) for _ in range(QUICK.errors_limit)]
    await until(lambda: host.info.placement == "fake:npu")
    assert {fates(await run)[0] for run in runs} == {"failed: model_error"}
    await asyncio.gather(*runs)  # and what is called when they are done was called
    await asyncio.sleep(0)
    assert (
        host.supervision.serving == "npu"
        and host.available
        and host.degraded == ""
        and box.asked == ["npu", "cpu", "npu"]
    )


async def test_cancelled_opening_leaves_nothing(box: Box) -> None:
    for awaits in range(12):
        opening = asyncio.create_task(
            SupervisedHost.open("made", Supervision(["npu", "cpu"], QUICK), box.open, limits=LIMITS)
        )
        for _ in range(awaits):
            await asyncio.sleep(0)
        opening.cancel()
        (result,) = await asyncio.gather(opening, return_exceptions=True)
        if isinstance(result, SupervisedHost):
            await result.close()
        await until(lambda: not box.open_hosts)
        assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []
    assert box.hosts, "some of them came far enough to open one"


async def test_closed_at_every_step_leaves_nothing(box: Box, start: Start) -> None:
    for awaits in range(0, 60, 3):
        host = await start()
        box.hosts[-1].crash()
        deadline = time.monotonic() + awaits / 400
        while time.monotonic() < deadline:  # noqa: ASYNC110  # any moment, also between two events
            await asyncio.sleep(0)
        await host.close()
        await host.close()
        assert box.open_hosts == [] and not host.available
        assert fates(await host.run([ITEM], 1.0)) == ["failed: not_ready"]


async def test_cancelled_close_still_closes(box: Box, start: Start) -> None:
    host = await start()
    closing = asyncio.create_task(host.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.gather(closing, return_exceptions=True)
    await until(lambda: box.open_hosts == [])


async def test_end_of_supervision_is_a_lost_host(
    box: Box, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = await start()

    def broken(now: float) -> None:
        raise ZeroDivisionError("a bug of ours")

    monkeypatch.setattr(host.supervision, "due", broken)
    box.hosts[0].crash()
    assert "a bug of ours" in await asyncio.wait_for(host.lost, 5)
    assert await fate(host) == "failed: not_ready"


@pytest.mark.parametrize(
    ("outcomes", "how"),
    [
        ([Answer()], "good"),
        ([Answer(), FAILED], "good"),
        ([FAILED, FAILED], "error"),
        ([FAILED, Refusal("failed", "model_output")], "error"),
        ([ENDED, ENDED], "hang"),
        ([ENDED, FAILED], "hang"),
        ([Answer(), ENDED], "good"),
        ([FAILED, Refusal("rejected", "decode")], None),
        ([Refusal("rejected", "decode")], None),
        ([Refusal("dropped", "full")] * 2, None),
        ([Refusal("failed", "internal")], None),
        ([], None),
    ],
)
def test_what_a_batch_says_about_its_device(outcomes: list[Outcome], how: str | None) -> None:
    assert how_it_went(outcomes) == how
