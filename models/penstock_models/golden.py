"""Golden samples: an input that travels with a model, and the answer that this version must give to it.

Owns recording an answer and comparing another one with it. Comparing is tolerant where two runtimes may differ by a
little and strict where a wrong model would differ: the labels, the boxes, the shape of the outputs and where in them
the large values lie.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec

from penstock_models import samples
from penstock_models.agreement import iou
from penstock_models.items import Answer, Detection, Item, Outcome, OutputTensor, Refusal
from penstock_models.manifest import Golden, Manifest
from penstock_models.steps.specs import DecodeBoxes, DecodeYolox

if TYPE_CHECKING:
    import numpy as np

SURE = 0.5  # unexpected boxes below may come and go between runtimes
MIN_IOU = 0.7
MAX_VALUES = 64  # of an output that is stored value by value; larger ones as statistics and so many values
SPREAD = (
    4.0  # tolerances, in standard deviations, that those values may be off: int8 kernels round by a few steps
)
ROUNDING = 1e-3  # of the largest value: float16 devices are off by it where an output hardly varies
TINY = 1e-6
DIGITS = 6


def item(golden: Golden, data: bytes, index: int = 0) -> Item:
    """The item of a golden file; each sample is a stream of its own, so that carried state starts fresh."""
    return samples.item(samples.Sample(golden.media_type, data), stream=f"golden/{index}")


def record(answer: Answer) -> dict[str, Any]:
    """An answer as JSON builtins, small enough for a manifest: scores to six digits, large outputs as a summary."""
    if answer.outputs is not None:
        return {"outputs": {name: _summary(tensor) for name, tensor in answer.outputs.items()}}
    plain = msgspec.to_builtins(answer)
    task = next(key for key in ("detections", "classes", "anomaly") if plain[key] is not None)
    rounded: dict[str, Any] = _rounded(plain[task])
    return {task: rounded}


def lowest_score(manifest: Manifest) -> float:
    """The lowest score that a box of this model's answers can have, 0 for models without boxes."""
    decoders = [s for s in manifest.postprocess if isinstance(s, DecodeBoxes | DecodeYolox)]
    return decoders[0].score if decoders else 0.0


def difference(golden: Golden, outcome: Outcome, lowest: float = 0.0) -> str:
    """What is wrong with an answer to a golden sample, "" where it is right.

    Args:
        lowest: the `lowest_score` of the model; an expected box may be missing only where its score is that low.
    """
    if isinstance(outcome, Refusal):
        return f"{golden.file}: {outcome.bucket}: {outcome.reason} {outcome.detail}".rstrip()
    try:
        wrong = _compare(golden.expected, outcome, golden.tolerance, lowest)
    except (ArithmeticError, AttributeError, KeyError, TypeError, msgspec.ValidationError) as error:
        wrong = f"the manifest's expected answer is malformed: {type(error).__name__} {error}"
    return f"{golden.file}: {wrong}" if wrong else ""


def _compare(expected: dict[str, Any], answer: Answer, tolerance: float, lowest: float) -> str:
    match expected:
        case {"classes": list(classes)} if answer.classes is not None:
            scores = {c["index"]: c["score"] for c in classes}
            return _scores(scores, {c.index: c.score for c in answer.classes}, tolerance)
        case {"detections": list(boxes)} if answer.detections is not None:
            return _boxes(msgspec.convert(boxes, tuple[Detection, ...]), answer.detections, tolerance, lowest)
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


def _boxes(
    expected: tuple[Detection, ...], found: tuple[Detection, ...], tolerance: float, lowest: float
) -> str:
    for name, one, other, sure in (
        ("expected", expected, found, lowest),
        ("unexpected", found, expected, SURE),
    ):
        for box in one:
            if box.score >= sure + tolerance and not any(_same(box, o, tolerance) for o in other):
                return (
                    f"{name} box {box.label or '(no label)'} {box.score:.2f} at {_place(box)} has no partner"
                )
    return ""


def _same(one: Detection, other: Detection, tolerance: float) -> bool:
    alike = one.label == other.label and abs(one.score - other.score) <= tolerance
    return alike and iou(one.box, other.box) >= MIN_IOU


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
        if wrong := _values(f"output {name}", want["values"], got["values"], tolerance):
            return wrong
    return ""


def _values(what: str, want: dict[str, float], got: dict[str, float], tolerance: float) -> str:
    large = "std" in want
    single = [key for key in want if not (large and key.isdecimal())]
    for key in single:
        if wrong := _number(f"{what}, {key}", want[key], got.get(key, math.nan), tolerance):
            return wrong
    picked = [key for key in want if key not in single]
    if not picked:  # a bundle that was packed before they were stored
        return ""
    return _picked(what, [want[key] for key in picked], [got[key] for key in picked], tolerance, want["std"])


def _picked(what: str, want: list[float], got: list[float], tolerance: float, deviation: float) -> str:
    """Values of a large output, together: one may be far off between runtimes, those of another model all are."""
    error = math.dist(want, got) / math.sqrt(len(want))
    rounding = ROUNDING * max(map(abs, want)) + TINY
    limit = max(SPREAD * tolerance * deviation, rounding)
    return (
        ""
        if error <= limit
        else f"{what}: {len(want)} values are off by {error:.3g} (root mean square), expected at most {limit:.3g}"
    )


def _number(what: str, want: float, got: float, tolerance: float) -> str:
    """Absolute below 1 (scores), relative above (reconstruction errors, raw values)."""
    near = abs(want - got) <= tolerance * max(1.0, abs(want))
    return (
        "" if near else f"{what}: expected {want:.6g} ± {tolerance * max(1.0, abs(want)):.3g}, got {got:.6g}"
    )


def _summary(tensor: OutputTensor) -> dict[str, Any]:
    values = _array(tensor)
    numbers: dict[str, float] = {}
    if values.size > MAX_VALUES:
        numbers |= {name: float(getattr(values, name)()) for name in ("mean", "std", "min", "max")}
    for index in _spread(values.size):
        numbers[str(index)] = float(values[index])
    return {"dtype": tensor.dtype, "shape": list(tensor.shape), "values": _rounded(numbers)}


def _spread(size: int) -> list[int]:
    """Indices of at most MAX_VALUES values, evenly spaced from the first to the last."""
    count = min(size, MAX_VALUES)
    return [index * (size - 1) // max(1, count - 1) for index in range(count)]


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
