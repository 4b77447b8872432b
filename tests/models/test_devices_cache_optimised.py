"""The CPU's optimised graph: the same answers at every load, kept where it pays, no harm where it cannot be."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort  # type: ignore[import-untyped]
import pytest
from onnx import TensorProto, helper

from penstock_models.devices.cache import CacheKey, ModelCache
from penstock_models.errors import ModelRefused
from penstock_models.executor import ThreadExecutor
from penstock_models.runtimes import optimised
from penstock_models.runtimes.ort import OrtSession, cache_key
from tests.models.alone import alone
from tests.models.loaded import bundle, floats, looper, output, picker, scaler
from tests.models.model_caches import KEY, size
from tests.models.onnx_files import autoencoder, classifier, model, tensor, weight


def run(session: OrtSession, seed: int = 7) -> dict[str, bytes]:
    rng = np.random.default_rng(seed)
    shapes = {spec.name: [axis or 3 for axis in spec.shape] for spec in session.inputs}
    feeds: dict[str, Any] = {
        spec.name: rng.random(shapes[spec.name]).astype(spec.dtype)
        if spec.dtype.startswith("float")
        else rng.integers(0, 3, shapes[spec.name]).astype(spec.dtype)
        for spec in session.inputs
    }
    return {name: value.tobytes() for name, value in session.run(feeds).items()}


@pytest.mark.parametrize("data", [scaler(), picker(), looper(), autoencoder(), classifier()])
def test_answers_are_the_same_bits_at_every_load(tmp_path: Path, data: bytes) -> None:
    cache = ModelCache(tmp_path)
    expected = run(OrtSession.open(data, ("cpu",), 1))
    for _ in range(3):  # made, used, used
        assert run(OrtSession.open(data, ("cpu",), 1, cache)) == expected
    assert cache.find(cache_key(data, "cpu", 1)) is not None


def keep(cache: ModelCache, key: CacheKey, data: bytes, pays: float) -> None:
    with cache.making(key) as folder:
        options = ort.SessionOptions()
        options.optimized_model_filepath = str(folder / optimised.FILE)
        options.log_severity_level = 4
        ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        cache.publish(key, {"pays": pays})


def counting(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ways in which models are loaded from now on."""
    ways: list[str] = []

    def said(way: str, wish: optimised.Wish) -> optimised.Wish:
        def noted(options: object) -> None:
            ways.append(way)
            wish(options)

        return noted

    monkeypatch.setattr(optimised, "as_ever", said("plain", optimised.as_ever))
    monkeypatch.setattr(optimised, "prepared", said("kept", optimised.prepared))
    return ways


def test_kept_file_is_used_where_it_pays_and_only_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = ModelCache(tmp_path)
    data, key = classifier(), cache_key(classifier(), "cpu", 1)
    OrtSession.open(data, ("cpu",), 1, cache)
    found = cache.find(key)
    assert found is not None and found.facts["prepared_s"] > 0
    ways = counting(monkeypatch)
    for pays, way in ((1.0, "kept"), (0.0, "plain")):
        keep(cache, key, data, pays)
        ways.clear()
        OrtSession.open(data, ("cpu",), 1, cache)
        assert ways == [way]


def test_kept_file_that_its_runtime_refuses_is_dropped(tmp_path: Path) -> None:
    cache, key = ModelCache(tmp_path), cache_key(scaler(), "cpu", 1)
    with cache.making(key) as folder:
        (folder / optimised.FILE).write_bytes(b"no model")
        cache.publish(key, {"pays": 1.0})
    assert run(OrtSession.open(scaler(), ("cpu",), 1, cache)) == run(OrtSession.open(scaler(), ("cpu",), 1))
    assert cache.find(key) is None


def unfolding() -> bytes:
    """A few bytes that become 60 MB of constants, as the light models of the kit do."""
    shape = weight("shape", [15_000_000], "int64")
    value = helper.make_tensor("value", TensorProto.FLOAT, [1], [0.5])
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["big"], value=value),
        helper.make_node("Mul", ["big", "x"], ["scaled"]),
        helper.make_node("ReduceSum", ["scaled"], ["y"], keepdims=0),
    ]
    made = model(nodes, [tensor("x", [1])], [tensor("y", [])], [shape])
    return bytes(made.SerializeToString())


@pytest.mark.parametrize(
    ("other", "prepared_s", "pays"),
    [
        (scaler(), 0.1, 1.0),
        (scaler(), 0.9, 0.0),
        (autoencoder(2), 0.1, 0.0),
        (scaler(width=3), 0.1, 0.0),
        (picker(), 0.1, 0.0),
    ],
)
def test_file_pays_that_is_quicker_and_the_very_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: bytes, prepared_s: float, pays: float
) -> None:
    def build(data: bytes, wish: optimised.Wish) -> object:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        wish(options)
        return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def timed(build: object, data: bytes, wish: optimised.Wish) -> tuple[object, float]:
        if wish is optimised.prepared:
            return ort.InferenceSession(other, providers=["CPUExecutionProvider"]), prepared_s
        return real(build, data, wish)[0], 1.0  # type: ignore[arg-type]

    real = optimised._timed
    monkeypatch.setattr(optimised, "_timed", timed)
    cache = ModelCache(tmp_path)
    optimised.opened(scaler(), build, cache, KEY)
    found = cache.find(KEY)
    assert found is not None and found.facts["pays"] == pays
    assert (found.folder / optimised.FILE).exists() == bool(pays)


def test_model_that_unfolds_is_not_written_out(tmp_path: Path) -> None:
    alone(
        f"""
from pathlib import Path
from penstock_models.devices.cache import ModelCache
from penstock_models.runtimes import optimised
from penstock_models.runtimes.ort import OrtSession, cache_key
from tests.models.model_caches import size
from tests.models.test_devices_cache_optimised import run, unfolding

def written(*_):
    raise AssertionError("100 MB of constants must not reach the disk")

optimised._measured = written
cache = ModelCache(Path({str(tmp_path)!r}))
expected = run(OrtSession.open(unfolding(), ("cpu",), 1))
assert run(OrtSession.open(unfolding(), ("cpu",), 1, cache)) == expected
found = cache.find(cache_key(unfolding(), "cpu", 1))
assert found is not None and found.facts["pays"] == 0.0 and size(cache) < 10_000
"""
    )


def test_broken_model_is_refused_as_without_a_cache(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path)
    with pytest.raises(ModelRefused) as refused:
        OrtSession.open(b"no model", ("cpu",), 1, cache)
    assert refused.value.reason == "runtime" and size(cache) == 0


def test_folder_that_cannot_be_made_costs_only_the_entry(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = ModelCache(tmp_path / "file" / "cache")
    assert run(OrtSession.open(scaler(), ("cpu",), 1, cache)) == run(OrtSession.open(scaler(), ("cpu",), 1))


async def test_executor_loads_through_the_cache(tmp_path: Path) -> None:
    from tests.models.test_executor import written

    cache = ModelCache(tmp_path / "cache")
    executor = ThreadExecutor(1, model_cache=cache)
    try:
        info = await executor.load(written(bundle(scaler()), tmp_path))
        assert output((await executor.run(info.digest, [floats(1, 2)], 5.0))[0]) == [2, 4]
    finally:
        await executor.close()
    assert cache.find(cache_key(scaler(), "cpu", 1)) is not None


KIT = [
    "light_weight_person_detector_192.onnx",
    "yolox_nano.onnx",
    "version-RFB-320.onnx",
    "derived/vww_96_int8.qdq.onnx",
]


@pytest.mark.parametrize("name", KIT)
def test_real_models_answer_the_same_bits(tmp_path: Path, realdata: Path, name: str) -> None:
    data = (realdata / "models" / name).read_bytes()
    cache = ModelCache(tmp_path)
    plain = OrtSession.open(data, ("cpu",), 1)
    OrtSession.open(data, ("cpu",), 1, cache)
    key = cache_key(data, "cpu", 1)
    keep(cache, key, data, pays=1.0)  # whether it pays is this hour's luck
    assert run(OrtSession.open(data, ("cpu",), 1, cache)) == run(plain)
    assert cache.find(key) is not None
