"""An int8 model file as a function of real numbers, run by the same runtimes as on the edge box."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock_models import onnx_file
from penstock_models.manifest import Quantization, TensorSpec
from penstock_models.runtimes import open_session

Floats = NDArray[np.float32]


class Quantized:
    """One model of one input and one output; inputs go in as integers of its own type or as real numbers."""

    def __init__(self, data: bytes, runtime: str) -> None:
        self._session = open_session(data, runtime)
        known = onnx_file.scan(data).quantization if runtime == "onnx" else {}
        (self._input,), (self._output,) = self._session.inputs, self._session.outputs
        self._scales = {s.name: s.quantization or known.get(s.name) for s in (self._input, self._output)}

    def __call__(self, values: NDArray[Any]) -> Floats:
        """Rows one at a time (a TFLite file has a batch of one): (n, …) → float32 (n, …)."""
        fed = values if values.dtype == self._input.dtype else self._as_integers(values)
        rows = [
            self._session.run({self._input.name: fed[i : i + 1]})[self._output.name] for i in range(len(fed))
        ]
        return self._as_reals(np.concatenate(rows))

    def _as_integers(self, values: NDArray[Any]) -> NDArray[Any]:
        scale = self._known(self._input)
        limits = np.iinfo(self._input.dtype)
        integers = np.rint(values / scale.scale) + scale.zero_point
        return np.clip(integers, limits.min, limits.max).astype(self._input.dtype)

    def _as_reals(self, values: NDArray[Any]) -> Floats:
        if values.dtype == np.float32:
            return values
        scale = self._known(self._output)
        return ((values.astype(np.float32) - scale.zero_point) * np.float32(scale.scale)).astype(np.float32)

    def _known(self, spec: TensorSpec) -> Quantization:
        found = self._scales[spec.name]
        if found is None:
            raise ValueError(f"tensor {spec.name!r} is {spec.dtype} and states no quantization")
        return found
