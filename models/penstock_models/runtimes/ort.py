"""ONNX Runtime behind the `Session` Protocol.

A provider list is a wish: ONNX Runtime falls back to the CPU without an error. So an accelerator counts as proven only
when the session was built with the CPU fall-back disabled and the recorded assignment names it and no other provider.
The CPU is proven where it is the session's only provider.

What a session's construction makes is kept in a `ModelCache` where one is given: an accelerator's engine by its
provider, the CPU's optimised graph by `optimised`. The options for TensorRT are as its documentation has them; they were
never run here.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort  # type: ignore[import-untyped]

from penstock_models.devices.cache import CacheKey, Entry, ModelCache
from penstock_models.devices.drivers import driver_version, onnxruntime_version
from penstock_models.errors import ModelRefused
from penstock_models.manifest import TensorSpec
from penstock_models.runtimes import optimised
from penstock_models.runtimes.placement import NotProven, first_proven
from penstock_models.runtimes.session import Array, RunError, RunTerminated, dynamic_batch

QUIET = 4  # fatal only: a model with 400 unused initializers must not print 400 lines
ort.set_default_logger_severity(
    QUIET
)  # a provider that cannot start is told of by the process's logger, no session's

NOT_WHOLE = "fallback to CPU EP has been explicitly disabled"
"""In the words of ONNX Runtime where a node is left to the CPU: some node, or all because the provider did not start."""

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "qnn": "QNNExecutionProvider",
    "xnnpack": "XnnpackExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "acl": "ACLExecutionProvider",
    "vitisai": "VitisAIExecutionProvider",
}

KEEPS_ENGINES = ("tensorrt",)
"""Devices whose provider keeps what it compiled in a folder, and opens it from there.

OpenVINO's (1.24.1, on a processor) writes into its `cache_dir` too, but compiles anew at each load and writes again: with
it a load took 4 to 30 % longer than without.
"""

DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(int16)": "int16",
    "tensor(uint16)": "uint16",
    "tensor(int32)": "int32",
    "tensor(uint32)": "uint32",
    "tensor(int64)": "int64",
    "tensor(uint64)": "uint64",
    "tensor(bool)": "bool",
}


class OrtSession:
    """One ONNX model. Runs from several threads share the one session."""

    def __init__(self, session: Any, placement: str) -> None:
        self.inputs = tuple(_spec(node) for node in session.get_inputs())
        self.outputs = tuple(_spec(node) for node in session.get_outputs())
        self.placement = placement
        self.max_batch = 0 if dynamic_batch(self.inputs) else 1
        self._session = session
        self._names = [spec.name for spec in self.outputs]
        self._lock = threading.Lock()
        self._running: dict[int, Any] = {}
        self._shrink = False

    @classmethod
    def open(
        cls, data: bytes, devices: Sequence[str], threads: int, cache: ModelCache | None = None
    ) -> OrtSession:
        session, placement = first_proven(devices, lambda device: _prove(data, device, threads, cache))
        return cls(session, placement)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        session = self._session
        if session is None:
            raise RunError("the session is closed")
        options = ort.RunOptions()
        options.log_severity_level = QUIET
        if self._shrink:
            self._shrink = False
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        thread = threading.get_ident()
        with self._lock:
            self._running[thread] = options
        try:
            values = session.run(self._names, feeds, options)
        except Exception as error:  # the binding raises a dozen unrelated classes
            kind = RunTerminated if options.terminate else RunError
            raise kind(_one_line(error)) from error
        finally:
            with self._lock:
                del self._running[thread]
        return dict(zip(self._names, values, strict=True))

    def terminate(self, thread: int | None = None) -> None:
        with self._lock:
            for ident, options in self._running.items():
                if thread is None or thread == ident:
                    options.terminate = True

    def warmed(self, runs: int) -> None:
        """The next run gives back what the arena took for the largest batch. One session takes any number of runs."""
        self._shrink = self.placement == "onnxruntime:cpu"  # elsewhere the processor may have no arena

    def close(self) -> None:
        self._session = None


def cache_key(data: bytes, device: str, threads: int) -> CacheKey:
    """What the files that are kept for a model on a device depend on; for the CPU not on the number of threads."""
    options = {} if device == "cpu" else {"threads": str(threads)}
    digest = hashlib.sha256(data).hexdigest()
    return CacheKey(digest, onnxruntime_version(), driver_version(device), device, options)


def _prove(data: bytes, device: str, threads: int, cache: ModelCache | None) -> tuple[Any, str]:
    """A session whose every node was assigned to `device`, and the placement's name."""
    provider = PROVIDERS.get(device, device)
    if provider not in PROVIDERS.values():  # such as Azure's, which takes no node of a model
        raise NotProven(f"not a device that runs models here: name one of {', '.join(PROVIDERS)}")
    if provider not in ort.get_available_providers():
        raise NotProven(f"{provider} is not in this build of onnxruntime")
    if provider == PROVIDERS["cpu"]:
        return _on_cpu(data, threads, cache), "onnxruntime:cpu"
    try:
        session = _on_accelerator(data, device, provider, threads, cache)
    except Exception as error:
        if NOT_WHOLE in str(error):
            raise NotProven(f"{provider} did not start, or leaves nodes of the model to the CPU") from error
        raise NotProven(_one_line(error)) from error
    _require_first(session, provider)
    _require_assignment(session, provider)
    return session, f"onnxruntime:{device}"


def _on_cpu(data: bytes, threads: int, cache: ModelCache | None) -> Any:
    def build(model: bytes, wish: optimised.Wish) -> Any:
        options = _options(threads)
        wish(options)
        return ort.InferenceSession(model, options, providers=[PROVIDERS["cpu"]], enable_fallback=0)

    try:
        if cache is None:
            session = build(data, optimised.as_ever)
        else:
            session = optimised.opened(data, build, cache, cache_key(data, "cpu", threads))
    except Exception as error:
        raise _refusal(error) from error
    _require_first(session, PROVIDERS["cpu"], alone=True)
    return session


def _on_accelerator(data: bytes, device: str, provider: str, threads: int, cache: ModelCache | None) -> Any:
    """A session without the CPU behind it. Where engines are kept, it is built once into the cache and opened from it."""

    def build(folder: str) -> Any:
        options = _options(threads)
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        chosen = _provider_options(device, threads, folder)
        return ort.InferenceSession(data, options, providers=[(provider, chosen)], enable_fallback=0)

    if cache is None or device not in KEEPS_ENGINES:
        return build("")
    key = cache_key(data, device, threads)
    entry = cache.find(key)
    if entry is None:
        try:
            with cache.making(key) as folder:
                entry = cache.find(key) or _built(build, provider, cache, key, folder)
        except OSError:  # no room for the engine: it runs all the same
            return build("")
    return build(str(entry.folder))


def _built(
    build: Callable[[str], Any], provider: str, cache: ModelCache, key: CacheKey, folder: Path
) -> Entry:
    session = build(str(folder))
    _require_first(session, provider)
    del session  # it must not write into a folder that is about to move
    return cache.publish(key, {})


def _provider_options(device: str, threads: int, folder: str) -> dict[str, str]:
    """Options of the execution provider; `folder` is where it keeps its engines, "" for nowhere."""
    if device == "openvino":
        # Without a number it takes every core for one run.
        return {"device_type": "CPU", "num_of_threads": str(threads)}
    if device == "tensorrt" and folder:
        return {
            "trt_engine_cache_enable": "True",
            "trt_engine_cache_path": folder,
            "trt_timing_cache_enable": "True",
            "trt_timing_cache_path": folder,
        }
    return {}


def _require_first(session: Any, provider: str, *, alone: bool = False) -> None:
    used = session.get_providers()
    if used[0] != provider or (alone and len(used) > 1):
        raise NotProven(f"the session runs on {', '.join(used)}")


def _require_assignment(session: Any, provider: str) -> None:
    if not hasattr(session, "get_provider_graph_assignment_info"):
        raise NotProven(f"onnxruntime {ort.__version__} cannot say where nodes run; 1.24 and newer can")
    names = {part.ep_name for part in session.get_provider_graph_assignment_info()}
    if not names:  # the whole graph was folded to constants
        raise NotProven(f"no node of the model was assigned to {provider}")
    if others := names - {provider}:
        raise NotProven(f"nodes were assigned to {', '.join(sorted(others))}")


def _options(threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = QUIET
    # Spinning threads take the cores that decode and the broker need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _refusal(error: Exception) -> ModelRefused:
    text = _one_line(error)
    unknown = "is not a registered function/op" in text or "No Op registered for" in text
    reason = "custom_op" if unknown else "runtime"
    return ModelRefused(reason, f"ONNX Runtime refuses the model: {text}")


def _spec(node: Any) -> TensorSpec:
    dtype = DTYPES.get(node.type)
    if dtype is None:
        raise ModelRefused(
            "runtime", f"tensor {node.name!r} has type {node.type}; only number tensors are run"
        )
    shape = tuple(axis if isinstance(axis, int) else None for axis in node.shape)
    return TensorSpec(node.name, dtype, shape)


def _one_line(error: Exception) -> str:
    """Its text; of a long one begin and end, as a provider names its own sources first and what is wrong last."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 500 else f"{text[:200]} … {text[-297:]}"
