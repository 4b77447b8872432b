"""Elementwise preprocess steps: normalize, cast, quantize. Channels are the last axis.

A picture has only 256 values a channel, so `table` runs a chain of steps once on all of them; `pictures` then looks
values up. Both ways are the same arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from penstock_models.errors import BundleError
from penstock_models.manifest import Quantization, TensorSpec
from penstock_models.runtimes.session import Array
from penstock_models.steps.specs import Cast, Normalize, Quantize

ValueStep = Normalize | Cast | Quantize


def apply_value(step: ValueStep, x: Array, spec: TensorSpec) -> Array:
    """One step on an array whose last axis is the channel; integer targets saturate."""
    match step:
        case Normalize(scale=scale, mean=mean, std=std):
            y = x.astype(np.float32)
            y *= np.float32(scale)
            if any(mean):
                y -= np.asarray(mean, np.float32)
            if any(value != 1 for value in std):
                y /= np.asarray(std, np.float32)
            return y
        case Cast(dtype=dtype, offset=offset):
            return saturate(_shifted(x, offset, dtype) if offset else x, dtype)
        case Quantize():
            return quantize(x, required_quantization(spec), spec.dtype)


def _shifted(x: Array, offset: int, dtype: str) -> Array:
    """x + offset in a type that holds it: float64 from or to floats, else int64, at its ends where it is beyond."""
    if "f" in (x.dtype.kind, np.dtype(dtype).kind):
        return x.astype(np.float64) + offset
    ends = np.iinfo(np.int64)
    wide = saturate(x, "int64")
    return np.clip(wide, ends.min - min(offset, 0), ends.max - max(offset, 0)) + offset


def fits_channels(step: Normalize, channels: int) -> bool:
    """Whether mean and std have one value, or one a channel."""
    return {len(step.mean), len(step.std)} <= {1, channels}


def quantize(x: Array, by: Quantization, dtype: str) -> Array:
    y = np.rint(x.astype(np.float32) / np.float32(by.scale))
    y += np.float32(by.zero_point)
    return saturate(y, dtype)


def dequantize(q: Array, by: Quantization) -> Array:
    y = q.astype(np.float32)
    y -= np.float32(by.zero_point)
    y *= np.float32(by.scale)
    return y


def saturate(x: Array, dtype: str) -> Array:
    """Cast, with values beyond an integer target's range set to its ends."""
    target = np.dtype(dtype)
    if target.kind not in "iu" or np.can_cast(x.dtype, target):
        return x.astype(target, copy=False)
    limits = np.iinfo(target)
    if x.dtype.kind == "f":
        return _from_floats(x, target, limits)
    own = np.iinfo(x.dtype)
    return np.clip(x, max(limits.min, own.min), min(limits.max, own.max)).astype(target)


def _from_floats(x: Array, target: np.dtype[Any], limits: np.iinfo[Any]) -> Array:
    if np.finfo(x.dtype).nmant >= limits.bits:  # both ends are exact in the float type
        return np.clip(x, limits.min, limits.max).astype(target)
    wide = x.astype(np.float64)
    below = np.nextafter(float(limits.max) + 1, 0)  # float64 has no 2**63 - 1
    made = np.clip(wide, limits.min, below).astype(target)
    made[wide > below] = limits.max
    return made


def required_quantization(spec: TensorSpec) -> Quantization:
    """A tensor's scale and zero point.

    Raises:
        BundleError: the tensor has none, so values cannot be quantized or dequantized.
    """
    if spec.quantization is None:
        raise BundleError(
            f"tensor {spec.name!r} has no quantization parameters, which a quantize or dequantize step needs;"
            " remove the step or pack a file that has them"
        )
    return spec.quantization


def table(steps: Sequence[ValueStep], channels: int, spec: TensorSpec) -> Array | None:
    """What `steps` make of every uint8 value, as (256, 1, channels) in the model's dtype; None for no change.

    Raises:
        BundleError: the last step leaves another dtype than the model's input has.
    """
    values: Array = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], channels, axis=2)
    for step in steps:
        if isinstance(step, Normalize) and not fits_channels(step, channels):
            raise BundleError(f"normalize: mean and std have 1 or {channels} values for {channels} channels")
        values = apply_value(step, values, spec)
    if values.dtype == np.uint8 and spec.dtype.startswith("float"):
        values = values.astype(spec.dtype)  # 0..255 fits every float type
    if values.dtype != np.dtype(spec.dtype):
        raise BundleError(
            f"preprocess ends in {values.dtype}, input {spec.name!r} takes {spec.dtype}; add a cast or quantize step"
        )
    return None if not steps and values.dtype == np.uint8 else values
