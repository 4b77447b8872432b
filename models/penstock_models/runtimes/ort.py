"""ONNX Runtime behind the `Session` Protocol.

A provider list is a wish: ONNX Runtime falls back to the CPU without an error. So an accelerator counts as proven only
when the session was built with the CPU fall-back disabled and the recorded assignment names it and no other provider.
The CPU is proven where it is the session's only provider.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import onnxruntime as ort  # type: ignore[import-untyped]

from penstock_models.errors import ModelRefused
from penstock_models.manifest import TensorSpec
from penstock_models.runtimes.placement import NotProven, first_proven
from penstock_models.runtimes.session import Array, RunError, RunTerminated, dynamic_batch

QUIET = 4  # fatal only: a model with 400 unused initializers must not print 400 lines

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

    @classmethod
    def open(cls, data: bytes, devices: Sequence[str], threads: int) -> OrtSession:
        session, placement = first_proven(devices, lambda device: _prove(data, device, threads))
        return cls(session, placement)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        session = self._session
        if session is None:
            raise RunError("the session is closed")
        options = ort.RunOptions()
        options.log_severity_level = QUIET
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

    def close(self) -> None:
        self._session = None


def _prove(data: bytes, device: str, threads: int) -> tuple[Any, str]:
    """A session whose every node was assigned to `device`, and the placement's name."""
    provider = PROVIDERS.get(device, device)
    if provider not in PROVIDERS.values():  # such as Azure's, which takes no node of a model
        raise NotProven(f"not a device that runs models here: name one of {', '.join(PROVIDERS)}")
    if provider not in ort.get_available_providers():
        raise NotProven(f"{provider} is not in this build of onnxruntime")
    cpu = provider == PROVIDERS["cpu"]
    try:
        session = ort.InferenceSession(
            data, _options(threads, fallback=cpu), providers=[provider], enable_fallback=0
        )
    except Exception as error:
        if cpu:
            raise _refusal(error) from error
        raise NotProven(_one_line(error)) from error
    used = session.get_providers()
    if used[0] != provider or (cpu and len(used) > 1):
        raise NotProven(f"the session runs on {', '.join(used)}")
    if not cpu:
        _require_assignment(session, provider)
    return session, f"onnxruntime:{'cpu' if cpu else device}"


def _require_assignment(session: Any, provider: str) -> None:
    names = {part.ep_name for part in session.get_provider_graph_assignment_info()}
    if not names:  # the whole graph was folded to constants
        raise NotProven(f"no node of the model was assigned to {provider}")
    if others := names - {provider}:
        raise NotProven(f"nodes were assigned to {', '.join(sorted(others))}")


def _options(threads: int, *, fallback: bool) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = QUIET
    # Spinning threads take the cores that decode and the broker need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not fallback:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
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
    return " ".join(str(error).split())[:500] or type(error).__name__
