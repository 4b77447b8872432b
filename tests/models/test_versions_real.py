"""The version manager with nothing made up: a store, staging and a record on disk, ONNX models, worker threads, kills."""

import asyncio
import contextlib
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from penstock_models.bundle import write_bundle
from penstock_models.executor import ThreadExecutor
from penstock_models.items import Answer, ServableInfo
from penstock_models.manifest import TensorSpec
from penstock_models.store import parse_reference
from penstock_models.versions import manager, source, staging
from penstock_models.versions.box import SystemBox
from penstock_models.versions.config import ModelConfig
from penstock_models.versions.manager import VersionManager
from penstock_models.versions.memory import Need
from penstock_models.versions.ports import Usage
from penstock_models.versions.record import RecordFile
from penstock_models.versions.source import StoreSource
from penstock_models.versions.split import choose
from penstock_models.versions.staging import Staged, Staging
from penstock_models.versions.steps import Steps

from .loaded import floats, output
from .test_serving import put, times


def put_renamed(store: Path, version: int) -> None:
    """Publish a version whose manifest calls the output otherwise."""
    made = times(30.0)
    variant = replace(made.manifest.variants[0], outputs=(TensorSpec("z", "float32", (None, 2)),))
    manifest = replace(made.manifest, name="m", version=version, variants=(variant,), files=(), golden=())
    write_bundle(manifest, {"model.onnx": made.read("model.onnx")}, store)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the store more often than a gateway does."""
    monkeypatch.setattr(manager, "SCAN_S", 0.05)


class Threads:
    """Loader and traffic over a `ThreadExecutor`: what a gateway would do, without its queues."""

    def __init__(self) -> None:
        self.executor = ThreadExecutor(2)
        self.running: dict[str, set[asyncio.Future[Any]]] = {}
        self.failures: list[str] = []

    async def measure(self, staged: Staged) -> Need:
        return Need(2**20, 2**20)

    async def load(self, staged: Staged) -> ServableInfo:
        return await self.executor.load(str(staged.path))

    async def unload(self, info: ServableInfo) -> None:
        await self.executor.unload(info.digest)

    def resident_bytes(self, info: ServableInfo) -> int:
        return 2**20

    def available(self, info: ServableInfo) -> None:
        self.running.setdefault(info.digest, set())

    async def retire(self, info: ServableInfo) -> None:
        if running := self.running.pop(info.digest, set()):
            await asyncio.wait(running)

    def failed(self, name: str, version: int, reason: str, text: str, attempts: int) -> None:
        self.failures.append(f"{name}:{version} {reason}: {text}")

    def usage(self, info: ServableInfo) -> Usage:
        return Usage(-math.inf, bool(self.running.get(info.digest)))


class Site:
    def __init__(self, folder: Path, *configs: ModelConfig) -> None:
        self.store = folder / "store"
        self.store.mkdir(exist_ok=True)
        self.threads = Threads()
        steps = Steps(Staging(folder / "staging"), self.threads, self.threads, SystemBox())
        self.manager = VersionManager(StoreSource(self.store), RecordFile(folder / "versions.json"), steps)
        self.manager.set_config(configs)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():  # noqa: ASYNC110 - a manager tells its status, not each change of it
                await asyncio.sleep(0.005)

    def available(self) -> set[int]:
        return set(self.manager.routing("m").available)

    def states(self) -> set[str]:
        return {version.state for version in self.manager.snapshot()[0].versions}

    async def answer(self, reference: str) -> list[float]:
        """Run one item on whatever version answers now."""
        chosen = choose(self.manager.routing("m"), parse_reference(reference), "cam/front")
        assert chosen is not None
        status = next(v for v in self.manager.snapshot()[0].versions if v.version == chosen.version)
        run = self.threads.executor.run(status.digest, [floats(1, 2, shape=(1, 2))], 5.0)
        running = self.threads.running[status.digest]
        running.add(run)
        run.add_done_callback(running.discard)
        outcome = (await run)[0]
        assert isinstance(outcome, Answer), outcome
        return output(outcome)  # type: ignore[no-any-return]


@contextlib.asynccontextmanager
async def site(folder: Path, *configs: ModelConfig) -> AsyncIterator[Site]:
    made = Site(folder, *configs)
    task = asyncio.create_task(made.manager.run())
    try:
        yield made
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await made.threads.executor.close()


async def test_versions_come_and_go_and_no_call_fails(tmp_path: Path) -> None:
    async with site(tmp_path, ModelConfig("m")) as here:
        put(here.store, 1, 10.0)
        await here.until(lambda: here.available() == {1})
        over = asyncio.Event()
        seen: set[float] = set()

        async def callers() -> None:
            while not over.is_set():
                seen.add((await here.answer("m"))[0])

        calling = [asyncio.create_task(callers()) for _ in range(4)]
        for version in (2, 3, 4):
            put(here.store, version, 10.0 * version)
            await here.until(lambda version=version: here.available() == {version})  # type: ignore[misc]
            await here.until(lambda: "unloading" not in here.states())
        await here.until(lambda: 40.0 in seen)
        over.set()
        await asyncio.gather(*calling)
        assert seen >= {10.0, 40.0}
        assert len(list((tmp_path / "staging").iterdir())) <= 2
        assert here.threads.failures == [] and here.manager.problems() == []


async def test_each_bad_version_is_named_and_the_old_one_answers(tmp_path: Path) -> None:
    async with site(tmp_path, ModelConfig("m")) as here:
        put(here.store, 1, 10.0)
        await here.until(lambda: here.available() == {1})
        put(here.store, 2, 20.0, right=False)
        await here.until(lambda: any("m:2 golden" in line for line in here.threads.failures))
        put_renamed(here.store, 3)
        await here.until(
            lambda: any(
                "m:3 drift" in line and "output y: is gone, has z" in line for line in here.threads.failures
            )
        )
        whole = put(tmp_path / "elsewhere", 4, 40.0).read_bytes()
        (here.store / "m-4.bundle").write_bytes(whole[:-2000])
        await here.until(lambda: any("m-4.bundle" in line for line in here.manager.problems()))
        (here.store / "m-1.bundle").write_bytes(b"overwritten while it serves")
        await here.until(lambda: any("m-1.bundle" in line for line in here.manager.problems()))
        assert here.available() == {1} and await here.answer("m") == [10.0, 20.0]
        shutil.rmtree(here.store)
        await here.until(lambda: any("no model store" in line for line in here.manager.problems()))
        assert await here.answer("m") == [10.0, 20.0]


async def test_a_bare_model_is_packed_apart_and_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "SETTLE_S", 0.2)
    folder = tmp_path / "store" / "m" / "7"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(times(7.0).read("model.onnx"))
    async with site(tmp_path, ModelConfig("m")) as here:
        await here.until(lambda: here.available() == {7})
        assert await here.answer("m:7") == [7.0, 14.0]

    async def never(*_: object) -> None:
        raise AssertionError("packed again")

    # The same files as before: a restart takes the copy.
    monkeypatch.setattr(staging, "pack_apart", never)
    async with site(tmp_path, ModelConfig("m")) as here:
        await here.until(lambda: here.available() == {7})
        assert await here.answer("m") == [7.0, 14.0] and here.threads.failures == []


SERVING = """
import asyncio, sys
from pathlib import Path
from penstock_models.versions.config import ModelConfig
from tests.models.test_versions_real import Site

async def main() -> None:
    here = Site(Path(sys.argv[1]), ModelConfig("m", named=(1,)))
    task = asyncio.create_task(here.manager.run())
    await here.until(lambda: here.available() == {1, 3})
    await here.manager.set_label("m", "stable", 1)
    print("ready", flush=True)
    await task

asyncio.run(main())
"""


async def test_a_kill_loses_no_label_and_no_version(tmp_path: Path) -> None:
    for version in (1, 2, 3):
        put(tmp_path / "store", version, 10.0 * version)
    served = subprocess.Popen(  # noqa: ASYNC220 - it takes a millisecond, and is killed as a whole
        [sys.executable, "-c", SERVING, str(tmp_path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert served.stdout is not None
    assert await asyncio.to_thread(served.stdout.readline) == b"ready\n"
    os.kill(served.pid, signal.SIGKILL)
    served.wait()
    served.stdout.close()
    # A newer version that cannot be loaded came meanwhile: it stands before nothing.
    put(tmp_path / "store", 4, 40.0, right=False)
    async with site(tmp_path, ModelConfig("m")) as here:
        await here.until(lambda: here.available() == {1, 3})
        assert here.manager.routing("m").labels == {"stable": 1}
        assert await here.answer("m@stable") == [10.0, 20.0]
        await here.until(lambda: bool(here.threads.failures))
        assert here.available() == {1, 3} and await here.answer("m") == [30.0, 60.0]
