"""A host over devices: chosen, given up, rebuilt behind the runs, taken back; engines built meanwhile; nothing left behind."""

import asyncio
import subprocess
import sys
import threading
import time
from asyncio import Future
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock_models.devices.builds import KEPT, MAX_TIMES, TIMES, Builds, BuildTimes
from penstock_models.devices.cache import CacheKey, ModelCache
from penstock_models.devices.health import Rules
from penstock_models.devices.supervised import Limits, OpenHost, SupervisedHost, how_it_went
from penstock_models.devices.supervision import Supervision
from penstock_models.errors import BundleError, GoldenError, HostError, ModelRefused, PlacementError
from penstock_models.hosts import Host
from penstock_models.items import Answer, Item, JsonValues, Outcome, Refusal, ServableInfo
from tests.models.loaded import fates

QUICK = Rules(
    errors=3,
    errors_limit=9,
    good_probes=3,
    probe_every_s=0.01,
    rebuild_s=0.02,
    rebuild_max_s=0.1,
    return_s=0.05,
    return_max_s=0.2,
    steady_s=3600.0,
)
LIMITS = Limits(open_s=0.3, build_s=5.0, probe_s=0.1)
ITEM = Item(JsonValues(b"[1]"))
FAILED = Refusal("failed", "model_error", "the device said no")
ENDED = Refusal("failed", "model_timeout", "ended", suspect=True)


class FakeHost:
    """One version on one device, with verbs for what devices do."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.info = ServableInfo("made", 1, "sha256:1", f"fake:{device}", "raw", 8, False, 1.0, 1)
        self.resident_bytes = 1000
        self.lost: Future[str] = asyncio.get_running_loop().create_future()
        self.closed = self.ended = False
        self.held: list[tuple[Future[list[Outcome]], int]] = []
        self.ran = 0
        self.last: Outcome = Answer()
        """What batches get that run while it is closed."""
        self._answer: Outcome | None = Answer()
        self._golden: bool | None = True

    def run(self, items: Sequence[Item], timeout_s: float) -> Future[list[Outcome]]:
        assert not self.closed, "a closed host must get no run"
        self.ran += 1
        future: Future[list[Outcome]] = asyncio.get_running_loop().create_future()
        if self._answer is None:
            self.held.append((future, len(items)))
        else:
            future.set_result([self._answer] * len(items))
        return future

    async def probe(self) -> bool:
        if self._golden is None:
            await asyncio.get_running_loop().create_future()
        return bool(self._golden)

    async def close(self) -> None:
        self.closed = True
        await asyncio.sleep(0.005)
        self._resolve(self.last)
        self.ended = True

    def hold(self) -> None:
        """Keep batches running until released."""
        self._answer = None

    def fail(self, refusal: Refusal = FAILED, golden: bool | None = False) -> None:
        """Fail every batch; the golden sample is wrong too, or right, or (None) hangs."""
        self._answer, self._golden = refusal, golden

    def crash(self) -> None:
        """Die as a process does: what runs is answered, then it is lost."""
        self._resolve(Refusal("failed", "model_error", "ended by SIGSEGV", suspect=True))
        self.lost.set_result("ended by SIGSEGV")

    def _resolve(self, outcome: Outcome) -> None:
        for future, count in self.held:
            if not future.done():
                future.set_result([outcome] * count)
        self.held.clear()


class Box:
    """A machine with devices: opens hosts, and can make a device refuse, wait or answer wrongly."""

    def __init__(self) -> None:
        self.hosts: list[FakeHost] = []
        self.refuses: dict[str, Exception] = {}
        self.waits: dict[str, asyncio.Event] = {}
        self.asked: list[str] = []
        self.changes = 0

    async def open(self, device: str) -> Host:
        self.asked.append(device)
        if device in self.waits:
            await self.waits[device].wait()
        else:
            await asyncio.sleep(0)
        if device in self.refuses:
            raise self.refuses[device]
        host = FakeHost(device)
        self.hosts.append(host)
        return host

    def changed(self) -> None:
        self.changes += 1

    @property
    def open_hosts(self) -> list[str]:
        return [host.device for host in self.hosts if not host.ended]


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


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # the condition is another object's state
            await asyncio.sleep(0.002)


async def fate(host: Host, count: int = 1) -> str:
    (one,) = set(fates(await host.run([ITEM] * count, 1.0)))
    return one


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


# --- engines -------------------------------------------------------------------------------------------------------


async def test_engine_is_built_in_the_background_and_switched_to(box: Box, tmp_path: Path) -> None:
    machine, builds = building(tmp_path, box.open)
    box.waits["trt"] = asyncio.Event()
    BuildTimes(tmp_path / TIMES).note("made on trt", 0.001)
    host = await SupervisedHost.open("made", machine, builds.open, limits=LIMITS)
    try:
        assert host.info.placement == "fake:cpu" and await fate(host) == "ok"
        await until(lambda: builds.progress()[0].expected_s is not None)
        (told,) = builds.progress()
        assert told.phase == "building" and told.expected_s == 0.001 and told.made_bytes == 0
        assert "trt: its engine is being built" in host.degraded
        box.waits["trt"].set()
        await until(lambda: host.info.placement == "fake:trt")
        assert [one.phase for one in builds.progress()] == ["serving"]
        assert box.asked == ["cpu", "trt"] and host.degraded == ""
        known = BuildTimes(tmp_path / TIMES).get("made on trt")
        assert known is not None and known > 0.001 and told.elapsed_s > 0.001
    finally:
        await host.close()
    assert box.open_hosts == []


def building(folder: Path, open_host: OpenHost) -> tuple[Supervision, Builds]:
    machine = Supervision(["trt", "cpu"], QUICK, slow=["trt"])
    return machine, Builds("made", machine, ModelCache(folder), open_host)


BUILDER = """
import sys, time
from pathlib import Path
from penstock_models.devices.cache import CacheKey, MadeElsewhere, ModelCache
cache, key = ModelCache(Path(sys.argv[1])), CacheKey("ab" * 32, "fake 1", "driver 1", "trt", {})
if cache.find(key) is None:
    try:
        with cache.making(key) as folder:
            if cache.find(key) is not None:
                print("kept", flush=True)
                sys.exit()
            for piece in range(10):
                with (folder / "engine").open("ab") as file:
                    file.write(b"x" * 1000)
                time.sleep(0.05)
            cache.publish(key, {})
        print("built", flush=True)
    except MadeElsewhere as elsewhere:
        sys.exit(str(elsewhere))
else:
    print("kept", flush=True)
"""


class Builder:
    """Opens a host on `trt` by a real child process that takes long, and is killed where its opening is cancelled."""

    def __init__(self, folder: Path, box: Box) -> None:
        self.folder = folder
        self.box = box
        self.said: list[str] = []
        self.children: list[asyncio.subprocess.Process] = []

    async def open(self, device: str) -> Host:
        if device == "trt":
            await self._child()
        return await self.box.open(device)

    async def _child(self) -> None:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", BUILDER, str(self.folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.children.append(child)
        try:
            out, error = await child.communicate()
        except asyncio.CancelledError:
            child.kill()
            await child.wait()
            raise
        if child.returncode:
            raise PlacementError(error.decode().strip())
        self.said.append(out.decode().strip())


async def test_real_builder_is_not_doubled_and_its_engine_is_kept(
    box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two gateways on one box start together: one builds, the other waits for its engine behind the cpu."""
    monkeypatch.setattr("penstock_models.devices.builds.LOOK_S", 0.02)
    builder = Builder(tmp_path, box)
    made = [building(tmp_path, builder.open) for _ in range(2)]
    hosts = [
        await SupervisedHost.open("made", machine, builds.open, limits=LIMITS) for machine, builds in made
    ]
    try:
        sizes: set[int] = set()

        def both_switched() -> bool:
            sizes.update(told.made_bytes for told in made[0][1].progress())
            return all(host.info.placement == "fake:trt" for host in hosts)

        while not both_switched():
            assert {await fate(host) for host in hosts} == {"ok"}
            await asyncio.sleep(0.005)
        assert sorted(builder.said) == ["built", "kept"]  # in the order of their ends
        assert len(sizes) > 1 and max(sizes) <= 11_000, "the progress was seen to grow"
    finally:
        await asyncio.gather(*(host.close() for host in hosts))
    assert box.open_hosts == []


async def test_close_ends_a_build(box: Box, tmp_path: Path) -> None:
    builder = Builder(tmp_path, box)
    machine = Supervision(["trt", "cpu"], QUICK, slow=["trt"])
    host = await SupervisedHost.open("made", machine, builder.open, limits=LIMITS)
    await until(lambda: bool(builder.children))
    await host.close()
    (child,) = builder.children
    assert child.returncode == -9 and box.open_hosts == []
    key = CacheKey("ab" * 32, "fake 1", "driver 1", "trt", {})
    with ModelCache(tmp_path).making(key) as folder:  # nobody holds it, and no half engine is trusted
        assert list(folder.iterdir()) == []
    assert ModelCache(tmp_path).find(key) is None


async def test_cancelled_while_its_time_is_noted_it_leaves_no_host(
    box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noting, go_on = threading.Event(), threading.Event()

    def slow_disk(times: BuildTimes, name: str, seconds: float) -> None:
        noting.set()
        go_on.wait(20)

    monkeypatch.setattr(BuildTimes, "note", slow_disk)
    opening = asyncio.create_task(building(tmp_path, box.open)[1].open("trt"))
    await until(noting.is_set)
    opening.cancel()
    await asyncio.wait([opening])
    go_on.set()
    assert opening.cancelled() and box.open_hosts == []


def test_build_times_are_bounded_and_survive_a_broken_file(tmp_path: Path) -> None:
    times = BuildTimes(tmp_path / "new" / TIMES)
    assert times.get("a") is None
    for number in range(MAX_TIMES + 10):
        times.note(f"m{number}", float(number))
    assert times.get("m9") is None and times.get("m10") == 10.0
    path = tmp_path / "new" / TIMES
    assert len(msgspec.json.decode(path.read_bytes())) == MAX_TIMES and len(list(path.parent.iterdir())) == 1
    path.write_bytes(b"{")
    assert times.get("m10") is None
    times.note("again", 1.0)
    assert times.get("again") == 1.0


async def test_open_from_the_cache_is_no_measure_of_a_build(box: Box, tmp_path: Path) -> None:
    _, builds = building(tmp_path, box.open)
    times = BuildTimes(tmp_path / TIMES)
    times.note("made on trt", 500.0)
    await builds.open("trt")
    assert times.get("made on trt") == 500.0
    times.note("made on trt", 1e-9)
    await builds.open("trt")
    assert (times.get("made on trt") or 0) > KEPT * 1e-9
    await builds.open("cpu")
    assert times.get("made on cpu") is None
