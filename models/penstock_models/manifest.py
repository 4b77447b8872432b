"""The manifest of a bundle: one model version, its artifacts, how to feed them and what they must answer.

This module owns the format (contracts 6) and nothing else: reading archives, hashing and packing live in `bundle` and
`pack`. Wire-tolerant: unknown keys of a manifest are skipped, but a newer `v` is refused by name.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from penstock_models.steps.specs import Postprocess, Preprocess

FORMAT = 1

Task = Literal["classification", "detection", "anomaly", "raw"]


class Quantization(msgspec.Struct, frozen=True):
    """Per-tensor affine: real = (q − zero_point) · scale."""

    scale: float
    zero_point: int


class TensorSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """`dtype` is a NumPy name; null in `shape` marks a dynamic axis."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    quantization: Quantization | None = None


class State(msgspec.Struct, frozen=True):
    """A tensor that is carried per stream: `output` of one run is fed to `input` of the next; it starts as zeros."""

    input: str
    output: str
    dtype: str
    shape: tuple[int, ...]


class Constant(msgspec.Struct, frozen=True):
    """An input that always has the same value; `values` is row-major."""

    input: str
    dtype: str
    shape: tuple[int, ...]
    values: tuple[float, ...]


class Variant(msgspec.Struct, frozen=True, omit_defaults=True):
    """One artifact of a bundle. `target` names the hardware it was made for; "any" runs wherever its runtime does."""

    file: str
    runtime: Literal["onnx", "tflite"]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    precision: str = "float32"
    target: str = "any"


class Golden(msgspec.Struct, frozen=True, omit_defaults=True):
    """A stored input and the answer that the version must give to it, within `tolerance` (absolute, on scores).

    `expected` is the answer as JSON builtins (`{"classes": […]}`, `{"detections": […]}`, …).
    """

    file: str
    media_type: str
    expected: dict[str, Any]
    tolerance: float = 0.05


class Budget(msgspec.Struct, frozen=True, omit_defaults=True):
    p95_ms: float | None = None
    rss_mb: float | None = None


class FileEntry(msgspec.Struct, frozen=True):
    path: str
    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    version: int
    task: Task
    variants: tuple[Variant, ...]
    files: tuple[FileEntry, ...]
    v: int = FORMAT
    preprocess: tuple[Preprocess, ...] = ()
    postprocess: tuple[Postprocess, ...] = ()
    labels: tuple[str, ...] = ()
    states: tuple[State, ...] = ()
    constants: tuple[Constant, ...] = ()
    golden: tuple[Golden, ...] = ()
    metrics: dict[str, float] = {}
    data_date: str | None = None
    budget: Budget = Budget()
    provenance: dict[str, str] = {}
    licence: str | None = None
