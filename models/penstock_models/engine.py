"""Runs rows of any number through one session: chunks, padding, constants, states, and finding the guilty row.

It knows how the model takes a batch; what the rows mean is `feeding`'s and `steps`' business.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from penstock_models.carried import Memory
from penstock_models.errors import BundleError
from penstock_models.manifest import Manifest, State, TensorSpec
from penstock_models.runtimes.session import Array, RunError, RunTerminated, Session

MAX_BATCH = 64
MAX_BATCH_BYTES = 8 * 1024**2  # of one dynamic batch's input


class OutputError(RunError):
    """An output does not have one part for every row."""


class Engine:
    """One session, fed in rows. Thread-safe as its session is.

    `batched` says that the first axis is the batch's; `max_batch` how many rows one run takes, `fixed` that it takes
    exactly so many (rows are repeated to fill them).
    """

    def __init__(self, manifest: Manifest, session: Session, *, pictures: bool) -> None:
        """Work out how the model takes a batch.

        Raises:
            BundleError: constants or states that are not the model's, or whose shapes do not fit.
        """
        self._session = session
        self._constants = {
            c.input: np.array(c.values, dtype=np.float64).astype(c.dtype).reshape(c.shape)
            for c in manifest.constants
        }
        self._states = manifest.states
        carried = {state.output for state in manifest.states}
        held = self._constants.keys() | {state.input for state in manifest.states}
        self.inputs = tuple(spec for spec in session.inputs if spec.name not in held)
        self.outputs = tuple(spec for spec in session.outputs if spec.name not in carried)
        if not self.inputs:
            raise BundleError(
                f"{manifest.name}: every input is a constant or a state; nothing is left to feed"
            )
        first = self.inputs[0].shape[:1]
        # The one axis of [samples] is the item's own: a model of one value a row would be [n, 1].
        series = self.inputs[0].shape == (None,)
        self.batched = not series and (
            first in ((None,), (1,)) or (pictures and len(self.inputs[0].shape) == 4)
        )
        self.fixed = self.batched and first[0] not in (None, 1)
        self._state_axes = {s.input: _batch_axis(session.inputs, s) for s in manifest.states}
        self.max_batch = self._largest_batch()

    def run(
        self, feeds: Mapping[str, Array], memories: Sequence[Memory] | None = None
    ) -> tuple[dict[str, Array], dict[int, RunError], list[Memory]]:
        """Run all rows; a failing chunk is halved until the guilty rows are found.

        Args:
            feeds: data inputs, each (rows, …).
            memories: of each row, for models with states.

        Returns:
            Outputs as (good rows, …), the error of each bad row, and the new memory of each good row.

        Raises:
            RunTerminated: the run was ended from another thread.
        """
        rows = len(feeds[self.inputs[0].name])
        parts: list[dict[str, Array]] = []
        failed: dict[int, RunError] = {}
        kept: list[Memory] = []
        for start in range(0, rows, self.max_batch):
            stop = min(rows, start + self.max_batch)
            self._span(feeds, memories, start, stop, (parts, failed, kept))
        if len(parts) == 1:
            return parts[0], failed, kept
        joined = (
            {spec.name: np.concatenate([part[spec.name] for part in parts]) for spec in self.outputs}
            if parts
            else {}
        )
        return joined, failed, kept

    def _span(
        self,
        feeds: Mapping[str, Array],
        memories: Sequence[Memory] | None,
        start: int,
        stop: int,
        found: tuple[list[dict[str, Array]], dict[int, RunError], list[Memory]],
    ) -> None:
        parts, failed, kept = found
        try:
            some = memories[start:stop] if memories is not None else None
            outputs, new = self._call({k: v[start:stop] for k, v in feeds.items()}, stop - start, some)
        except RunTerminated:
            raise
        except RunError as error:
            if stop - start == 1:
                failed[start] = error
                return
            middle = (start + stop) // 2
            self._span(feeds, memories, start, middle, found)
            self._span(feeds, memories, middle, stop, found)
        else:
            parts.append(outputs)
            kept.extend(new)

    def _call(
        self, feeds: dict[str, Array], rows: int, memories: Sequence[Memory] | None
    ) -> tuple[dict[str, Array], list[Memory]]:
        if not self.batched:
            feeds = {name: value[0] for name, value in feeds.items()}
        elif self.fixed and rows < self.max_batch:
            fill = np.minimum(np.arange(self.max_batch), rows - 1)
            feeds = {name: value[fill] for name, value in feeds.items()}
        if self._constants:
            feeds = {**feeds, **self._constants}
        if memories is not None:
            feeds = {**feeds, **self._state_feeds(memories)}
        outputs = self._session.run(feeds)
        new = self._new_memories(outputs, rows) if memories is not None else []
        return {spec.name: self._rows_of(spec, outputs[spec.name], rows) for spec in self.outputs}, new

    def _rows_of(self, spec: TensorSpec, value: Array, rows: int) -> Array:
        if not self.batched or (rows == 1 and value.shape[:1] != (1,) and not self.fixed):
            return value[None]
        value = value[:rows] if self.fixed else value
        if value.shape[:1] != (rows,):
            raise OutputError(f"output {spec.name!r} is {value.shape} for {rows} rows")
        return value

    def _state_feeds(self, memories: Sequence[Memory]) -> dict[str, Array]:
        feeds = {}
        for state in self._states:
            values = [memory.get(state.input) for memory in memories]
            filled = [np.zeros(state.shape, state.dtype) if v is None else v for v in values]
            axis = self._state_axes[state.input]
            feeds[state.input] = filled[0] if len(filled) == 1 else np.concatenate(filled, axis=axis or 0)
        return feeds

    def _new_memories(self, outputs: Mapping[str, Array], rows: int) -> list[Memory]:
        memories: list[dict[str, Array]] = [{} for _ in range(rows)]
        for state in self._states:
            value = outputs[state.output]
            if value.size != rows * math.prod(state.shape):
                raise OutputError(f"state {state.output!r} is {value.shape}, expected {state.shape} a stream")
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise OutputError(f"state {state.output!r} holds NaN or infinity")
            parts = [value] if rows == 1 else np.split(value, rows, axis=self._state_axes[state.input] or 0)
            for memory, part in zip(memories, parts, strict=True):
                memory[state.input] = np.ascontiguousarray(part).reshape(state.shape)
        return list(memories)

    def _largest_batch(self) -> int:
        if self.fixed:
            return self.inputs[0].shape[0] or 1
        open_states = all(axis is not None for axis in self._state_axes.values())
        if not self.batched or not open_states or len({s.shape[:1] for s in self.inputs}) != 1:
            return 1
        if self._session.max_batch:
            return self._session.max_batch
        spec = self.inputs[0]
        if spec.shape[0] is not None:  # only a constant's or a state's first axis is open
            return 1
        row_bytes = math.prod(axis or 1 for axis in spec.shape) * np.dtype(spec.dtype).itemsize
        return max(1, min(MAX_BATCH, MAX_BATCH_BYTES // row_bytes))

    def trial(self, rows: int) -> None:
        """Run rows of zeros in one call; an open axis counts 1.

        Raises:
            RunError: the model cannot take them.
        """
        feeds = {}
        for spec in self.inputs:
            shape = [axis or 1 for axis in (spec.shape[1:] if self.batched else spec.shape)]
            feeds[spec.name] = np.zeros((rows, *shape), spec.dtype)
        self._call(feeds, rows, [{}] * rows if self._states else None)

    def limit(self, max_batch: int) -> None:
        """Lower the batch, where a trial showed that the model cannot take more."""
        self.max_batch = min(self.max_batch, max_batch)


def _batch_axis(inputs: Sequence[TensorSpec], state: State) -> int | None:
    """The axis of a state along which streams are joined: the one that the model leaves open, None without one."""
    spec = next((spec for spec in inputs if spec.name == state.input), None)
    if spec is None or len(spec.shape) != len(state.shape):
        raise BundleError(f"state {state.input!r} of shape {state.shape} is no input of the model file")
    opened = [axis for axis, size in enumerate(spec.shape) if size is None]
    return opened[0] if len(opened) == 1 and state.shape[opened[0]] == 1 else None
