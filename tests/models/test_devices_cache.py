"""The folder of optimised models: keys, trust, whole entries or none, one maker at a time, a bounded disk, equal answers."""

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime as ort  # type: ignore[import-untyped]
import pytest
from onnx import TensorProto, helper

from penstock_models.devices import drivers
from penstock_models.devices.cache import HEADER, CacheKey, MadeElsewhere, ModelCache
from penstock_models.errors import ModelRefused
from penstock_models.executor import ThreadExecutor
from penstock_models.runtimes import optimised
from penstock_models.runtimes.ort import OrtSession, _provider_options, cache_key
from tests.models.loaded import bundle, floats, looper, output, picker, scaler
from tests.models.onnx_files import autoencoder, classifier, model, tensor, weight

KEY = CacheKey("ab" * 32, "onnxruntime 1.32.0", "x86_64 AMD EPYC 0123", "cpu", {"threads": "1"})

CHANGED = {
    "model": "cd" * 32,
    "runtime": "onnxruntime 1.32.1",
    "driver": "x86_64 AMD EPYC 4567",
    "device": "openvino",
    "options": {"threads": "2"},
}


def put(cache: ModelCache, key: CacheKey, data: bytes = b"engine", name: str = "engine.bin") -> Path:
    with cache.making(key) as folder:
        (folder / name).write_bytes(data)
        return cache.publish(key, {"took": 1.5}).folder


def size(cache: ModelCache) -> int:
    """Of all that lies in it, whole or in the making."""
    return sum(path.lstat().st_size for path in cache.folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("part", CHANGED)
def test_every_part_of_the_key_is_another_entry(tmp_path: Path, part: str) -> None:
    cache = ModelCache(tmp_path)
    put(cache, KEY)
    other = msgspec.structs.replace(KEY, **{part: CHANGED[part]})
    assert other.name != KEY.name
    assert cache.find(other) is None
    found = cache.find(KEY)
    assert found is not None and found.facts == {"took": 1.5}
    assert (found.folder / "engine.bin").read_bytes() == b"engine"


def test_what_is_published_while_somebody_looks_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine took minutes: whoever finds none, and then drops what lies there, would throw it away."""
    dropped: list[CacheKey] = []
    monkeypatch.setattr(ModelCache, "drop", lambda cache, key: dropped.append(key))
    cache = ModelCache(tmp_path)
    assert cache.find(KEY) is None and dropped == []
    put(cache, KEY)
    (tmp_path / KEY.name / HEADER).write_text("broken")
    assert cache.find(KEY) is None and dropped == [KEY]


def test_order_of_options_is_no_difference() -> None:
    one = msgspec.structs.replace(KEY, options={"a": "1", "b": "2"})
    assert one.name == msgspec.structs.replace(KEY, options={"b": "2", "a": "1"}).name


def test_version_swap_and_other_threads_are_other_keys() -> None:
    assert cache_key(scaler(), "cpu", 1).name != cache_key(scaler(width=3), "cpu", 1).name
    assert cache_key(scaler(), "openvino", 1).name != cache_key(scaler(), "openvino", 2).name
    assert cache_key(scaler(), "cpu", 1).name == cache_key(scaler(), "cpu", 2).name


def flip(place: Path) -> None:
    (place / "engine.bin").write_bytes(b"engyne")


def cut(place: Path) -> None:
    (place / "engine.bin").write_bytes(b"eng")


def remove(place: Path) -> None:
    (place / "engine.bin").unlink()


def no_header(place: Path) -> None:
    (place / HEADER).unlink()


def torn_header(place: Path) -> None:
    header = (place / HEADER).read_bytes()
    (place / HEADER).write_bytes(header[: len(header) // 2])


def newer_header(place: Path) -> None:
    header = msgspec.json.decode((place / HEADER).read_bytes())
    (place / HEADER).write_bytes(msgspec.json.encode({**header, "v": 2}))


def foreign_key(place: Path) -> None:
    header = msgspec.json.decode((place / HEADER).read_bytes())
    header["key"]["driver"] = "another machine"
    (place / HEADER).write_bytes(msgspec.json.encode(header))


@pytest.mark.parametrize("harm", [flip, cut, remove, no_header, torn_header, newer_header, foreign_key])
def test_broken_entry_is_dropped_and_can_be_made_again(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    cache = ModelCache(tmp_path)
    place = put(cache, KEY)
    harm(place)
    assert cache.find(KEY) is None
    assert not place.exists()
    put(cache, KEY, b"again")
    found = cache.find(KEY)
    assert found is not None and (found.folder / "engine.bin").read_bytes() == b"again"


def test_file_that_its_provider_added_later_is_no_fault(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path)
    (put(cache, KEY) / "profile.bin").write_bytes(b"later")
    assert cache.find(KEY) is not None


def test_failed_making_leaves_nothing(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path)
    with pytest.raises(RuntimeError), cache.making(KEY) as folder:
        (folder / "half").write_bytes(b"x" * 100)
        assert size(cache) == cache.making_bytes() == 100
        raise RuntimeError
    assert cache.find(KEY) is None and size(cache) == 0 and list(tmp_path.iterdir()) == []


def test_nobody_makes_twice_at_once(tmp_path: Path) -> None:
    one, other = ModelCache(tmp_path), ModelCache(tmp_path)
    with one.making(KEY) as folder:
        with pytest.raises(MadeElsewhere, match="cpu"), other.making(KEY):
            raise AssertionError
        with other.making(msgspec.structs.replace(KEY, device="openvino")):
            pass
        (folder / "engine.bin").write_bytes(b"1")
        one.publish(KEY, {})
        begun = other.making(KEY)  # published: who comes now makes it anew
        again = begun.__enter__()
        assert list(again.iterdir()) == []
    assert again.is_dir(), "what another began is not ours to remove"
    begun.__exit__(None, None, None)
    assert not again.exists() and one.find(KEY) is not None


def test_folder_that_is_published_while_one_waits_at_its_door(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening the folder and locking it, another publishes it: the lock would be the entry's."""
    cache = ModelCache(tmp_path)
    lock, moved = fcntl.flock, tmp_path / "published"

    def late(number: int, how: int) -> None:
        if not moved.exists():
            (tmp_path / f".making-{KEY.name}").rename(moved)
        lock(number, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with cache.making(KEY) as folder:
        assert folder.is_dir() and folder != moved
        with pytest.raises(MadeElsewhere), ModelCache(tmp_path).making(KEY):
            raise AssertionError


def test_what_a_killed_maker_left_is_not_part_of_the_entry(tmp_path: Path) -> None:
    left = tmp_path / f".making-{KEY.name}"
    (left / "deep").mkdir(parents=True)
    (left / "half").write_bytes(b"x")
    cache = ModelCache(tmp_path)
    assert [path.name for path in put(cache, KEY).iterdir() if path.name != HEADER] == ["engine.bin"]


def test_newest_stays_although_the_clock_went_back(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path, limit_bytes=2000)
    old = msgspec.structs.replace(KEY, model="0" * 64)
    os.utime(put(cache, old, b"x" * 1000) / HEADER, (4e9, 4e9))
    put(cache, KEY, b"x" * 1000)
    assert cache.find(KEY) is not None and cache.find(old) is None


def test_size_is_told_of_folders_that_go_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = ModelCache(tmp_path)
    put(cache, KEY)
    monkeypatch.setattr(cache, "_places", lambda *, hidden=False: [tmp_path / "gone"])
    assert cache.making_bytes() == 0


MAKER = """
import sys, time
from pathlib import Path
from penstock_models.devices.cache import CacheKey, ModelCache
key = CacheKey(**__import__("json").loads(sys.argv[2]))
with ModelCache(Path(sys.argv[1])).making(key) as folder:
    (folder / "half").write_bytes(b"x" * 1000)
    print("making", flush=True)
    sys.stdin.read()
"""


def test_killed_maker_leaves_no_lock_and_no_half_entry(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path)
    arguments = [sys.executable, "-c", MAKER, str(tmp_path), msgspec.json.encode(KEY).decode()]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as maker:
        assert maker.stdout is not None and maker.stdout.readline() == b"making\n"
        with pytest.raises(MadeElsewhere), cache.making(KEY):
            raise AssertionError
        put(cache, msgspec.structs.replace(KEY, device="openvino"))  # sweeps, but not what is being made
        assert size(cache) > 1000
        maker.send_signal(signal.SIGKILL)
        maker.wait()
    assert cache.find(KEY) is None
    put(cache, msgspec.structs.replace(KEY, device="cuda"))
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    with cache.making(KEY) as folder:
        assert list(folder.iterdir()) == []


def test_least_recently_used_go_first(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path, limit_bytes=4500)
    keys = [msgspec.structs.replace(KEY, model=f"{number:064}") for number in range(3)]
    for age, key in enumerate(keys):
        header = put(cache, key, b"x" * 1000) / HEADER
        os.utime(header, (1000 + age, 1000 + age))
    assert cache.find(keys[0]) is not None  # used: now it is the newest
    newest = msgspec.structs.replace(KEY, model="9" * 64)
    put(cache, newest, b"x" * 1000)
    assert [cache.find(key) is not None for key in [*keys, newest]] == [True, False, True, True]
    assert size(cache) <= 4500


def test_entry_beyond_the_limit_is_not_kept(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path, limit_bytes=1000)
    with pytest.raises(OSError, match="1001 bytes"):
        put(cache, KEY, b"x" * 1001)
    assert cache.find(KEY) is None and size(cache) == 0


# --- what the keys are made of -------------------------------------------------------------------------------------

X86 = (
    "processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fpu avx2 sse\n\nprocessor\t: 1\nmodel name\t: Other\n"
)
ARM = "processor\t: 0\nFeatures\t: fp asimd dotprod\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n"


def machine(folder: Path, cpu: str, nvidia: str = "", card: str = "") -> Path:
    folder.mkdir()
    (folder / "cpuinfo").write_text(cpu)
    if nvidia:
        gpu = folder / "driver" / "nvidia" / "gpus" / "0000:01:00.0"
        gpu.mkdir(parents=True)
        (folder / "driver" / "nvidia" / "version").write_text(nvidia)
        (gpu / "information").write_text(f"Model: \t\t {card}\nIRQ: 11\n")
    return folder


def test_cpu_is_told_by_model_and_instruction_sets(tmp_path: Path) -> None:
    x86 = drivers.driver_version("cpu", machine(tmp_path / "a", X86))
    arm = drivers.driver_version("cpu", machine(tmp_path / "b", ARM))
    assert "AMD EPYC" in x86 and "0x41 0xd0b" in arm
    shuffled = X86.replace("fpu avx2 sse", "sse fpu avx2")
    assert drivers.driver_version("cpu", machine(tmp_path / "c", shuffled)) == x86
    assert drivers.driver_version("cpu", machine(tmp_path / "d", X86.replace("avx2", "avx512f"))) != x86
    assert drivers.driver_version("cpu", tmp_path / "nowhere")


@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_nvidia_is_told_by_driver_and_card(tmp_path: Path, device: str) -> None:
    said = (
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 2024\nGCC version: gcc 12.3\n"
    )
    found = drivers.driver_version(device, machine(tmp_path / "a", X86, said, "NVIDIA Orin"))
    assert "nvidia 550.54.14, NVIDIA Orin" in found
    assert ("tensorrt" in found) == (device == "tensorrt")
    assert "nvidia unknown, card unknown" in drivers.driver_version(device, machine(tmp_path / "b", X86))


def test_runtime_is_told_by_its_package() -> None:
    import onnxruntime

    assert drivers.onnxruntime_version().endswith(f" {onnxruntime.__version__}")
    assert drivers.driver_version("openvino").startswith("openvino ")


def test_engine_folders_reach_their_providers() -> None:
    """To the letter of the providers' documentation; TensorRT itself is not run here."""
    assert _provider_options("openvino", 2, "/c") == {"device_type": "CPU", "num_of_threads": "2"}
    assert _provider_options("tensorrt", 1, "/c") == {
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": "/c",
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": "/c",
    }
    assert _provider_options("tensorrt", 1, "") == _provider_options("cuda", 1, "/c") == {}


# --- the CPU's optimised graph -------------------------------------------------------------------------------------


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


def test_model_that_unfolds_is_not_written_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def written(*_: object) -> None:
        raise AssertionError("100 MB of constants must not reach the disk")

    monkeypatch.setattr(optimised, "_measured", written)
    cache = ModelCache(tmp_path)
    expected = run(OrtSession.open(unfolding(), ("cpu",), 1))
    assert run(OrtSession.open(unfolding(), ("cpu",), 1, cache)) == expected
    found = cache.find(cache_key(unfolding(), "cpu", 1))
    assert found is not None and found.facts["pays"] == 0.0 and size(cache) < 10_000


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
