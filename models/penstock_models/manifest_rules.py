"""What a manifest must fulfil beyond its types: names, references and finite numbers.

Pure rules: a manifest in, complaints out. A bundle may come from anywhere, so a step that would make the gateway
allocate without bound is refused here, before anything is loaded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from penstock_models import samples
from penstock_models.manifest import Manifest
from penstock_models.steps import specs

NAME = re.compile(r"[a-z0-9_-]{1,64}")
MAX_VERSION = 2**63 - 1
MAX_SIDE = 16_384  # pixels of a resized picture
MAX_PIXELS = 2**24  # of a resized picture
MAX_VARIANTS = 16
MAX_GOLDEN = 64  # each is run when a version is loaded
MAX_ELEMENTS = 2**28  # of one tensor, reshape, window or context

_RANGES: dict[tuple[type, str], tuple[float, float]] = {
    (specs.Resize, "width"): (1, MAX_SIDE),
    (specs.Resize, "height"): (1, MAX_SIDE),
    (specs.Resize, "pad"): (0, 255),
    (specs.Cast, "offset"): (-32_768, 32_767),
    (specs.Window, "size"): (1, MAX_ELEMENTS),
    (specs.Window, "stride"): (1, MAX_ELEMENTS),
    (specs.Context, "samples"): (1, MAX_ELEMENTS),
    (specs.TopK, "k"): (1, 1000),
    (specs.DecodeYolox, "score"): (0, 1),
    (specs.DecodeBoxes, "score"): (0, 1),
    (specs.Nms, "iou"): (0, 1),
}
_CAST_DTYPES = ("int8", "uint8", "int16", "uint16", "int32", "int64", "float16", "float32", "float64")
_TENSOR_DTYPES = (*_CAST_DTYPES, "uint32", "uint64", "bool")


def complaints(manifest: Manifest) -> Iterator[str]:
    """What is wrong, one line each; nothing for a good manifest."""
    if not NAME.fullmatch(manifest.name):
        yield f"name {manifest.name!r}: expected 1 to 64 of a-z, 0-9, `_` and `-`"
    if not 1 <= manifest.version <= MAX_VERSION:
        yield f"version {manifest.version}: expected 1 to {MAX_VERSION}"
    yield from _references(manifest)
    for step in (*manifest.preprocess, *manifest.postprocess):
        yield from step_complaints(step)
    yield from _tensors(manifest)


def _references(manifest: Manifest) -> Iterator[str]:
    names = [entry.path for entry in manifest.files]
    if len(set(names)) != len(names):
        yield "files: a path is listed twice"
    if not 1 <= len(manifest.variants) <= MAX_VARIANTS:
        yield f"variants: {len(manifest.variants)}, a bundle has 1 to {MAX_VARIANTS}"
    if len(manifest.golden) > MAX_GOLDEN:
        yield f"golden: {len(manifest.golden)} samples, a bundle has at most {MAX_GOLDEN}"
    for wanted in [*(v.file for v in manifest.variants), *(g.file for g in manifest.golden)]:
        if wanted not in names:
            yield f"{wanted!r} is used but not listed under files"
    for golden in manifest.golden:
        if not (math.isfinite(golden.tolerance) and golden.tolerance >= 0):
            yield f"golden {golden.file}: tolerance {golden.tolerance} is not a finite number ≥ 0"
        if not samples.is_known(golden.media_type):
            yield f"golden {golden.file}: media type {golden.media_type!r}: expected {samples.KNOWN}"


def step_complaints(step: msgspec.Struct) -> Iterator[str]:
    """Numbers of one step that are out of their range."""
    op = step.__struct_config__.tag
    for field, value in ((f, getattr(step, f)) for f in step.__struct_fields__):
        low, high = _RANGES.get((type(step), field), (-math.inf, math.inf))
        numbers = [value] if isinstance(value, (int, float)) else value if isinstance(value, tuple) else []
        for number in numbers:
            if not (math.isfinite(number) and low <= number <= high):
                yield f"{op}.{field} = {number}: expected {low:g} to {high:g}"
    match step:
        case specs.Resize(width=width, height=height) if width * height > MAX_PIXELS:
            yield f"resize to {width}×{height}: expected at most {MAX_PIXELS} pixels"
        case specs.Cast(dtype=dtype) if dtype not in _CAST_DTYPES:
            yield f"cast.dtype = {dtype!r}: expected one of {', '.join(_CAST_DTYPES)}"
        case specs.Reshape(shape=shape) if not _bounded(shape):
            yield f"reshape.shape = {list(shape)}: expected positive sizes, at most {MAX_ELEMENTS} elements"
        case specs.Normalize(std=std) if 0 in std:
            yield "normalize.std = 0: cannot divide by zero"
        case specs.DecodeYolox(strides=strides) if not strides or min(strides) < 1 or len(strides) > 8:
            yield f"decode_yolox.strides = {list(strides)}: expected 1 to 8 positive sizes"


def _tensors(manifest: Manifest) -> Iterator[str]:
    dtypes = [
        *((s.input, s.dtype) for s in manifest.states),
        *((c.input, c.dtype) for c in manifest.constants),
    ]
    for name, dtype in dtypes:
        if dtype not in _TENSOR_DTYPES:
            yield f"input {name}: dtype {dtype!r}: expected one of {', '.join(_TENSOR_DTYPES)}"
    for state in manifest.states:
        if not _bounded(state.shape):
            yield f"state {state.input}: shape {list(state.shape)} is not of positive sizes"
    for constant in manifest.constants:
        if not _bounded(constant.shape) or math.prod(constant.shape) != len(constant.values):
            yield f"constant {constant.input}: {len(constant.values)} values do not fill shape {list(constant.shape)}"
    inputs = {spec.name for variant in manifest.variants for spec in variant.inputs}
    outputs = {spec.name for variant in manifest.variants for spec in variant.outputs}
    wanted: list[tuple[str, set[str], Any]] = [("input", inputs, s.input) for s in manifest.states]
    wanted += [("output", outputs, s.output) for s in manifest.states]
    wanted += [("input", inputs, c.input) for c in manifest.constants]
    for kind, known, name in wanted:
        if name not in known:
            yield f"{name!r} is no {kind} of the model; it has {', '.join(sorted(known))}"


def _bounded(shape: tuple[int, ...]) -> bool:
    return all(size >= 1 for size in shape) and math.prod(shape) <= MAX_ELEMENTS
