"""OpenVINO as the real second provider: chosen, proven, given up when made to fail, taken back; its engines are kept.

Needs `onnxruntime-openvino`; `make test-extras` makes its environment. It runs on the processor, Intel's or another's.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort  # type: ignore[import-untyped]
import pytest
from onnx import TensorProto, helper

from penstock_models.bundle import open_bundle, write_bundle
from penstock_models.devices.builds import Builds
from penstock_models.devices.cache import CacheKey, ModelCache
from penstock_models.devices.drivers import driver_version, onnxruntime_version
from penstock_models.devices.health import Rules
from penstock_models.devices.supervised import Limits, SupervisedHost
from penstock_models.devices.supervision import Supervision
from penstock_models.errors import PlacementError
from penstock_models.hosts import Host
from penstock_models.images import MAX_PIXELS
from penstock_models.isolation.process_host import ProcessHost
from penstock_models.items import Answer, EncodedImage, Item, Outcome
from penstock_models.pack import pack
from penstock_models.runtimes import open_session
from penstock_models.runtimes.ort import OrtSession, _require_assignment, cache_key
from penstock_models.runtimes.placement import NotProven
from penstock_models.servable import Servable
from penstock_models.serving.executor import VersionOptions
from penstock_models.versions.config import ModelConfig
from tests.conftest import ROOT
from tests.models.hosted import pid_of
from tests.models.loaded import bundle, fates, floats, looper, output, picker, scaler
from tests.models.model_caches import size
from tests.models.onnx_files import autoencoder, classifier, model, tensor
from tests.models.test_serving import put, serving

PREFERRED = ("openvino", "cpu")
PLUGIN = "libopenvino_intel_cpu_plugin.so"
QUICK = Rules(probe_every_s=0.05, rebuild_s=0.1, return_s=0.1, return_max_s=0.5)
LIMITS = Limits(open_s=30.0, build_s=60.0, probe_s=10.0)


def test_environment_is_the_one_that_is_meant() -> None:
    assert "OpenVINOExecutionProvider" in ort.get_available_providers()
    assert onnxruntime_version().startswith("onnxruntime-openvino 1.")
    number = driver_version("openvino").split(",")[0].removeprefix("openvino ")
    assert number.split(".")[0].isdigit(), number


# --- proof ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [scaler(), scaler(1), picker(), autoencoder(), classifier()])
def test_it_is_chosen_and_proven(data: bytes) -> None:
    session = open_session(data, "onnx", devices=PREFERRED)
    plain = open_session(data, "onnx")
    assert (session.placement, plain.placement) == ("onnxruntime:openvino", "onnxruntime:cpu")
    assert (session.inputs, session.max_batch) == (plain.inputs, plain.max_batch)
    rng = np.random.default_rng(0)
    feeds = {
        spec.name: rng.integers(0, 4, [axis or 3 for axis in spec.shape]).astype(spec.dtype)
        for spec in plain.inputs
    }
    found, expected = session.run(feeds), plain.run(feeds)
    assert all(np.allclose(found[name], value, atol=1e-5) for name, value in expected.items())


def bytes_of_pixels() -> bytes:
    """A cast to bytes, which the provider leaves to the processor's own."""
    nodes = [
        helper.make_node("Cast", ["x"], ["bytes"], to=TensorProto.UINT8),
        helper.make_node("Cast", ["bytes"], ["y"], to=TensorProto.FLOAT),
    ]
    made = model(nodes, [tensor("x", ["n", 4])], [tensor("y", ["n", 4])])
    return bytes(made.SerializeToString())


@pytest.mark.parametrize(
    ("data", "words"),
    [(looper(), "OpenVINO does not support"), (bytes_of_pixels(), "leaves nodes of the model to the CPU")],
)
def test_model_that_it_cannot_run_whole_is_not_proven(data: bytes, words: str) -> None:
    with pytest.raises(PlacementError, match=words):
        open_session(data, "onnx", devices=("openvino",))
    assert open_session(data, "onnx", devices=PREFERRED).placement == "onnxruntime:cpu"


def test_assignment_is_read_from_the_session_itself() -> None:
    """The record that the proof reads tells a session of two providers from one of one."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    shared = ort.InferenceSession(bytes_of_pixels(), options, providers=["OpenVINOExecutionProvider"])
    with pytest.raises(NotProven, match="CPUExecutionProvider"):
        _require_assignment(shared, "OpenVINOExecutionProvider")
    with pytest.raises(NotProven, match="cannot say where nodes run"):
        _require_assignment(object(), "OpenVINOExecutionProvider")


def test_one_thread_is_one_thread(realdata: Path) -> None:
    """Without being told it takes every core for one run."""
    data = (realdata / "models" / "light_weight_person_detector_192.onnx").read_bytes()
    session = OrtSession.open(data, ("openvino",), 1)
    feeds = {spec.name: np.zeros([axis or 1 for axis in spec.shape], spec.dtype) for spec in session.inputs}
    session.run(feeds)
    began, used = time.perf_counter(), time.process_time()
    for _ in range(30):
        session.run(feeds)
    assert time.process_time() - used <= 1.3 * (time.perf_counter() - began)


# --- golden samples decide -----------------------------------------------------------------------------------------


def test_real_picture_model_answers_as_on_the_cpu(realdata: Path, tmp_path: Path) -> None:
    pictures = sorted((realdata / "images").glob("*.jpg"))[:3]
    source = realdata / "models" / "derived" / "vww_96_int8.qdq.onnx"
    path = pack(source, tmp_path, preset="classification", name="vww", golden=pictures[:1])
    on = Servable.open_checked(open_bundle(path), PREFERRED)
    off = Servable.open_checked(open_bundle(path))
    assert (on.info.placement, off.info.placement) == ("onnxruntime:openvino", "onnxruntime:cpu")
    items = [Item(EncodedImage(picture.read_bytes())) for picture in pictures]
    for here, there in zip(on.run(items), off.run(items), strict=True):
        assert isinstance(here, Answer) and isinstance(there, Answer) and here.classes and there.classes
        assert here.classes[0].label == there.classes[0].label
        assert here.classes[0].score == pytest.approx(there.classes[0].score, abs=0.02)


def test_device_that_answers_otherwise_is_passed_over(realdata: Path, tmp_path: Path) -> None:
    """Of this model OpenVINO's own rounding changes int8 outputs by some steps; the stored answers bear none."""
    source = realdata / "models" / "derived" / "pretrainedResnet_quant.qdq.onnx"
    rng = np.random.default_rng(0)
    names = []
    for number in range(4):
        names.append(f"{number}.npy")
        np.save(tmp_path / names[-1], rng.integers(-128, 128, (32, 32, 3)).astype("int8"))
    (tmp_path / "model.toml").write_text(
        f'name = "strict"\nfile = "{source}"\n[golden]\ninputs = {names}\ntolerance = 0.001\n'
    )
    made = open_bundle(pack(tmp_path / "model.toml", tmp_path))
    passed = Servable.open_checked(made, PREFERRED)
    assert passed.info.placement == "onnxruntime:cpu"
    assert Servable.open(made, ("openvino",)).golden()


# --- given up and taken back ---------------------------------------------------------------------------------------


def remove_plugin(packages: Path) -> Callable[[], None]:
    """Take OpenVINO's library for this device away; what is returned puts it back."""
    plugin = packages / "onnxruntime" / "capi" / PLUGIN
    plugin.rename(plugin.with_suffix(".away"))

    def restore() -> None:
        plugin.with_suffix(".away").rename(plugin)

    return restore


def written(folder: Path) -> Path:
    made = bundle(scaler())
    files = {entry.path: made.read(entry.path) for entry in made.manifest.files}
    return write_bundle(made.manifest, files, folder)


class Opened:
    """The port that opens processes, and all of them."""

    def __init__(self, path: Path, cache: Path | None = None) -> None:
        self.hosts: list[ProcessHost] = []
        self.failed: list[str] = []
        self._open = partial(
            ProcessHost.open,
            str(path),
            max_pixels=MAX_PIXELS,
            load_timeout_s=60.0,
            model_cache=str(cache or ""),
        )

    async def open(self, device: str) -> Host:
        try:
            self.hosts.append(await self._open((device,)))
        except PlacementError as error:
            self.failed.append(str(error))
            raise
        return self.hosts[-1]


def ended(host: ProcessHost) -> bool:
    return not Path(f"/proc/{pid_of(host)}").exists()


async def until(condition: Callable[[], Any], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # processes have no event to wait for
            await asyncio.sleep(0.01)


async def answered(host: Host) -> list[Outcome]:
    outcomes = await host.run([floats(1, 2), floats(3, 4)], 5.0)
    assert [output(outcome) for outcome in outcomes] == [[2, 4], [6, 8]]
    return outcomes


async def test_it_is_given_up_and_taken_back(tmp_path: Path, packages: Path) -> None:
    opened = Opened(written(tmp_path))
    host = await SupervisedHost.open("scaler", Supervision(PREFERRED, QUICK), opened.open, limits=LIMITS)
    try:
        assert host.info.placement == "onnxruntime:openvino" and host.degraded == ""
        await answered(host)

        restore = remove_plugin(packages)  # the one that runs has it loaded: nothing happens yet
        await answered(host)
        os.kill(pid_of(opened.hosts[0]), signal.SIGSEGV)
        await until(lambda: host.info.placement == "onnxruntime:cpu" and host.available)
        await answered(host)
        assert "scaler: on cpu instead of openvino since" in host.degraded
        assert "ended by SIGSEGV" in host.degraded

        await until(lambda: len(opened.failed) >= 2)  # asked again, and not there
        assert "openvino" in opened.failed[0]
        assert "openvino: openvino:" in host.degraded or "model.onnx: openvino" in host.degraded
        await answered(host)

        restore()
        await until(lambda: host.info.placement == "onnxruntime:openvino")
        await answered(host)
        assert host.degraded == ""
        await until(lambda: [ended(one) for one in opened.hosts].count(False) == 1)
    finally:
        await host.close()
    assert all(map(ended, opened.hosts))


def test_missing_library_is_named_and_nothing_is_printed(packages: Path) -> None:
    remove_plugin(packages)
    code = """
from penstock_models.errors import PlacementError
from penstock_models.runtimes import open_session
from tests.models.loaded import scaler
try:
    open_session(scaler(), "onnx", devices=("openvino",))
except PlacementError as error:
    print(error.passed[0])
print(open_session(scaler(), "onnx", devices=("openvino", "cpu")).placement)
"""
    path = os.pathsep.join([str(packages), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    reason, placement = done.stdout.splitlines()
    assert reason.startswith("openvino: OpenVINOExecutionProvider did not start")
    assert (placement, done.stderr) == ("onnxruntime:cpu", "")


async def test_box_that_starts_without_it_serves_and_takes_it_later(tmp_path: Path, packages: Path) -> None:
    restore = remove_plugin(packages)
    opened = Opened(written(tmp_path))
    host = await SupervisedHost.open("scaler", Supervision(PREFERRED, QUICK), opened.open, limits=LIMITS)
    try:
        assert host.info.placement == "onnxruntime:cpu" and host.degraded
        restore()
        await until(lambda: host.info.placement == "onnxruntime:openvino")
        assert fates(await answered(host)) == ["ok", "ok"]
    finally:
        await host.close()


# --- engines -------------------------------------------------------------------------------------------------------


async def test_engine_is_built_behind_the_cpu(realdata: Path, tmp_path: Path) -> None:
    """Declared as a device that builds for long; a real child compiles, the cpu answers meanwhile."""
    source = realdata / "models" / "light_weight_person_detector_192.onnx"
    path = pack(source, tmp_path, preset="yolox", name="person")
    cache = ModelCache(tmp_path / "cache")
    for start in range(2):
        opened = Opened(path, cache=cache.folder)
        machine = Supervision(PREFERRED, QUICK, slow=["openvino"])
        builds = Builds("person", machine, cache, opened.open)
        host = await SupervisedHost.open("person", machine, builds.open, limits=LIMITS)
        try:
            assert host.info.placement == "onnxruntime:cpu"
            await reached("building", builds)
            if start == 1:
                await knows_how_long_the_last_took(builds)
            told = builds.progress()[0]
            assert told.phase == "building" and (told.expected_s is not None) == (start == 1)
            assert await host.probe() and "openvino: its engine is being built" in host.degraded
            await reached("serving", builds)
            assert host.info.placement == "onnxruntime:openvino" and await host.probe()
        finally:
            await host.close()
        assert [one.info.placement for one in opened.hosts] == ["onnxruntime:cpu", "onnxruntime:openvino"]


async def reached(phase: str, builds: Builds) -> None:
    await until(lambda: builds.progress()[0].phase == phase)


async def knows_how_long_the_last_took(builds: Builds) -> None:
    await until(lambda: builds.progress()[0].expected_s is not None)


async def test_the_serving_core_answers_on_the_cpu_until_it_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock_models.serving.executor.BUILDS", frozenset({"openvino"}))
    store = tmp_path / "store"
    put(store, 1, 2.0)
    async with serving(tmp_path, ModelConfig("m"), options=VersionOptions(devices=PREFERRED)) as site:
        assert (site.builds(1).phase, site.placements()) == ("building", ["onnxruntime:cpu"])
        assert await site.ask("m") == (1, 2.0)
        await site.until(lambda: site.builds(1).phase == "serving")
        assert site.placements() == ["onnxruntime:openvino"]
        assert await site.ask("m") == (1, 2.0)
        assert set(site.client.ended) == {"ok"} and site.core.executor.degraded == ()


@pytest.fixture
def keeping(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat OpenVINO as a provider that keeps engines, as TensorRT's does; it writes them, if for nothing."""

    def options(device: str, threads: int, folder: str) -> dict[str, str]:
        chosen = {"device_type": "CPU", "num_of_threads": str(threads)}
        return {**chosen, "cache_dir": folder} if folder else chosen

    monkeypatch.setattr("penstock_models.runtimes.ort.KEEPS_ENGINES", ("openvino",))
    monkeypatch.setattr("penstock_models.runtimes.ort._provider_options", options)


def blobs(cache: ModelCache, key: CacheKey) -> list[bytes]:
    return [path.read_bytes() for path in (cache.folder / key.name).glob("*.blob")]


@pytest.mark.usefixtures("keeping")
def test_engine_is_made_in_the_cache_and_opened_from_it(tmp_path: Path) -> None:
    cache, data = ModelCache(tmp_path), scaler(1)
    key = cache_key(data, "openvino", 1)
    for _ in range(3):
        session = OrtSession.open(data, ("openvino",), 1, cache)
        assert session.placement == "onnxruntime:openvino"
        assert session.run({"x": np.ones((1, 2), "f4")})["y"].tolist() == [[2, 2]]
        assert blobs(cache, key), "the provider wrote it there"
        assert [path.name for path in tmp_path.iterdir()] == [key.name]


@pytest.mark.usefixtures("keeping")
def test_engine_that_another_builds_is_named_and_not_built_twice(tmp_path: Path) -> None:
    cache, data = ModelCache(tmp_path), scaler(1)
    with cache.making(cache_key(data, "openvino", 1)):
        with pytest.raises(PlacementError, match="openvino: it is being made for this model elsewhere"):
            OrtSession.open(data, ("openvino",), 1, cache)
        assert OrtSession.open(data, PREFERRED, 1, cache).placement == "onnxruntime:cpu"
    assert OrtSession.open(data, PREFERRED, 1, cache).placement == "onnxruntime:openvino"


@pytest.mark.usefixtures("keeping")
def test_without_room_for_the_engine_it_runs_all_the_same(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path, limit_bytes=10)
    assert OrtSession.open(scaler(1), ("openvino",), 1, cache).placement == "onnxruntime:openvino"
    assert size(cache) == 0


@pytest.mark.usefixtures("keeping")
def test_model_that_it_cannot_run_leaves_no_engine(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path)
    with pytest.raises(PlacementError):
        OrtSession.open(looper(), ("openvino",), 1, cache)
    assert size(cache) == 0
