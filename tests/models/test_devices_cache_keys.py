"""What the keys of optimised models are made of: model, runtime, driver, device, options; each part counts."""

from pathlib import Path

import msgspec
import pytest

from penstock_models.devices import drivers
from penstock_models.devices.cache import ModelCache
from penstock_models.runtimes.ort import _provider_options, cache_key
from tests.models.loaded import scaler
from tests.models.model_caches import KEY, put

CHANGED = {
    "model": "cd" * 32,
    "runtime": "onnxruntime 1.32.1",
    "driver": "x86_64 AMD EPYC 4567",
    "device": "openvino",
    "options": {"threads": "2"},
}


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


def test_order_of_options_is_no_difference() -> None:
    one = msgspec.structs.replace(KEY, options={"a": "1", "b": "2"})
    assert one.name == msgspec.structs.replace(KEY, options={"b": "2", "a": "1"}).name


def test_version_swap_and_other_threads_are_other_keys() -> None:
    assert cache_key(scaler(), "cpu", 1).name != cache_key(scaler(width=3), "cpu", 1).name
    assert cache_key(scaler(), "openvino", 1).name != cache_key(scaler(), "openvino", 2).name
    assert cache_key(scaler(), "cpu", 1).name == cache_key(scaler(), "cpu", 2).name


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
    import onnxruntime  # type: ignore[import-untyped]

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
