"""Runtimes: one open model behind one small Protocol, whatever library runs it.

This package owns opening a model file's bytes on a proven device, running named tensors through it and ending a run.
It leaves files and digests to `bundle`, format checks to `safety`, and what the numbers mean to `steps`. Each runtime
has one file, which is imported only when a model needs it.
"""

from __future__ import annotations

from collections.abc import Sequence

from penstock_models.devices.cache import ModelCache
from penstock_models.errors import UsageError
from penstock_models.runtimes.session import RunError, RunTerminated, Session

__all__ = ["RunError", "RunTerminated", "Session", "available", "open_session"]

RUNTIMES = ("onnx", "tflite")


def open_session(
    data: bytes,
    runtime: str,
    *,
    devices: Sequence[str] = (),
    threads: int = 1,
    cache: ModelCache | None = None,
) -> Session:
    """Open a model on the first device of the preference list that can be proven to run it.

    Args:
        data: the model file's bytes.
        runtime: `onnx` or `tflite`, as the bundle's variant names it.
        devices: preference list such as `("openvino", "cpu")`; empty means `("cpu",)`.
        threads: intra-op threads of one run.
        cache: where a runtime keeps what it made of the model, for the next time; None for nowhere.

    Raises:
        ModelRefused: the runtime cannot load the file; `reason` is `custom_op`, `bad_quantization` or `runtime`.
        PlacementError: no device of the list could be proven; the message names each and why.
        UsageError: an unknown runtime, or one that is not installed here.
    """
    wanted = tuple(devices) or ("cpu",)
    if runtime == "onnx":
        from penstock_models.runtimes.ort import OrtSession

        return OrtSession.open(data, wanted, threads, cache)
    if runtime == "tflite":
        from penstock_models.runtimes.litert import LiteRtSession

        return LiteRtSession.open(data, wanted, threads)
    raise UsageError(f"runtime must be one of {', '.join(RUNTIMES)}, got {runtime!r}")


def available(runtime: str) -> bool:
    """Whether this machine has the library for `runtime` (it is looked for, not imported)."""
    from importlib.util import find_spec

    modules = {"onnx": ("onnxruntime",), "tflite": ("ai_edge_litert", "tflite_runtime")}
    return any(find_spec(name) is not None for name in modules.get(runtime, ()))
