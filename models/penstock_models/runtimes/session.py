"""The seam to a runtime: what a session offers, and how a run can end badly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy.typing as npt

from penstock_models.errors import PenstockError
from penstock_models.manifest import TensorSpec

Array = npt.NDArray[Any]


class RunError(PenstockError):
    """The model raised while it ran."""


class RunTerminated(RunError):
    """The run was ended by `terminate`."""


class Session(Protocol):
    """An open model. `run` may be called from several threads at once.

    `placement` says what was proven, as `RUNTIME:DEVICE`: `onnxruntime:cpu`, `litert:cpu+xnnpack`, `litert:cpu`,
    `onnxruntime:openvino`. `max_batch` is how many rows a run may have: 0 where the first axis of some input is open, the
    largest proven number where the runtime could resize it, and 1 where the shapes are as in the file.
    """

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def placement(self) -> str: ...

    @property
    def max_batch(self) -> int: ...

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once, with every input by name; the outputs by name.

        Raises:
            RunError: the model failed.
            RunTerminated: `terminate` ended it.
        """

    def terminate(self, thread: int | None = None) -> None:
        """End the run in progress of one thread (its `threading.get_ident()`), or of all, where the runtime can."""

    def warmed(self, runs: int) -> None:
        """The warm-up is over but for one run: make ready for so many at once, of every size that has run, and let go of
        what only the largest took.
        """

    def close(self) -> None:
        """Free the model. A run in progress ends first by itself."""


def dynamic_batch(inputs: tuple[TensorSpec, ...]) -> bool:
    """Whether the first axis of some input is open: that input's rows are a batch of any size."""
    return any(spec.shape[:1] == (None,) for spec in inputs)
