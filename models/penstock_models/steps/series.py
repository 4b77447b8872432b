"""Preprocess of numbers: sensor windows, series and ready tensors, from flat values to model rows.

A value that already has the model's own integer dtype is taken as quantized: value steps are skipped for it. All the
steps work on a leading axis of rows, so a joined batch of equal items costs one pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from penstock_models.errors import BundleError
from penstock_models.manifest import TensorSpec
from penstock_models.rejection import Rejection
from penstock_models.runtimes.session import Array
from penstock_models.steps.specs import (
    Cast,
    Context,
    Layout,
    Normalize,
    Preprocess,
    Quantize,
    Reshape,
    Window,
)
from penstock_models.steps.values import apply_value, fits_channels, required_quantization

MAX_WINDOWS = 4096  # rows that one item may become

Shape = tuple[int | None, ...]


class SeriesRows(NamedTuple):
    """`data` is (rows, …) as the model takes it; `real` the values before quantization, None where it came quantized."""

    data: Array
    real: Array | None
    context: Array | None = None


class SeriesPlan:
    """The preprocess of one manifest for one tensor. Thread-safe."""

    def __init__(self, steps: Sequence[Preprocess], spec: TensorSpec, item_shape: Shape) -> None:
        """Work out which shapes and dtypes an item may have.

        Args:
            item_shape: what the model takes for one row, without the batch axis.

        Raises:
            BundleError: a step that only pictures have, or shapes that do not fit each other.
        """
        self.steps = tuple(steps)
        self.spec = spec
        self.row_shape = item_shape
        self.window = next((s for s in steps if isinstance(s, Window)), None)
        self.context = next((s for s in steps if isinstance(s, Context)), None)
        self._values = [s for s in steps if isinstance(s, (Normalize, Cast, Quantize))]
        if self.window and self.context and self.steps.index(self.window) < self.steps.index(self.context):
            raise BundleError(
                "step context stands after step window, and would keep only the first window of an item;"
                " write context before window"
            )
        self._quantizes = any(isinstance(s, Quantize) for s in steps)
        if self._quantizes:
            required_quantization(spec)
        self._dtype = np.dtype(spec.dtype)
        self.converts = bool(self._values)
        self._any_shape = False
        self.expected = self._expected()

    def accepts(self, dtype: np.dtype[np.generic]) -> bool:
        """Whether `dtype` comes ready for the model (True) or goes through the value steps (False).

        Raises:
            Rejection: `dtype`, for any other.
        """
        if dtype == self._dtype and (not self._values or (self._quantizes and dtype.kind in "iu")):
            return True
        converts = any(isinstance(step, (Normalize, Cast)) for step in self._values)
        if converts or (self._quantizes and dtype.kind == "f"):
            return False
        takes = f"{self.spec.dtype} or float32" if self._quantizes else self.spec.dtype
        raise Rejection("dtype", f"input {self.spec.name!r} takes {takes}, got {dtype.name}")

    def shape_of(self, size: int, declared: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of an item with `size` values.

        Raises:
            Rejection: `shape`, where the count or the declared shape does not fit.
        """
        if declared and prod(declared) != size:
            raise Rejection("shape", f"shape {declared} has {prod(declared)} values, the data has {size}")
        if len(declared) == len(self.expected) + 1 and declared[0] == 1:
            declared = declared[1:]
        loose = self._any_shape and self.window is None
        flat = self.window is not None and len(declared) == 1
        if declared and not (loose or flat):
            self._check_axes(declared)
            return declared
        return self._inferred(size)

    def rows(self, x: Array, ready: bool, carried: Array | None = None) -> SeriesRows:
        """Run the steps on (items, …) values of `shape_of` each; a window or context step takes one item at a time.

        Raises:
            Rejection: `shape`, where an item gives no window or too many.
        """
        real: Array | None = None
        context: Array | None = None
        for step in self.steps:
            match step:
                case Window():
                    x = _windows(x, step)
                case Context(samples=samples):
                    x, context = _with_context(x, samples, carried)
                case Reshape(shape=shape):
                    x = x.reshape(len(x), *shape)
                case Layout(order="nchw"):
                    x = np.ascontiguousarray(np.moveaxis(x, -1, 1))
                case Normalize() | Cast() | Quantize() if not ready:
                    if isinstance(step, Quantize):
                        real = x
                    elif isinstance(step, Normalize) and not fits_channels(step, x.shape[-1]):
                        raise Rejection(
                            "shape", f"normalize has one value a channel, got {x.shape[-1]} channels"
                        )
                    x = apply_value(step, x, self.spec)
                case _:
                    pass
        return SeriesRows(self._typed(x), x if real is None and x.dtype.kind == "f" else real, context)

    def _typed(self, x: Array) -> Array:
        if x.dtype != self._dtype:
            raise Rejection("dtype", f"preprocess gives {x.dtype.name}, the model takes {self.spec.dtype}")
        return x

    def _expected(self) -> Shape:
        shape: Shape = self.row_shape
        for step in reversed(self.steps):
            match step:
                case Layout(order="nchw"):
                    shape = (*shape[1:], shape[0])
                case Reshape(shape=made):
                    if None not in shape and prod(made) != prod(axis or 1 for axis in shape):
                        raise BundleError(f"reshape gives {made}, input {self.spec.name!r} takes {shape}")
                    self._any_shape, shape = True, made
                case Window(size=size):
                    shape = self._series(shape, size)
                case Context(samples=samples):
                    shape = self._shortened(shape, samples)
                case Normalize():
                    self._check_channels(step, shape)
                case Cast() | Quantize() | Layout():
                    pass
                case _:
                    raise BundleError(
                        f"step {step.__struct_config__.tag} needs a picture, this model takes numbers"
                    )
        return shape

    def _check_channels(self, step: Normalize, shape: Shape) -> None:
        # Before a reshape without a window an item has any shape: then only the item itself tells.
        loose = self._any_shape and self.window is None
        channels = shape[-1] if shape else 1
        if not loose and channels is not None and not fits_channels(step, channels):
            raise BundleError(
                f"normalize: mean and std have 1 or {channels} values for {channels} channels of input"
                f" {self.spec.name!r}, got {len(step.mean)} and {len(step.std)}"
            )

    def _series(self, shape: Shape, size: int) -> Shape:
        if self._any_shape and None not in shape:
            columns, rest = divmod(prod(axis or 1 for axis in shape), size)
            if not rest:
                return (None, columns)
        elif shape and shape[0] in (None, size):
            return (None, *shape[1:])
        raise BundleError(f"windows of {size} rows do not fill input {self.spec.name!r} of {shape}")

    def _shortened(self, shape: Shape, samples: int) -> Shape:
        first = shape[0] if shape else 0
        if self._any_shape and self.window is None:
            raise BundleError("a context step cannot stand before a reshape step without a window step")
        if first is not None and first <= samples:
            raise BundleError(
                f"context of {samples} samples leaves nothing of input {self.spec.name!r} {shape}"
            )
        return (None if first is None else first - samples, *shape[1:])

    def _check_axes(self, declared: tuple[int, ...]) -> None:
        if len(declared) != len(self.expected) or any(
            want not in (None, got) for want, got in zip(self.expected, declared, strict=True)
        ):
            raise Rejection("shape", f"expected {_shown(self.expected)}, got shape {_shown(declared)}")

    def _inferred(self, size: int) -> tuple[int, ...]:
        known = prod(axis for axis in self.expected if axis is not None)
        opened = self.expected.count(None)
        count, rest = divmod(size, known) if known else (0, size)
        if opened > 1 or rest or count == 0 or (opened == 0 and count != 1):
            raise Rejection("shape", f"expected {_shown(self.expected)}, got {size} values")
        return tuple(count if axis is None else axis for axis in self.expected)


def _windows(x: Array, step: Window) -> Array:
    if x.shape[1] == step.size:
        return x
    if x.shape[1] < step.size:
        raise Rejection("shape", f"{x.shape[1]} rows are fewer than one window of {step.size}")
    count = (x.shape[1] - step.size) // step.stride + 1
    if count > MAX_WINDOWS:
        raise Rejection("shape", f"{x.shape[1]} rows make {count} windows, at most {MAX_WINDOWS} are run")
    views = sliding_window_view(x[0], step.size, axis=0)[:: step.stride]
    return np.ascontiguousarray(np.moveaxis(views, -1, 1))


def _with_context(x: Array, samples: int, carried: Array | None) -> tuple[Array, Array]:
    before = (
        np.zeros((samples, *x.shape[2:]), x.dtype) if carried is None else carried.astype(x.dtype, copy=False)
    )
    whole = np.concatenate([before, x[0]])
    return whole[None], whole[-samples:].copy()


def _shown(shape: Shape) -> str:
    return "×".join("?" if axis is None else str(axis) for axis in shape) or "one value"
