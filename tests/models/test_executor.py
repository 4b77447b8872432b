"""The thread executor: time limits, the innocent of a hanging batch, cancelled callers, stuck threads, closing."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from penstock_models.bundle import Bundle, memory_bundle, write_bundle
from penstock_models.devices.cache import ModelCache
from penstock_models.errors import BundleError, PlacementError, UsageError
from penstock_models.executor import MAX_STUCK, ThreadExecutor
from penstock_models.items import Executor, Item, Outcome, ServableInfo
from penstock_models.manifest import Golden
from penstock_models.runtimes import Session, open_session
from penstock_models.store import resolve
from tests.models.loaded import bundle, fates, floats, integers, looper, output, picker, scaler, summer
from tests.models.onnx_files import autoencoder

FOREVER = 2**62  # turns of a loop
LIMIT_S = 0.2


@pytest.fixture
async def executor() -> AsyncIterator[ThreadExecutor]:
    made = ThreadExecutor(2)
    yield made
    await made.close()


def written(made: Bundle, folder: Path) -> str:
    files = {entry.path: made.read(entry.path) for entry in made.manifest.files}
    return str(write_bundle(made.manifest, files, folder))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # threads have no event to wait for
            await asyncio.sleep(0.005)


async def test_it_is_an_executor(executor: ThreadExecutor, tmp_path: Path) -> None:
    seam: Executor = executor
    info = await executor.load(written(bundle(scaler()), tmp_path))
    assert (info.name, info.placement) == ("made", "onnxruntime:cpu")
    outcomes = await seam.run(info.digest, [floats(1, 2), floats(3)], 1.0)
    assert fates(outcomes) == ["ok", "rejected: shape"] and await seam.probe(info.digest)
    assert not await seam.probe("sha256:unknown")


async def test_runs_go_on_together(executor: ThreadExecutor, tmp_path: Path) -> None:
    info = await executor.load(written(bundle(scaler()), tmp_path))
    runs = [executor.run(info.digest, [floats(i, i)], 5.0) for i in range(50)]
    assert [output(batch[0])[0] for batch in await asyncio.gather(*runs)] == [2 * i for i in range(50)]


async def test_bundle_that_cannot_be_loaded_leaves_the_executor_usable(
    executor: ThreadExecutor, tmp_path: Path
) -> None:
    (tmp_path / "bad.bundle").write_bytes(b"no tar")
    with pytest.raises(BundleError):
        await executor.load(str(tmp_path / "bad.bundle"))
    with pytest.raises(UsageError, match="sha256:none"):
        await executor.run("sha256:none", [], 1.0)
    assert await executor.load(written(bundle(scaler()), tmp_path))


def with_golden(files: dict[str, bytes], targets: dict[str, str]) -> Bundle:
    """A bundle of several variants (file → target), one golden sample: twice what comes in."""
    plain = bundle(scaler())
    (variant,) = plain.manifest.variants
    expected = {"outputs": {"y": {"dtype": "float32", "shape": [2], "values": {"0": 2.0, "1": 4.0}}}}
    golden = Golden("golden/0.bin", "application/x-tensor; dtype=float32; shape=2", expected, 0.01)
    variants = tuple(
        msgspec.structs.replace(variant, file=file, target=target) for file, target in targets.items()
    )
    manifest = msgspec.structs.replace(plain.manifest, variants=variants, golden=(golden,))
    sample = np.array([1, 2], "<f4").tobytes()
    return memory_bundle(manifest, {**files, golden.file: sample}, plain.path)


async def test_variant_that_errs_is_passed_over_for_the_next(
    executor: ThreadExecutor, tmp_path: Path
) -> None:
    files = {"cpu.onnx": autoencoder(2), "any.onnx": scaler()}
    made = with_golden(files, {"cpu.onnx": "cpu", "any.onnx": "any"})
    info = await executor.load(written(made, tmp_path))
    assert output((await executor.run(info.digest, [floats(1, 2)], 5.0))[0]) == [2, 4]


async def test_device_that_errs_is_passed_over_for_the_next(
    executor: ThreadExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(
        data: bytes, runtime: str, *, devices: Sequence[str], threads: int, cache: ModelCache | None
    ) -> Session:
        if devices == ("cuda",):
            raise PlacementError("none", ["cuda: not here"])
        return open_session(autoencoder(2) if devices == ("npu",) else data, runtime, threads=threads)

    monkeypatch.setattr("penstock_models.variants.open_session", opened)
    path = written(with_golden({"m.onnx": scaler()}, {"m.onnx": "any"}), tmp_path)
    info = await executor.load(path, ("npu", "cpu"))
    assert output((await executor.run(info.digest, [floats(1, 2)], 5.0))[0]) == [2, 4]
    with pytest.raises(BundleError) as refused:
        await executor.load(path, ("npu", "cuda"))
    assert "onnxruntime:cpu: a golden answer is wrong here" in str(refused.value)
    assert "m.onnx: cuda: not here" in str(refused.value)


async def test_whatever_a_bundle_raises_names_its_path(
    executor: ThreadExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(bundle(scaler()), tmp_path)
    monkeypatch.setattr("penstock_models.loading.open_version", lambda path: {}[path])
    with pytest.raises(BundleError, match=rf"{path}: cannot be loaded: KeyError"):
        await executor.load(path)


async def test_bare_model_folder_is_loaded_as_the_store_resolves_it(
    executor: ThreadExecutor, tmp_path: Path
) -> None:
    folder = tmp_path / "halves" / "3"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(autoencoder())
    info = await executor.load(str(resolve(tmp_path, "halves")))
    assert (info.name, info.version) == ("halves", 3)
    assert await executor.probe(info.digest)


async def test_model_that_raises(executor: ThreadExecutor, tmp_path: Path) -> None:
    info = await executor.load(written(bundle(picker()), tmp_path))
    outcomes = await executor.run(info.digest, [integers(1), integers(99), integers(2)], 5.0)
    assert fates(outcomes) == ["ok", "failed: model_error", "ok"]


async def test_hanging_item_ends_its_batch_in_time(executor: ThreadExecutor, tmp_path: Path) -> None:
    info = await executor.load(written(bundle(looper()), tmp_path))
    workers = list(executor._workers)
    items = [integers(1), integers(2), integers(FOREVER), integers(3)]
    began = time.monotonic()
    outcomes = await executor.run(info.digest, items, LIMIT_S)
    assert set(fates(outcomes)) == {"failed: model_timeout"}
    alone = [await executor.run(info.digest, [item], LIMIT_S) for item in items]
    assert [fates(one)[0] for one in alone] == ["ok", "ok", "failed: model_timeout", "ok"]
    assert time.monotonic() - began < 5
    assert executor._workers == workers and executor.degraded == ()


async def test_all_hanging_batch_ends_in_bounded_time(executor: ThreadExecutor, tmp_path: Path) -> None:
    info = await executor.load(written(bundle(looper()), tmp_path))
    began = time.monotonic()
    outcomes = await executor.run(info.digest, [integers(FOREVER)] * 64, 0.05)
    assert set(fates(outcomes)) == {"failed: model_timeout"}
    assert time.monotonic() - began < 5


async def test_ended_run_leaves_the_other_thread_alone(executor: ThreadExecutor, tmp_path: Path) -> None:
    info = await executor.load(written(bundle(looper()), tmp_path))
    patient = asyncio.ensure_future(executor.run(info.digest, [integers(3_000_000)], 60.0))
    hanging = await executor.run(info.digest, [integers(FOREVER)], LIMIT_S)
    assert fates(hanging) == ["failed: model_timeout"]
    assert fates(await patient) == ["ok"]


async def test_state_does_not_count_twice_when_a_batch_is_run_again(
    executor: ThreadExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first run of the batch is ended after it computed; only what was answered may be remembered."""
    info = await executor.load(written(summer(), tmp_path))
    servable = executor._servables[info.digest]
    whole = servable._run_stateful
    held = threading.Event()

    def slow(items: list[Item]) -> list[Outcome]:
        if len(items) > 1:
            held.wait(LIMIT_S * 2)
        return whole(items)

    monkeypatch.setattr(servable, "_run_stateful", slow)
    items = [floats(1, stream="a"), floats(2, stream="a")]
    assert set(fates(await executor.run(info.digest, items, LIMIT_S))) == {"failed: model_timeout"}
    alone = [await executor.run(info.digest, [item], LIMIT_S) for item in items]
    assert [output(outcomes[0]) for outcomes in alone] == [[1], [3]]


async def test_cancelled_caller_strands_nobody(executor: ThreadExecutor, tmp_path: Path) -> None:
    info = await executor.load(written(bundle(looper()), tmp_path))
    callers = [
        asyncio.ensure_future(executor.run(info.digest, [integers(FOREVER)], LIMIT_S)) for _ in range(2)
    ]
    await asyncio.sleep(0)
    behind = asyncio.ensure_future(executor.run(info.digest, [integers(1)], 5.0))
    await asyncio.sleep(0)
    for caller in callers:
        caller.cancel()
    assert fates(await behind) == ["ok"]
    assert [caller.cancelled() for caller in callers] == [True, True]


async def test_cancelled_load_frees_what_it_opened(executor: ThreadExecutor, tmp_path: Path) -> None:
    path = written(bundle(scaler()), tmp_path)
    load = asyncio.create_task(executor.load(path))
    await asyncio.sleep(0)
    load.cancel()
    await asyncio.wait({load})
    info = await executor.load(path)  # behind the cancelled one on the same thread
    assert load.cancelled() and list(executor._servables) == [info.digest]


class Stuck:
    """A servable whose runs cannot be ended, as LiteRT's, until they are let go."""

    def __init__(self, info: ServableInfo) -> None:
        self.info = info
        self.free = threading.Event()

    def run(self, items: list[Item]) -> list[Outcome]:
        self.free.wait(20)
        return []

    def terminate(self, thread: int | None = None) -> None:
        pass

    def close(self) -> None:
        pass


async def test_thread_that_never_comes_back_is_replaced_a_bounded_number_of_times(
    executor: ThreadExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock_models.executor.GRACE_S", 0.02)
    good = await executor.load(written(bundle(scaler()), tmp_path))
    stuck = Stuck(ServableInfo("hangs", 1, "sha256:stuck", "", "raw", 1, False, 0.0, 0))
    servables: dict[str, Any] = executor._servables
    servables["sha256:stuck"] = stuck
    seen = set(executor._workers)
    for _ in range(MAX_STUCK):
        assert fates(await executor.run("sha256:stuck", [floats(1)], 0.02)) == ["failed: model_timeout"]
        assert fates(await executor.run(good.digest, [floats(1, 2)], 5.0)) == ["ok"]
        seen.update(executor._workers)
    assert len(executor._workers) == 2 and len(seen) == 2 + MAX_STUCK and "hangs" in executor.degraded[0]
    began = time.monotonic()
    assert fates(await executor.run("sha256:stuck", [floats(1)] * 8, 5.0)) == ["failed: model_timeout"] * 8
    assert time.monotonic() - began < 1 and seen.issuperset(executor._workers)
    stuck.free.set()
    await until(lambda: sum(worker._thread.is_alive() for worker in seen) == 2)
    assert executor.degraded == ()


async def test_fault_of_ours_is_internal(
    executor: ThreadExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = await executor.load(written(bundle(scaler()), tmp_path))
    monkeypatch.setattr(executor._servables[info.digest], "_run_batch", lambda *_: 1 / 0)
    outcomes = await executor.run(info.digest, [floats(1, 2)] * 2, 1.0)
    assert fates(outcomes) == ["failed: internal"] * 2 and "ZeroDivisionError" in str(outcomes[0])


async def test_close_ends_what_runs_and_stops_the_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock_models.executor.CLOSE_S", 0.1)
    executor = ThreadExecutor(2)
    threads = [worker._thread for worker in (*executor._workers, executor._loader)]
    info = await executor.load(written(bundle(looper()), tmp_path))
    hanging = asyncio.ensure_future(executor.run(info.digest, [integers(FOREVER)], 60.0))
    await asyncio.sleep(0)
    began = time.monotonic()
    await executor.close()
    assert time.monotonic() - began < 3
    assert fates(await hanging) == ["failed: model_timeout"]
    await executor.close()
    with pytest.raises(UsageError, match="closed"):
        await executor.run(info.digest, [], 1.0)
    await until(lambda: not any(thread.is_alive() for thread in threads))


async def test_close_waits_for_no_unload_that_stands_behind_hanging_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock_models.executor.CLOSE_S", 0.05)
    monkeypatch.setattr("penstock_models.executor.GRACE_S", 0.02)
    executor = ThreadExecutor(1)
    info = await executor.load(written(bundle(scaler()), tmp_path))
    stuck = Stuck(ServableInfo("hangs", 1, "sha256:stuck", "", "raw", 1, False, 0.0, 0))
    servables: dict[str, Any] = executor._servables
    servables["sha256:stuck"] = stuck
    run = executor.run("sha256:stuck", [floats(1)], 60.0)
    unload = asyncio.create_task(executor.unload(info.digest))
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await executor.close()
        assert not unload.done()
        stuck.free.set()
        await asyncio.gather(run, unload)


async def test_close_while_a_version_loads_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor, go_on, closed = ThreadExecutor(1), threading.Event(), threading.Event()
    stuck = Stuck(ServableInfo("late", 1, "sha256:late", "", "raw", 1, False, 0.0, 0))
    monkeypatch.setattr(stuck, "close", closed.set)

    def loaded(*_: object, **__: object) -> tuple[Stuck, int]:
        go_on.wait(20)
        return stuck, 0

    monkeypatch.setattr("penstock_models.executor.load_version", loaded)
    load = asyncio.create_task(executor.load(str(tmp_path)))
    await asyncio.sleep(0)
    await executor.close()
    go_on.set()
    with pytest.raises(UsageError, match="closed"):
        await load
    assert closed.is_set() and not executor._servables


async def test_unloaded_version_runs_no_more_and_may_be_loaded_again(
    executor: ThreadExecutor, tmp_path: Path
) -> None:
    path = written(bundle(scaler()), tmp_path)
    info = await executor.load(path)
    running = executor.run(info.digest, [floats(1, 2)], 5.0)
    await executor.unload(info.digest)
    assert fates(await running) == ["ok"] and not await executor.probe(info.digest)
    with pytest.raises(UsageError, match="load its bundle first"):
        executor.run(info.digest, [floats(1, 2)], 5.0)
    await executor.unload(info.digest)
    assert (await executor.load(path)).digest == info.digest and await executor.probe(info.digest)
