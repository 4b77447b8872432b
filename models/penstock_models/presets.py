"""What a preset makes of a model's tensors: the steps that feed it and read it (contracts 6).

Pure: tensor descriptions in, steps out. A preset states how its family of models was trained; layout, size, dtype and
quantization are taken from the model's own tensors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec

from penstock_models.errors import UsageError
from penstock_models.manifest import Task, TensorSpec
from penstock_models.manifest_rules import step_complaints
from penstock_models.steps import specs
from penstock_models.steps.specs import Postprocess, Preprocess
from penstock_models.strict_toml import parse_value

Preset = Literal["classification", "yolox", "rfb", "autoencoder", "raw"]
Step = TypeVar("Step", Preprocess, Postprocess)

_INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "int64")


class Recipe(NamedTuple):
    """`classes` is how many labels the model's output calls for, None where it calls for none."""

    task: Task
    preprocess: tuple[Preprocess, ...] = ()
    postprocess: tuple[Postprocess, ...] = ()
    classes: int | None = None


class Picture(NamedTuple):
    """How a model takes a picture; a size that the model leaves open is 0."""

    layout: Literal["nhwc", "nchw"]
    width: int
    height: int
    channels: int


def recipe(
    preset: Preset, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], *, probabilities: bool
) -> Recipe:
    """The steps of `preset` for a model with these tensors.

    Args:
        inputs: those that frames are fed to; constants and states are not among them.
        probabilities: the outputs of a classifier are probabilities already; else a softmax is added.

    Raises:
        UsageError: the tensors do not fit the preset.
    """
    if preset == "raw":
        return Recipe("raw")
    if len(inputs) != 1:
        names = ", ".join(spec.name for spec in inputs)
        raise UsageError(f"preset {preset} takes models with one input, this one has {names}; use preset raw")
    if not outputs:
        raise UsageError(
            f"preset {preset} reads an output, this model has none beside its states; use preset raw"
        )
    match preset:
        case "classification":
            return _classification(inputs[0], outputs, probabilities=probabilities)
        case "yolox":
            return _yolox(inputs[0], outputs)
        case "rfb":
            return _rfb(inputs[0], outputs)
        case "autoencoder":
            return _autoencoder(inputs[0], outputs)


def picture(spec: TensorSpec) -> Picture:
    """Read layout and size from an input's shape.

    Raises:
        UsageError: the shape is no picture's.
    """
    shape = spec.shape
    if len(shape) == 4 and shape[3] in (1, 3):
        return Picture("nhwc", shape[2] or 0, shape[1] or 0, shape[3] or 0)
    if len(shape) == 4 and shape[1] in (1, 3):
        return Picture("nchw", shape[3] or 0, shape[2] or 0, shape[1] or 0)
    shown = [size if size is not None else "?" for size in shape]
    raise UsageError(
        f"input {spec.name} {shown} is no picture (1 or 3 channels, NHWC or NCHW); use preset raw"
    )


def _classification(spec: TensorSpec, outputs: Sequence[TensorSpec], *, probabilities: bool) -> Recipe:
    frame = picture(spec)
    axes = [size for size in outputs[0].shape[1:] if size != 1]
    if len(axes) > 1:
        raise UsageError(
            f"preset classification expects an output [1, classes], this model has {_shown(outputs)}"
        )
    steps: list[Preprocess] = [specs.Resize(frame.width, frame.height, filter="antialias")]
    steps.append(specs.Color("gray" if frame.channels == 1 else "rgb"))
    if spec.dtype == "int8":
        steps.append(specs.Cast("int8", offset=-128))
    elif spec.dtype != "uint8":
        steps += [specs.Normalize(scale=1 / 255), *_narrow(spec)]
    answer: list[Postprocess] = [*_dequantize(outputs)]
    if not probabilities:
        answer.append(specs.Softmax())
    answer.append(specs.TopK())
    return Recipe("classification", (*steps, *_layout(frame)), tuple(answer), axes[0] if axes else None)


def _yolox(spec: TensorSpec, outputs: Sequence[TensorSpec]) -> Recipe:
    frame = picture(spec)
    last = _last(outputs[0])
    if len(outputs) != 1 or len(outputs[0].shape) < 2 or last is None or last < 6:
        raise UsageError(
            f"preset yolox expects one output [1, n, 5 + classes], this model has {_shown(outputs)}"
        )
    decode = specs.DecodeYolox()
    cells = sum((frame.width // s) * (frame.height // s) for s in decode.strides)
    if cells and outputs[0].shape[-2] not in (None, cells):
        raise UsageError(
            f"preset yolox expects {cells} boxes for {frame.width}×{frame.height} and strides "
            f"{list(decode.strides)}, this model has {_shown(outputs)}; write a model.toml with its strides"
        )
    steps: tuple[Preprocess, ...] = (
        specs.Resize(
            frame.width, frame.height, mode="letterbox", filter="linear", pad=114, anchor="top_left"
        ),
        specs.Color("bgr"),
        specs.Cast("float32"),
    )
    return Recipe(
        "detection",
        (*steps, *_narrow(spec), *_layout(frame)),
        (*_dequantize(outputs), decode, specs.Nms(iou=0.45)),
        last - 5,
    )


def _rfb(spec: TensorSpec, outputs: Sequence[TensorSpec]) -> Recipe:
    frame = picture(spec)
    boxes = [o for o in outputs if _last(o) == 4]
    scores = [o for o in outputs if _last(o) != 4]
    if len(boxes) != 1 or len(scores) != 1:
        raise UsageError(
            f"preset rfb expects outputs [1, n, classes] and [1, n, 4], this model has {_shown(outputs)}"
        )
    steps: tuple[Preprocess, ...] = (
        specs.Resize(frame.width, frame.height, mode="stretch", filter="linear"),
        specs.Color("rgb"),
        specs.Normalize(mean=(127.0,), std=(128.0,)),
    )
    decode = specs.DecodeBoxes(scores=scores[0].name, boxes=boxes[0].name, score=0.7)
    classes = _last(scores[0])
    return Recipe(
        "detection",
        (*steps, *_narrow(spec), *_layout(frame)),
        (*_dequantize(outputs), decode, specs.Nms(iou=0.3)),
        classes - 1 if classes else None,
    )


def _autoencoder(spec: TensorSpec, outputs: Sequence[TensorSpec]) -> Recipe:
    if len(outputs) != 1 or outputs[0].shape[1:] != spec.shape[1:]:
        raise UsageError(
            f"preset autoencoder expects an output of the input's shape, this model has {_shown(outputs)}"
        )
    quantize = (specs.Quantize(),) if spec.dtype in _INTEGERS else ()
    return Recipe("anomaly", quantize, (*_dequantize(outputs), specs.ReconstructionError()))


def class_count(task: Task, postprocess: Sequence[Postprocess], outputs: Sequence[TensorSpec]) -> int | None:
    """How many labels the outputs call for when these steps read them, None where that cannot be told."""
    for step in postprocess:
        match step:
            case specs.DecodeYolox() if outputs:
                return _less(_last(outputs[0]), 5)
            case specs.DecodeBoxes(scores=name):
                return next((_less(_last(spec), 1) for spec in outputs if spec.name == name), None)
    axes = outputs[0].shape[1:] if outputs and task == "classification" else ()
    classes = math.prod(size or 0 for size in axes)  # 0 with an open axis
    return classes if classes > 1 else None


def _less(size: int | None, others: int) -> int | None:
    return None if size is None else size - others


def _last(spec: TensorSpec) -> int | None:
    """The size of the last axis, None where it is open or there is none."""
    return spec.shape[-1] if spec.shape else None


def _narrow(spec: TensorSpec) -> tuple[Preprocess, ...]:
    """From float32 to the input's own dtype."""
    if spec.dtype == "float32":
        return ()
    return (specs.Quantize(),) if spec.dtype in _INTEGERS else (specs.Cast(spec.dtype),)


def _layout(frame: Picture) -> tuple[Preprocess, ...]:
    return (specs.Layout("nchw"),) if frame.layout == "nchw" else ()


def _dequantize(outputs: Sequence[TensorSpec]) -> tuple[Postprocess, ...]:
    return (specs.Dequantize(),) if any(o.dtype in _INTEGERS for o in outputs) else ()


def _shown(tensors: Sequence[TensorSpec]) -> str:
    return "; ".join(f"{t.name} {[s if s is not None else '?' for s in t.shape]}" for t in tensors)


def apply_sets(recipe: Recipe, sets: Sequence[str]) -> Recipe:
    """Change values of steps: `OP.FIELD=VALUE`, the value written as in TOML; a word needs no quotes.

    Raises:
        UsageError: no such step, no such value of it, or a value out of its range.
    """
    for entry in sets:
        key, equals, text = entry.partition("=")
        op, dot, field = key.strip().partition(".")
        if not (equals and dot):
            raise UsageError(f"--set {entry}: expected STEP.VALUE=…, such as nms.iou=0.65")
        ops = {step.__struct_config__.tag for step in (*recipe.preprocess, *recipe.postprocess)}
        if op not in ops:
            raise UsageError(
                f"--set {entry}: no step {op!r}; this model has {', '.join(sorted(map(str, ops))) or 'none'}"
            )
        recipe = recipe._replace(
            preprocess=tuple(_changed(s, op, field, text, entry) for s in recipe.preprocess),
            postprocess=tuple(_changed(s, op, field, text, entry) for s in recipe.postprocess),
        )
    for step in (*recipe.preprocess, *recipe.postprocess):
        for complaint in step_complaints(step):
            raise UsageError(f"{complaint}; set it with --set")
    return recipe


def _changed(step: Step, op: str, field: str, text: str, entry: str) -> Step:
    if step.__struct_config__.tag != op:
        return step
    plain: dict[str, Any] = {**msgspec.to_builtins(step), field: parse_value(text)}
    try:
        return msgspec.convert(plain, type(step))
    except msgspec.ValidationError as error:
        fields = ", ".join(step.__struct_fields__) or "no values"
        raise UsageError(f"--set {entry}: {error}; {op} has {fields}") from error
