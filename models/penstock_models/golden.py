"""Golden samples: an input that travels with a model, and the answer that this version must give to it.

Owns recording an answer and comparing another one with it. Comparing is tolerant where two runtimes may differ by a
little and strict where a wrong model would differ: the labels, the boxes that are sure, the shape of the outputs.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec

from penstock_models import samples
from penstock_models.items import Answer, Detection, Item, Outcome, OutputTensor, Refusal
from penstock_models.manifest import Golden

if TYPE_CHECKING:
    import numpy as np

SURE = 0.5  # boxes below may come and go between runtimes
MIN_IOU = 0.7
MAX_VALUES = 64  # of an output that is stored value by value; larger ones as statistics
DIGITS = 6


def item(golden: Golden, data: bytes, index: int = 0) -> Item:
    """The item of a golden file; each sample is a stream of its own, so that carried state starts fresh."""
    return samples.item(samples.Sample(golden.media_type, data), stream=f"golden/{index}")


def record(answer: Answer) -> dict[str, Any]:
    """An answer as JSON builtins, small enough for a manifest: scores to six digits, large outputs as statistics."""
    if answer.outputs is not None:
        return {"outputs": {name: _summary(tensor) for name, tensor in answer.outputs.items()}}
    plain = msgspec.to_builtins(answer)
    task = next(key for key in ("detections", "classes", "anomaly") if plain[key] is not None)
    rounded: dict[str, Any] = _rounded(plain[task])
    return {task: rounded}


def difference(golden: Golden, outcome: Outcome) -> str:
    """What is wrong with an answer to a golden sample, "" where it is right."""
    if isinstance(outcome, Refusal):
        return f"{golden.file}: {outcome.bucket}: {outcome.reason} {outcome.detail}".rstrip()
    try:
        wrong = _compare(golden.expected, outcome, golden.tolerance)
    except (AttributeError, KeyError, TypeError, msgspec.ValidationError) as error:
        wrong = f"the manifest's expected answer is malformed: {type(error).__name__} {error}"
    return f"{golden.file}: {wrong}" if wrong else ""


def _compare(expected: dict[str, Any], answer: Answer, tolerance: float) -> str:
    match expected:
        case {"classes": list(classes)} if answer.classes is not None:
            scores = {c["index"]: c["score"] for c in classes}
            return _scores(scores, {c.index: c.score for c in answer.classes}, tolerance)
        case {"detections": list(boxes)} if answer.detections is not None:
            return _boxes(msgspec.convert(boxes, tuple[Detection, ...]), answer.detections, tolerance)
        case {"anomaly": {"score": float() | int() as score}} if answer.anomaly is not None:
            return _number("anomaly score", score, answer.anomaly.score, tolerance)
        case {"outputs": dict(outputs)} if answer.outputs is not None:
            return _outputs(outputs, answer.outputs, tolerance)
    return f"expected {', '.join(expected) or 'nothing'}, got another kind of answer"


def _scores(expected: dict[int, float], found: dict[int, float], tolerance: float) -> str:
    # A class that is not among the best k of one side is below that side's lowest score.
    floors = (min(expected.values(), default=0.0), min(found.values(), default=0.0))
    for index in expected.keys() | found.keys():
        want, got = expected.get(index, floors[0]), found.get(index, floors[1])
        if wrong := _number(f"score of class {index}", want, got, tolerance):
            return wrong
    return ""


def _boxes(expected: tuple[Detection, ...], found: tuple[Detection, ...], tolerance: float) -> str:
    for name, one, other in (("expected", expected, found), ("unexpected", found, expected)):
        for box in one:
            if box.score >= SURE + tolerance and not any(_same(box, o, tolerance) for o in other):
                return (
                    f"{name} box {box.label or '(no label)'} {box.score:.2f} at {_place(box)} has no partner"
                )
    return ""


def _same(one: Detection, other: Detection, tolerance: float) -> bool:
    return (
        one.label == other.label and abs(one.score - other.score) <= tolerance and _iou(one, other) >= MIN_IOU
    )


def _iou(one: Detection, other: Detection) -> float:
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = one.box, other.box
    both = max(0.0, min(ax1, bx1) - max(ax0, bx0)) * max(0.0, min(ay1, by1) - max(ay0, by0))
    either = (ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - both
    return both / either if either > 0 else 0.0


def _place(box: Detection) -> str:
    return "[" + ", ".join(f"{v:.2f}" for v in box.box) + "]"


def _outputs(expected: dict[str, Any], found: dict[str, OutputTensor], tolerance: float) -> str:
    for name, want in expected.items():
        tensor = found.get(name)
        if tensor is None:
            return f"no output {name!r}; the model gave {', '.join(found)}"
        got = _summary(tensor)
        if (got["dtype"], got["shape"]) != (want["dtype"], want["shape"]):
            return (
                f"output {name}: expected {want['dtype']} {want['shape']}, got {got['dtype']} {got['shape']}"
            )
        for key, value in want["values"].items():
            if wrong := _number(f"output {name}, {key}", value, got["values"].get(key, math.nan), tolerance):
                return wrong
    return ""


def _number(what: str, want: float, got: float, tolerance: float) -> str:
    """Absolute below 1 (scores), relative above (reconstruction errors, raw values)."""
    near = abs(want - got) <= tolerance * max(1.0, abs(want))
    return (
        "" if near else f"{what}: expected {want:.6g} ± {tolerance * max(1.0, abs(want)):.3g}, got {got:.6g}"
    )


def _summary(tensor: OutputTensor) -> dict[str, Any]:
    values = _array(tensor)
    if values.size <= MAX_VALUES:
        numbers = {str(index): float(value) for index, value in enumerate(values)}
    else:
        numbers = {
            "mean": float(values.mean()),
            "std": float(values.std()),
            "min": float(values.min()),
            "max": float(values.max()),
        }
    return {"dtype": tensor.dtype, "shape": list(tensor.shape), "values": _rounded(numbers)}


def _array(tensor: OutputTensor) -> np.ndarray:
    import numpy as np

    return np.frombuffer(tensor.data, dtype=tensor.dtype).astype(np.float64)


def _rounded(value: Any) -> Any:
    match value:
        case float():
            return round(value, DIGITS)
        case dict():
            return {key: _rounded(item) for key, item in value.items()}
        case list() | tuple():
            return [_rounded(item) for item in value]
    return value
