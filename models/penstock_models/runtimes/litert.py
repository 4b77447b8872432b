"""LiteRT (TensorFlow Lite) behind the `Session` Protocol.

An interpreter is not thread-safe and has fixed shapes, so a session keeps as many interpreters for each batch size
(powers of two) as runs are made ready for. A batch of 48 runs as 32 + 16: no row is padded and no size is ever compiled for one odd batch.
LiteRT cannot end a run from another thread.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from penstock_models.errors import ModelRefused, UsageError
from penstock_models.manifest import Quantization, TensorSpec
from penstock_models.runtimes.placement import NotProven, first_proven
from penstock_models.runtimes.quiet import FirstWithout
from penstock_models.runtimes.session import Array, RunError

try:
    from ai_edge_litert import interpreter as litert  # type: ignore[import-untyped]
except ImportError:
    try:
        from tflite_runtime import interpreter as litert  # type: ignore[import-not-found]
    except ImportError:
        litert = None

MAX_BATCH = 64
MAX_BATCH_BYTES = 256 * 1024  # larger inputs gain nothing from batches, and every size costs an arena
AS_FILED = 0  # the pool of interpreters with the shapes of the file

_first_allocation = FirstWithout(b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\n")

DELEGATES = {"edgetpu": "libedgetpu.so.1"}


class LiteRtSession:
    """One TFLite model with its pool of interpreters."""

    def __init__(self, data: bytes, delegates: list[Any], placement: str, threads: int) -> None:
        self._data = data
        self._delegates = delegates
        self._threads = threads
        self._lock = threading.Lock()
        self._idle: dict[int, list[Any]] = {}
        self._runs = 1  # interpreters of a size that are kept between runs
        first = self._interpreter(AS_FILED)
        self.inputs = tuple(_spec(detail) for detail in first.get_input_details())
        self.outputs = tuple(_spec(detail) for detail in first.get_output_details())
        self._filed = tuple(_filed_spec(detail) for detail in first.get_input_details())
        self.placement = placement
        if not delegates and _delegate_nodes(first):
            self.placement += "+xnnpack"
        self._give_back(AS_FILED, first)
        self.max_batch = self._largest_proven_batch()
        fixed = self.max_batch == 1
        self._idle = {size: idle for size, idle in self._idle.items() if (size == AS_FILED) == fixed}

    @classmethod
    def open(cls, data: bytes, devices: Sequence[str], threads: int) -> LiteRtSession:
        if litert is None:
            raise UsageError(
                "this model needs LiteRT: install ai-edge-litert (or tflite-runtime) on this machine"
            )
        return first_proven(devices, lambda device: cls._prove(data, device, threads))

    @classmethod
    def _prove(cls, data: bytes, device: str, threads: int) -> LiteRtSession:
        if device == "cpu":
            return cls(data, [], "litert:cpu", threads)
        session = cls(data, [_load_delegate(device)], f"litert:{device}", threads)
        if not session.wholly_delegated():
            session.close()
            raise NotProven("the delegate left a part of the model to the CPU")
        return session

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        if self.max_batch == 1:
            return self._run_exactly(AS_FILED, feeds)
        rows = len(feeds[self.inputs[0].name])
        parts = []
        start = 0
        for size in _powers(rows, self.max_batch):
            parts.append(self._run_exactly(size, {k: v[start : start + size] for k, v in feeds.items()}))
            start += size
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def terminate(self, thread: int | None = None) -> None:
        """LiteRT offers no way to end a run; a hanging one is left to the executor."""

    def warmed(self, runs: int) -> None:
        """Make the interpreters of each size: to make one takes twice as long as a run of its model."""
        self._runs = runs
        for size, idle in self._idle.items():
            while len(idle) < runs:
                idle.append(self._interpreter(size))

    def close(self) -> None:
        with self._lock:
            self._idle.clear()

    def wholly_delegated(self) -> bool:
        """Whether one delegate node reads all the model's inputs and writes all its outputs."""
        interpreter = self._take(AS_FILED)
        nodes = _delegate_nodes(interpreter)
        ends = [{d["index"] for d in interpreter.get_output_details()}]
        ends.append({d["index"] for d in interpreter.get_input_details()})
        self._give_back(AS_FILED, interpreter)
        outputs, inputs = ends
        return len(nodes) == 1 and outputs <= set(nodes[0]["outputs"]) and inputs <= set(nodes[0]["inputs"])

    def _run_exactly(self, size: int, feeds: Mapping[str, Array]) -> dict[str, Array]:
        interpreter = self._take(size)
        try:
            for spec, detail in zip(self.inputs, interpreter.get_input_details(), strict=True):
                interpreter.set_tensor(detail["index"], feeds[spec.name])
            interpreter.invoke()
            details = interpreter.get_output_details()
            out = {d["name"]: interpreter.get_tensor(d["index"]) for d in details}
        except (RuntimeError, ValueError, KeyError) as error:
            # The interpreter is dropped, not given back: its tensors may be half written.
            raise RunError(" ".join(str(error).split())[:300]) from error
        self._give_back(size, interpreter)
        return out

    def _take(self, size: int) -> Any:
        with self._lock:
            idle = self._idle.get(size)
            if idle:
                return idle.pop()
        return self._interpreter(size)

    def _give_back(self, size: int, interpreter: Any) -> None:
        with self._lock:
            idle = self._idle.setdefault(size, [])
            if len(idle) < self._runs:
                idle.append(interpreter)

    def _interpreter(self, size: int) -> Any:
        """A ready interpreter with `size` rows, or with the file's own shapes for AS_FILED."""
        try:
            made = litert.Interpreter(
                model_content=self._data,
                num_threads=self._threads,
                experimental_delegates=self._delegates or None,
                experimental_op_resolver_type=_resolver(bool(self._delegates)),
            )
            if size != AS_FILED:
                for detail in made.get_input_details():
                    made.resize_tensor_input(detail["index"], [size, *detail["shape"][1:]])
            # The first delegate is made here, and said.
            _first_allocation(made.allocate_tensors)
            return made
        except (RuntimeError, ValueError) as error:
            raise _refusal(error) from error

    def _largest_proven_batch(self) -> int:
        """The largest power of two whose rows fit the byte bound; 1 where two rows do not run as two single ones."""
        specs = self._filed
        if any(not spec.shape or spec.shape[0] != 1 for spec in specs):
            return 1
        row_bytes = sum(prod(axis or 1 for axis in s.shape) * np.dtype(s.dtype).itemsize for s in specs)
        limit = min(MAX_BATCH, MAX_BATCH_BYTES // max(1, row_bytes))
        largest = 1 << max(0, limit.bit_length() - 1)
        return largest if largest > 1 and self._two_rows_agree(specs) else 1

    def _two_rows_agree(self, specs: Sequence[TensorSpec]) -> bool:
        noise = np.random.default_rng(0)
        pair = {s.name: _noise(noise, s) for s in specs}
        try:
            both = self._run_exactly(2, pair)
        except (ModelRefused, RunError):
            return False
        for row in (0, 1):
            single = self._run_exactly(AS_FILED, {name: value[row : row + 1] for name, value in pair.items()})
            for name, value in single.items():
                if both[name].shape != (2, *value.shape[1:]) or not _close(both[name][row], value[0]):
                    return False
        return True


def _powers(rows: int, largest: int) -> list[int]:
    sizes = [largest] * (rows // largest)
    rest = rows % largest
    return sizes + [1 << bit for bit in reversed(range(rest.bit_length())) if rest & (1 << bit)]


def _noise(rng: np.random.Generator, spec: TensorSpec) -> Array:
    shape = (2, *(axis or 1 for axis in spec.shape[1:]))
    if spec.dtype.startswith("float"):
        return rng.random(shape).astype(spec.dtype)
    if spec.dtype in ("int8", "uint8"):
        return rng.integers(0, 256, shape).astype(np.uint8).view(spec.dtype)
    return np.zeros(shape, spec.dtype)  # indices and counts: noise could be out of the model's range


def _close(a: Array, b: Array) -> bool:
    return bool(np.allclose(a.astype(np.float64), b.astype(np.float64), rtol=1e-3, atol=1e-4))


def _load_delegate(device: str) -> Any:
    library = DELEGATES.get(device, device)
    if not library.endswith(".so") and ".so." not in library:
        raise NotProven("not a LiteRT device: name cpu, edgetpu or a delegate library (*.so)")
    try:
        import ctypes

        ctypes.CDLL(library)  # load_delegate leaves a half-made object behind when the library is missing
        return litert.load_delegate(library)
    except (OSError, ValueError) as error:
        raise NotProven(" ".join(str(error).split())[:200]) from error


def _resolver(foreign_delegate: bool) -> Any:
    """Without XNNPACK where a foreign delegate is to be proven: its share must not be XNNPACK's."""
    kinds = litert.OpResolverType
    return kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES if foreign_delegate else kinds.AUTO


def _delegate_nodes(interpreter: Any) -> list[Mapping[str, Any]]:
    # The only view that LiteRT gives of what a delegate took.
    return [op for op in interpreter._get_ops_details() if op["op_name"] == "DELEGATE"]


def _refusal(error: Exception) -> ModelRefused:
    text = " ".join(str(error).split())[:300]
    reason = "runtime"
    if "unresolved custom op" in text:
        reason = "custom_op"
    elif "quantized_dimension" in text:
        reason = "bad_quantization"
    return ModelRefused(reason, f"LiteRT refuses the model: {text}")


def _spec(detail: Mapping[str, Any]) -> TensorSpec:
    signature = detail.get("shape_signature")
    shape = detail["shape"] if signature is None else signature
    return TensorSpec(
        detail["name"],
        np.dtype(detail["dtype"]).name,
        tuple(None if axis < 0 else int(axis) for axis in shape),
        _quantization(detail),
    )


def _filed_spec(detail: Mapping[str, Any]) -> TensorSpec:
    return TensorSpec(detail["name"], np.dtype(detail["dtype"]).name, tuple(int(a) for a in detail["shape"]))


def _quantization(detail: Mapping[str, Any]) -> Quantization | None:
    scale, zero_point = detail["quantization"]
    return Quantization(float(scale), int(zero_point)) if scale else None
