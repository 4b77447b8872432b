"""The serving core on a real store: versions come, go, fail, die and change places while requests are answered."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from onnx import helper

from penstock_models.bundle import open_bundle, write_bundle
from penstock_models.devices.builds import TIMES, Progress
from penstock_models.devices.supervision import Supervision
from penstock_models.errors import BundleError, UsageError
from penstock_models.isolation.thread_host import ThreadHost
from penstock_models.items import Answer, Outcome, Refusal
from penstock_models.scheduling.request import Flow, Request, Share
from penstock_models.scheduling.runs import VersionRun
from penstock_models.scheduling.scheduler import Fate
from penstock_models.serving.core import ServingCore, Settings
from penstock_models.serving.executor import Load, ServingExecutor, VersionOptions
from penstock_models.store import Reference, parse_reference
from penstock_models.versions import model as model_rules
from penstock_models.versions import residency
from penstock_models.versions.config import ModelConfig
from penstock_models.versions.status import VersionStatus
from tests.fakes import slow_builder
from tests.models.hosted import children
from tests.models.loaded import bundle, floats, output
from tests.models.onnx_files import model, tensor, weight
from tests.models.test_proof import with_golden

OPTIONS = VersionOptions()


def times(factor: float, *, right: bool = True) -> Any:
    """A model of y = factor · x, its golden sample right or wrong."""
    nodes = [helper.make_node("Mul", ["x", "factor"], ["y"])]
    ends = [tensor("x", ["n", 2])], [tensor("y", ["n", 2])]
    made = bundle(bytes(model(nodes, *ends, [weight("factor", factor)]).SerializeToString()))
    return with_golden(made, ([1, 2], [factor, 2 * factor] if right else [9, 9]))


def put(store: Path, version: int, factor: float, name: str = "m", **options: Any) -> Path:
    """Publish a version: written beside, then renamed."""
    made = times(factor, **options)
    manifest = msgspec.structs.replace(made.manifest, name=name, version=version, files=())
    files = {entry.path: made.read(entry.path) for entry in made.manifest.files}
    return Path(write_bundle(manifest, files, store))


class Client:
    """The owner of the requests of a test."""

    def __init__(self) -> None:
        self.share = Share()
        self.flows: dict[str, Flow] = {}
        self.ended: Counter[str] = Counter()
        self.versions: Counter[int] = Counter()
        self._waiting: dict[Request, asyncio.Future[tuple[int, Outcome]]] = {}

    def outcomes(self, run: VersionRun, requests: list[Any], outcomes: Sequence[Outcome]) -> None:
        for request, outcome in zip(requests, outcomes, strict=True):
            ok = isinstance(outcome, Answer)
            self.ended["ok" if ok else f"{outcome.bucket}: {outcome.reason}"] += 1  # type: ignore[union-attr]
            self.versions[run.info.version] += ok
            self._tell(request, (run.info.version, outcome))

    def settled(self, requests: list[Any], fate: Fate) -> None:
        for request in requests:
            self.ended[": ".join(fate)] += 1
            self._tell(request, (0, Refusal(*fate)))

    def _tell(self, request: Request, what: tuple[int, Outcome]) -> None:
        waiting = self._waiting.pop(request)
        if not waiting.done():
            waiting.set_result(what)


class Site:
    """A core that serves a store."""

    def __init__(self, core: ServingCore, client: Client, store: Path) -> None:
        self.core = core
        self.client = client
        self.store = store

    def submit(
        self, reference: str, stream: str = "a", within_s: float = 10.0
    ) -> asyncio.Future[tuple[int, Outcome]]:
        loop = asyncio.get_running_loop()
        flow = self.client.flows.setdefault(f"{reference} {stream}", Flow(stream, self.client.share))
        request = Request(flow, floats(1, 2, stream=stream))
        request.deadline = request.due = loop.time() + within_s
        future: asyncio.Future[tuple[int, Outcome]] = loop.create_future()
        self.client._waiting[request] = future
        self.core.scheduler.submit(self.core.target(parse_reference(reference)), request)
        self.core.scheduler.kick()
        return future

    async def ask(self, reference: str, stream: str = "a") -> tuple[int, float]:
        """The version that answered, and its factor."""
        version, outcome = await self.submit(reference, stream)
        return version, output(outcome)[0]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110  # what is waited for is another process
                await asyncio.sleep(0.01)

    def configure(self, config: ModelConfig, options: VersionOptions) -> None:
        self.core.configure([(config, options)])

    def state(self, version: int, name: str = "m") -> str:
        found = self.status(version, name)
        return found.state if found else "gone"

    def status(self, version: int, name: str = "m") -> VersionStatus | None:
        models = (model for model in self.core.statuses() if model.name == name)
        return next((v for model in models for v in model.versions if v.version == version), None)

    def builds(self, version: int) -> Progress:
        """How far the one engine of a version is."""
        status = self.status(version)
        assert status is not None
        found = self.core.builds(status.digest)
        return found[0] if found else Progress("", "none")

    def phases(self) -> list[str]:
        return [self.builds(version).phase for version in (1, 2)]

    def placements(self) -> list[str]:
        return [run.info.placement for run in sorted(self.core.runs, key=lambda run: run.info.version)]


@asynccontextmanager
async def serving(
    folder: Path, *configs: ModelConfig, options: VersionOptions = OPTIONS, **settings: Any
) -> AsyncIterator[Site]:
    """Serve `folder/store`; on leaving, everything ends and no process is left."""
    before = children()
    core = ServingCore(Settings(folder / "store", folder / "state", 2, 10**6, **settings))
    client = Client()
    core.own(client)
    core.configure((config, options) for config in configs)
    tasks = [asyncio.create_task(core.run()), asyncio.create_task(core.scheduler.run())]
    try:
        await core.started([Reference(config.name) for config in configs])
        yield Site(core, client, folder / "store")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await core.close()
        assert children() == before
    for task in tasks:
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error


@pytest.fixture
def store(tmp_path: Path) -> Path:
    folder = tmp_path / "store"
    folder.mkdir()
    put(folder, 1, 1.0)
    return folder


async def test_a_new_version_takes_over_without_a_failed_request(tmp_path: Path, store: Path) -> None:
    async with serving(tmp_path, ModelConfig("m")) as site:
        assert await site.ask("m") == (1, 1.0)
        put(store, 2, 2.0)
        running = True

        async def traffic(stream: str) -> None:
            while running:
                await site.submit("m", stream)

        clients = [asyncio.create_task(traffic(f"s{n}")) for n in range(4)]
        await site.until(lambda: site.client.versions[2] > 50 and site.state(1) in ("gone", "new"))
        running = False
        await asyncio.gather(*clients)
        assert set(site.client.ended) == {"ok"} and site.client.versions[1] > 0
        assert await site.ask("m") == (2, 2.0)


@pytest.mark.parametrize("transition", ["availability", "resource"])
async def test_a_bad_version_leaves_the_old_one_serving(tmp_path: Path, store: Path, transition: Any) -> None:
    async with serving(tmp_path, ModelConfig("m", transition=transition)) as site:
        put(store, 2, 2.0, right=False)
        await site.until(lambda: site.state(2) == "failed")
        assert await site.ask("m") == (1, 1.0)
        (status,) = site.core.manager.snapshot()
        assert status.versions[0].reason == "golden" and "golden" in (status.versions[0].error or "")


async def test_what_runs_in_a_process_that_dies_is_answered_again_soon(tmp_path: Path, store: Path) -> None:
    before = children()
    async with serving(tmp_path, ModelConfig("m"), options=VersionOptions(isolation="process")) as site:
        assert await site.ask("m") == (1, 1.0)
        (child,) = children() - before
        os.kill(child, signal.SIGSEGV)
        await site.until(lambda: bool(site.core.executor.degraded))
        assert await site.ask("m") == (1, 1.0)  # waited for the rebuild, within its deadline
        assert "SIGSEGV" in site.core.executor.degraded[0] if site.core.executor.degraded else True


async def test_a_version_that_nobody_looks_after_ends_the_core(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug of supervision is not served around: whoever runs the core starts anew."""

    def broken(self: Supervision, *_: object) -> None:
        raise ZeroDivisionError("a bug of ours")

    before = children()
    with pytest.raises(ExceptionGroup) as raised:
        async with serving(tmp_path, ModelConfig("m"), options=VersionOptions(isolation="process")) as site:
            assert await site.ask("m") == (1, 1.0)
            monkeypatch.setattr(Supervision, "due", broken)
            (child,) = children() - before
            os.kill(child, signal.SIGKILL)
            await site.until(site.core.executor.fault.done)
    assert "a bug of ours" in str(raised.value.exceptions)


async def test_labels_split_and_numbers_choose_the_version(tmp_path: Path, store: Path) -> None:
    put(store, 2, 2.0)
    config = ModelConfig(
        "m", labels={"stable": 1, "canary": 2}, split={"stable": 50, "canary": 50}, named=(1, 2)
    )
    async with serving(tmp_path, config) as site:
        await site.until(lambda: site.state(1) == site.state(2) == "available")
        assert await site.ask("m@stable") == (1, 1.0) and await site.ask("m@canary") == (2, 2.0)
        assert await site.ask("m:1") == (1, 1.0)
        answers = [(await site.ask("m", f"s{n}"))[0] for n in range(40)]
        assert 8 < answers.count(1) < 32
        assert [(await site.ask("m", f"s{n}"))[0] for n in range(40)] == answers
        await site.core.set_label("m", "stable", 2)
        assert await site.ask("m@stable") == (2, 2.0)


async def test_a_shadow_is_compared_and_answers_nobody(tmp_path: Path, store: Path) -> None:
    put(store, 2, 1.5)
    config = ModelConfig("m", labels={"stable": 1}, named=(1, 2), shadow="2", split={"stable": 100})
    async with serving(tmp_path, config) as site:
        await site.until(lambda: site.state(1) == site.state(2) == "available")
        for n in range(5):
            assert await site.ask("m", f"s{n}") == (1, 1.0)
        await site.until(lambda: site.core.front.shadows.counts.get(("m", 1, 2), Counter())["differed"] == 5)
        assert site.client.versions == {1: 5}


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes find a TensorRT that builds until it is told to go on."""
    monkeypatch.setenv("PYTHONPATH", slow_builder.python_path())
    monkeypatch.setattr("penstock_models.devices.builds.LOOK_S", 0.02)


@pytest.mark.usefixtures("tensorrt")
async def test_an_engine_is_built_once_while_the_cpu_answers(tmp_path: Path, store: Path) -> None:
    """Two versions of one model file want the same engine: one builds it, and nobody waits for it."""
    engines = tmp_path / "state" / "engines"
    put(store, 2, 1.0)
    options = VersionOptions(devices=("tensorrt", "cpu"))
    async with serving(tmp_path, ModelConfig("m", named=(1, 2)), options=options) as site:
        await site.until(lambda: site.state(1) == site.state(2) == "available")
        await site.until(lambda: sorted(site.phases()) == ["building", "failed"])
        builder = site.phases().index("building") + 1
        await site.until(lambda: site.builds(builder).made_bytes > 2000)
        building, other = site.builds(builder), site.builds(3 - builder)
        assert (building.device, building.expected_s) == ("tensorrt", None) and building.elapsed_s > 0
        assert "made for this model elsewhere" in other.reason and other.retry_s > 0
        assert await site.ask("m:1") == (1, 1.0) and await site.ask("m:2") == (2, 1.0)
        assert site.placements() == ["onnxruntime:cpu"] * 2
        assert any("tensorrt: its engine is being built" in line for line in site.core.executor.degraded)
        (began,) = slow_builder.builds(engines)
        slow_builder.go_on(engines)
        await site.until(lambda: site.builds(builder).phase == "serving")
        assert site.placements()[builder - 1] == "onnxruntime:tensorrt"
        assert await site.ask(f"m:{builder}") == (builder, 1.0)
        assert set(site.client.ended) == {"ok"}
    assert slow_builder.builds(engines) == [began, began.replace("began", "ended")]
    assert b"m on tensorrt" in (engines / TIMES).read_bytes()


@pytest.mark.usefixtures("tensorrt")
async def test_an_engine_that_nothing_stands_in_for_is_seen_while_it_is_built(
    tmp_path: Path, store: Path
) -> None:
    """The version loads for as long as the build takes; withdrawn meanwhile, the build ends with it."""
    engines = tmp_path / "state" / "engines"
    async with serving(tmp_path, ModelConfig("m")) as site:
        put(store, 2, 2.0)
        site.configure(ModelConfig("m"), VersionOptions(devices=("tensorrt",)))
        await site.until(lambda: site.state(2) == "loading" and site.builds(2).made_bytes > 2000)
        assert await site.ask("m") == (1, 1.0)
    assert [line.split()[0] for line in slow_builder.builds(engines)] == ["began"]


async def test_a_second_host_of_a_version_does_not_meet_the_first_on_its_threads(tmp_path: Path) -> None:
    """A preferred device may be well again before anything is served."""
    bundle = put(tmp_path, 1, 1.0)
    wanted = Load("m", bundle, open_bundle(bundle).digest)
    executor = ServingExecutor(1, max_pixels=10**6, model_cache=tmp_path / "engines")
    try:
        info = await executor.load(wanted)
        assert executor._hosts[info.digest]._hosts["serving"].__class__ is ThreadHost
        second = await executor._open(wanted, "cpu")
        assert await second.probe() and await executor.probe(info.digest)
        await second.close()
    finally:
        await executor.close()


async def test_a_failed_load_is_forgotten(tmp_path: Path) -> None:
    bundle = put(tmp_path, 1, 1.0)
    executor = ServingExecutor(1, max_pixels=10**6, model_cache=tmp_path / "engines")
    wanted = Load("m", bundle, "sha256:other", VersionOptions(devices=("tensorrt", "cpu")))
    try:
        for _ in range(2):
            with pytest.raises(BundleError, match="expected sha256:other"):
                await executor.load(wanted)
            assert executor.builds("sha256:other") == [] and executor.degraded == ()
        first = asyncio.create_task(executor.load(wanted))
        await asyncio.sleep(0)
        with pytest.raises(UsageError, match="is loaded already"):
            await executor.load(wanted)
        first.cancel()
        await asyncio.wait([first])
        assert first.cancelled() and executor.builds("sha256:other") == []
    finally:
        await executor.close()


async def test_more_models_than_memory_are_loaded_when_asked_for(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room for one of two: a request for the other waits in the lobby until it is loaded in the first one's place."""
    monkeypatch.setattr(residency, "SETTLED_S", 0.5)
    monkeypatch.setattr(model_rules, "PARKED_PAUSE_S", 0.1)
    put(store, 1, 3.0, name="n")
    sizes = []
    async with serving(tmp_path, ModelConfig("m"), options=VersionOptions(isolation="process")) as site:
        sizes = [v.bytes for m in site.core.manager.snapshot() for v in m.versions]
    budget = int(1.5 * sizes[0])
    options = VersionOptions(isolation="process")
    async with serving(
        tmp_path, ModelConfig("m"), ModelConfig("n"), options=options, budget_bytes=budget
    ) as site:
        assert sorted([site.state(1), site.state(1, "n")]) == ["available", "parked"]
        for name, factor in (("m", 1.0), ("n", 3.0), ("m", 1.0)):
            assert await site.ask(name) == (1, factor)
            assert site.state(1, name) == "available"


async def test_a_start_with_nothing_to_serve_says_why(tmp_path: Path, store: Path) -> None:
    put(store, 3, 1.0, name="bad", right=False)
    for name, kind, text in (("bad", BundleError, "golden"), ("none", UsageError, "m:1")):
        with pytest.raises(kind, match=text):
            async with serving(tmp_path, ModelConfig("m"), ModelConfig(name)):
                pass


async def test_a_start_on_a_label_that_nobody_set_says_so(tmp_path: Path, store: Path) -> None:
    async with serving(tmp_path, ModelConfig("m")) as site:
        async with asyncio.timeout(10):
            with pytest.raises(UsageError, match="bears the label 'stable'"):
                await site.core.started([parse_reference("m@stable")])


async def test_a_restart_serves_what_served_and_keeps_the_labels(tmp_path: Path, store: Path) -> None:
    put(store, 2, 2.0)
    config = ModelConfig("m", named=(1, 2))
    async with serving(tmp_path, config) as site:
        await site.until(lambda: site.state(1) == site.state(2) == "available")
        await site.core.set_label("m", "stable", 1)
    async with serving(tmp_path, config) as site:
        await site.until(lambda: site.state(1) == "available")
        assert await site.ask("m@stable") == (1, 1.0)
