"""A version in a process of its own: the same answers and errors as in this one, at the right priorities, within bounds."""

import asyncio
import ctypes
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from onnx import helper

from penstock_models.bundle import memory_bundle
from penstock_models.errors import HostError, PenstockError, UsageError
from penstock_models.executor import ThreadExecutor
from penstock_models.hosts import Host
from penstock_models.isolation import buffers, desk, process_host
from penstock_models.isolation.process_host import ProcessHost
from penstock_models.items import EncodedImage, Item, Outcome, ServableInfo, Tensor
from penstock_models.manifest import Golden
from penstock_models.pack import pack
from tests.models.hosted import (
    FOREVER,
    SECOND,
    alive,
    children,
    hosted,
    open_files,
    opened,
    pid_of,
    until,
    written,
)
from tests.models.loaded import bundle, fate, fates, floats, integers, looper, output, picker, scaler, summer
from tests.models.onnx_files import model, tensor, weight

IOPRIO_GET = {"x86_64": 252, "aarch64": 31, "riscv64": 31}


def untimed(info: ServableInfo) -> ServableInfo:
    """What does not differ from load to load. A size that took long ends the warm-up, and is the largest then."""
    return msgspec.structs.replace(info, p50_ms=0, batch_ms={}, max_batch=0)


@pytest.fixture
def small(tmp_path: Path) -> str:
    """A bundle: y = 2 · x."""
    return written(bundle(scaler()), tmp_path / "small")


@pytest.fixture
def loops(tmp_path: Path) -> str:
    """A bundle that takes as long as it is told."""
    return written(bundle(looper()), tmp_path / "loops")


def without_times(outcomes: list[Outcome]) -> list[Outcome]:
    return [
        outcome
        if not hasattr(outcome, "infer_ms")
        else msgspec.structs.replace(outcome, decode_ms=0, infer_ms=0)
        for outcome in outcomes
    ]


async def both_ways(path: str, batches: list[list[Item]]) -> None:
    """Hold what a process answers against what this one answers."""
    executor = ThreadExecutor(1)
    info = await executor.load(path)
    async with hosted(path) as host:
        assert untimed(host.info) == untimed(info)
        for batch in batches:
            here = without_times(await executor.run(info.digest, batch, 10.0))
            assert without_times(await host.run(batch, 10.0)) == here
    await executor.close()


# --- the same ----------------------------------------------------------------------------------------------------------


async def test_it_is_a_host(small: str) -> None:
    async with hosted(small, threads=2) as host:
        seam: Host = host
        runs = [seam.run([floats(i, i), floats(3)], 5.0) for i in range(40)]
        for i, outcomes in enumerate(await asyncio.gather(*runs)):
            assert output(outcomes[0]) == [2 * i, 2 * i] and fate(outcomes[1]) == "rejected: shape"
        assert await seam.probe() and not seam.lost.done() and await seam.run([], 1.0) == []
        assert 20e6 < seam.resident_bytes < 300e6


async def test_small_models_answer_as_in_this_process(tmp_path: Path) -> None:
    nothing = Item(Tensor(b""))
    strange = [Item(Tensor(b"1234", "complex")), nothing, Item(EncodedImage(b"no picture"))]
    await both_ways(
        written(bundle(scaler()), tmp_path / "a"), [[floats(1, 2)] * 3, [floats(3), *strange], []]
    )
    await both_ways(written(bundle(picker()), tmp_path / "b"), [[integers(1), integers(99), integers(2)]])
    streams = [floats(i, stream=s) for i, s in enumerate("abab")]
    await both_ways(written(summer(), tmp_path / "c"), [streams, streams[:1], streams[1:]])


async def test_large_tensors_cross_whole(tmp_path: Path) -> None:
    path = written(bundle(scaler(width=300_000)), tmp_path)
    batches = [[floats(*np.arange(300_000) + i)] * n for i, n in enumerate((1, 20, 1))]
    await both_ways(path, batches)  # 1.2 MB, 24 MB and again 1.2 MB


def pictures(folder: Path) -> list[Item]:
    found = sorted(folder.glob("**/*.jpg"))[:6]
    assert found
    return [Item(EncodedImage(path.read_bytes(), "image/jpeg")) for path in found]


@pytest.mark.parametrize(
    ("name", "preset"),
    [("vww_96_int8.tflite", "classification"), ("light_weight_person_detector_192.onnx", "yolox")],
)
async def test_real_models_answer_as_in_this_process(
    realdata: Path, tmp_path: Path, name: str, preset: str
) -> None:
    bundled = await asyncio.to_thread(pack, realdata / "models" / name, tmp_path, preset=preset, name="m")
    items = pictures(realdata / "images")
    broken = Item(EncodedImage(memoryview((realdata / "images" / "bird.jpg").read_bytes())[:5000]))
    await both_ways(str(bundled), [items, items[:1], [broken, items[1]]])


# --- the same errors -----------------------------------------------------------------------------------------------------


def no_bundle(folder: Path) -> str:
    (folder / "bad.bundle").write_bytes(b"no tar")
    return str(folder / "bad.bundle")


def wrong_golden(folder: Path) -> str:
    plain = bundle(scaler())
    expected = {"outputs": {"y": {"dtype": "float32", "shape": [2], "values": {"0": 7.0}}}}
    golden = Golden("golden/0.bin", "application/x-tensor; dtype=float32; shape=2", expected, 0.01)
    manifest = msgspec.structs.replace(plain.manifest, golden=(golden,))
    files = {"model.onnx": scaler(), golden.file: np.array([1, 2], "<f4").tobytes()}
    return written(memory_bundle(manifest, files, plain.path), folder)


def unknown_operator(folder: Path) -> str:
    nodes = [helper.make_node("Mine", ["x"], ["y"], domain="mine")]
    made = model(nodes, [tensor("x", ["n", 2])], [tensor("y", ["n", 2])], [weight("w", 1)])
    plain = bundle(scaler())
    return written(
        memory_bundle(plain.manifest, {"model.onnx": made.SerializeToString()}, plain.path), folder
    )


@pytest.mark.parametrize(
    ("path", "devices", "digest", "said"),
    [
        (lambda folder: str(folder / "none"), (), "", "no bundle at"),
        (no_bundle, (), "", "bad.bundle"),
        (wrong_golden, (), "", "a golden answer is wrong here"),
        (unknown_operator, (), "", "custom_op: "),
        (lambda folder: written(bundle(scaler()), folder), ("cuda",), "", "CUDAExecutionProvider"),
        (lambda folder: written(bundle(scaler()), folder), (), "sha256:0", "expected sha256:0"),
    ],
    ids=["missing", "no bundle", "golden", "operator", "device", "digest"],
)
async def test_a_refused_load_raises_what_it_raises_in_this_process(
    tmp_path: Path, path: Any, devices: tuple[str, ...], digest: str, said: str
) -> None:
    place = path(tmp_path)
    executor = ThreadExecutor(1)
    with pytest.raises(PenstockError) as here:
        await executor.load(place, devices, digest)
    with pytest.raises(PenstockError) as there:
        await opened(place, devices, expected_digest=digest)
    assert type(there.value) is type(here.value) and str(there.value) == str(here.value)
    assert vars(there.value) == vars(here.value) and said in str(there.value)
    assert not children()
    await executor.close()


async def test_a_load_that_takes_too_long_is_ended_by_name(small: str) -> None:
    with pytest.raises(HostError, match=r"load_timeout: .*made-1\.bundle: not loaded within 0\.01 s") as late:
        await opened(small, load_timeout_s=0.01)
    assert late.value.reason == "load_timeout" and not children()


async def test_a_process_that_ends_while_it_loads_is_named(small: str) -> None:
    load = asyncio.create_task(opened(small))
    await until(lambda: bool(children()))
    os.kill(min(children()), signal.SIGKILL)
    with pytest.raises(HostError, match=r"crashed: .*made-1\.bundle: its process ended by SIGKILL") as died:
        await load
    assert died.value.reason == "crashed" and not children()


async def test_a_process_that_cannot_be_started_is_named(small: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(HostError, match="no process could be started for it"):
        await opened(small)
    assert not children()


@pytest.mark.parametrize("stopped_after_s", [None, 0.0, 0.05])
async def test_a_cancelled_load_leaves_nothing(small: str, stopped_after_s: float | None) -> None:
    before = len(open_files(os.getpid()))
    load = asyncio.create_task(opened(small))
    await asyncio.sleep(0)
    if stopped_after_s is not None:
        while not children():  # noqa: ASYNC110  # another process sets no event here
            await asyncio.sleep(0.001)
        await asyncio.wait({load}, timeout=stopped_after_s)
        for pid in children():
            os.kill(pid, signal.SIGSTOP)  # a quick machine would be done with it
        await asyncio.wait({load}, timeout=0.05)
    load.cancel()
    await asyncio.wait({load})
    assert load.cancelled() and not children()
    assert len(open_files(os.getpid())) == before


# --- where it runs -------------------------------------------------------------------------------------------------------


def priorities(pid: int) -> dict[str, tuple[int, int]]:
    """Nice value and I/O class of the threads of a process, by their number."""
    libc = ctypes.CDLL(None)
    found = {}
    for thread in sorted(Path(f"/proc/{pid}/task").iterdir(), key=lambda path: int(path.name)):
        nice = int((thread / "stat").read_text().rpartition(")")[2].split()[16])
        io_class = libc.syscall(IOPRIO_GET[platform.machine()], 1, int(thread.name)) >> 13
        found[thread.name] = nice, io_class
    return found


def loads_behind_and_serves_before(pid: int) -> bool:
    """In the order of their start: the main thread and two workers at our priority, then the loading thread, at the
    lowest of all. A runtime's own thread comes last, and does not serve."""
    own = os.getpriority(os.PRIO_PROCESS, 0)
    found = list(priorities(pid).values())
    serving, loading = found[:3], found[3]
    return all(nice == own and io_class != 3 for nice, io_class in serving) and loading == (19, 3)


async def test_it_loads_behind_everybody_and_serves_at_our_priority(small: str) -> None:
    async with hosted(small, threads=2) as host:
        assert loads_behind_and_serves_before(pid_of(host)), priorities(pid_of(host))


UNPRIVILEGED = """
import asyncio, ctypes, os, sys
from penstock_models.isolation.process_host import ProcessHost
from tests.models.hosted import pid_of
from tests.models.loaded import floats
from tests.models.test_isolation import loads_behind_and_serves_before, priorities

async def main():
    os.setpriority(os.PRIO_PROCESS, 0, 5)
    try:
        os.setpriority(os.PRIO_PROCESS, 0, 4)
    except PermissionError:
        pass
    else:
        sys.exit("this user can raise priorities: the test proves nothing")
    host = await ProcessHost.open(sys.argv[1], threads=2, max_pixels=10**6, load_timeout_s=30)
    assert loads_behind_and_serves_before(pid_of(host)), priorities(pid_of(host))
    await asyncio.gather(*(host.run([floats(1, 2)], 5.0) for _ in range(9)))
    assert loads_behind_and_serves_before(pid_of(host)), priorities(pid_of(host))
    assert host.resident_bytes > 0
    await host.close()
    print("well")

asyncio.run(main())
"""

WITHOUT_CAPABILITIES = """
import ctypes, os, sys
for capability in range(64):
    ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def test_also_for_a_user_who_cannot_raise_a_priority(small: str) -> None:
    """Root gives up every capability for good; whoever has none runs the same."""
    arguments = [sys.executable, "-c", WITHOUT_CAPABILITIES, "-c", UNPRIVILEGED, small]
    done = subprocess.run(
        arguments, capture_output=True, text=True, timeout=40, cwd=Path(__file__).parents[2]
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "well\n", "")


async def test_it_inherits_nothing_that_it_does_not_need(
    small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_MQTT__PASSWORD", "secret")
    with (tmp_path / "open").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        async with hosted(small) as host:
            folder = Path(f"/proc/{pid_of(host)}")
            opens = open_files(pid_of(host))
            assert not any(str(tmp_path) in target for target in opens), opens
            assert b"secret" not in (folder / "environ").read_bytes()
            assert os.getpgid(pid_of(host)) != os.getpgid(0) and os.getsid(pid_of(host)) == os.getsid(0)
            assert int((folder / "oom_score_adj").read_text()) >= 500


async def test_a_path_that_is_no_text(tmp_path: Path) -> None:
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    async with hosted(written(bundle(scaler()), Path(folder))) as host:
        assert fates(await host.run([floats(1, 2)], 5.0)) == ["ok"]
    with pytest.raises(UsageError, match="no bundle at"):
        await opened(f"{folder}/none.bundle")


async def test_signals_for_us_do_not_end_it(small: str) -> None:
    async with hosted(small) as host:
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(pid_of(host), number)
        assert fates(await host.run([floats(1, 2)], 5.0)) == ["ok"] and not host.lost.done()


async def test_the_loop_goes_on_while_a_version_comes_and_goes(small: str) -> None:
    """The best of three, for the machine may have other things to do."""
    worst: list[float] = []
    while len(worst) < 3 and min(worst, default=1.0) >= 0.05:
        gaps: list[float] = []

        async def tick(gaps: list[float] = gaps) -> None:
            while True:
                begun = time.perf_counter()
                await asyncio.sleep(0.001)
                gaps.append(time.perf_counter() - begun)

        ticking = asyncio.create_task(tick())
        async with hosted(small) as host:
            await host.run([floats(1, 2)] * 64, 5.0)
        ticking.cancel()
        worst.append(max(gaps))
    assert min(worst) < 0.05, worst


# --- full ----------------------------------------------------------------------------------------------------------------


async def test_a_full_line_refuses_and_a_cancelled_batch_leaves_it(
    loops: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk, "MAX_WAITING", 2)
    async with hosted(loops) as host:
        first = host.run([integers(SECOND // 3)], 10.0)
        cancelled, second = host.run([integers(FOREVER)], 10.0), host.run([integers(1)], 10.0)
        assert fates(await host.run([integers(1)] * 2, 10.0)) == ["dropped: full"] * 2
        cancelled.cancel()
        third = host.run([integers(2)], 10.0)
        assert fates(await host.run([integers(1)], 10.0)) == ["dropped: full"]
        assert [output(outcomes[0]) for outcomes in await asyncio.gather(first, second, third)] == [
            [SECOND // 3],
            [1],
            [2],
        ]
        unheard = host.run([integers(SECOND // 10)], 10.0)
        await asyncio.sleep(0)
        unheard.cancel()
        assert output((await host.run([integers(4)], 10.0))[0]) == [4]


async def test_more_bytes_than_cross_at_once_are_refused(small: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffers, "LARGEST_BYTES", 10**6)
    async with hosted(small) as host:
        big = [Item(Tensor(bytes(400_000))) for _ in range(3)]
        outcomes = await host.run(big, 5.0)
        assert fates(outcomes) == ["dropped: memory"] * 3 and all(o.suspect for o in outcomes)  # type: ignore[union-attr]
        assert fates(await host.run(big[:2], 5.0)) == ["rejected: shape"] * 2
        assert fates(await host.run([floats(1, 2)], 5.0)) == ["ok"]


# --- closing -------------------------------------------------------------------------------------------------------------


async def test_closing_lets_batches_end_and_takes_no_new_ones(loops: str) -> None:
    before = len(open_files(os.getpid()))
    host = await opened(loops)
    runs = [host.run([integers(SECOND // 10 + i)], 10.0) for i in range(3)]
    closing = asyncio.create_task(host.close())
    await asyncio.sleep(0)
    assert fates(await host.run([integers(1)], 1.0)) == ["failed: not_ready"] and not await host.probe()
    assert [fates(outcomes) for outcomes in await asyncio.gather(*runs)] == [["ok"]] * 3
    await closing
    await host.close()
    assert not children() and not host.lost.done()
    assert fates(await host.run([integers(1)], 1.0)) == ["failed: not_ready"]
    assert len(open_files(os.getpid())) == before


async def test_what_does_not_end_is_ended_with_its_process(
    loops: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_host, "CLOSE_S", 0.1)
    host = await opened(loops)
    run = host.run([integers(FOREVER)], 60.0)
    waiting = host.run([integers(1)], 60.0)
    begun = time.monotonic()
    await host.close()
    assert time.monotonic() - begun < 2 and not children()
    assert fates(await run) == ["failed: model_error"] and fates(await waiting) == ["failed: not_ready"]


async def test_a_cancelled_close_goes_on(small: str) -> None:
    host = await opened(small)
    closing = asyncio.create_task(host.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait({closing})
    assert closing.cancelled()
    await host.close()
    assert not alive(pid_of(host)) and not children()


async def test_a_process_that_does_not_obey_is_killed_and_reaped(
    small: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_host, "END_S", 0.1)
    host = await opened(small)
    os.kill(pid_of(host), signal.SIGSTOP)
    await host.close()
    assert not children()


def test_a_loop_that_ends_early_leaves_no_process(small: str) -> None:
    async def left_open() -> ProcessHost:
        host = await opened(small)
        closing = asyncio.create_task(host.close())
        await asyncio.sleep(0)
        assert not closing.done()
        return host

    asyncio.run(left_open())
    assert not [pid for pid in children() if alive(pid)]
