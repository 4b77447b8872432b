"""Do two versions say the same? Compares two answers to one input, for shadows and trials.

Owns what counts as the same: the first class; boxes that overlap and bear one label; the same side of the threshold, or
nearly the same score; raw values that are close where they are large. Not owned: how often versions may differ.
"""

from __future__ import annotations

import numpy as np

from penstock_models.items import Answer, Box, Detection, OutputTensor

OVERLAP = 0.5
"""Least intersection over union of two boxes that mean the same thing."""

CLOSE = 0.1
"""Largest difference of two scores or values, over the larger one."""


def agree(one: Answer, other: Answer) -> bool:
    """Whether a user would take one answer for the other."""
    if one.classes is not None and other.classes is not None:
        return [c.label for c in one.classes[:1]] == [c.label for c in other.classes[:1]]
    if one.detections is not None and other.detections is not None:
        return _same_boxes(one.detections, other.detections)
    if one.anomaly is not None and other.anomaly is not None:
        alarms = [a.threshold is not None and a.score > a.threshold for a in (one.anomaly, other.anomaly)]
        if one.anomaly.threshold is not None and other.anomaly.threshold is not None:
            return alarms[0] == alarms[1]
        return _close(one.anomaly.score, other.anomaly.score)
    if one.outputs is not None and other.outputs is not None:
        return one.outputs.keys() == other.outputs.keys() and all(
            _same_values(tensor, other.outputs[name]) for name, tensor in one.outputs.items()
        )
    return False  # not even the same task


def _same_boxes(one: tuple[Detection, ...], other: tuple[Detection, ...]) -> bool:
    """Each box of one side has a partner of its own on the other."""
    left = list(other)
    for box in one:
        partner = next((b for b in left if b.label == box.label and iou(b.box, box.box) >= OVERLAP), None)
        if partner is None:
            return False
        left.remove(partner)
    return not left


def iou(one: Box, other: Box) -> float:
    """Intersection over union of two boxes; 0 where both are empty."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    both = max(0.0, width) * max(0.0, height)
    either = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (one, other)) - both
    return both / either if either > 0 else 0.0


def _close(one: float, other: float) -> bool:
    return abs(one - other) <= CLOSE * max(abs(one), abs(other), 1e-9)


def _same_values(one: OutputTensor, other: OutputTensor) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    first, second = (np.frombuffer(t.data, t.dtype).astype(np.float64) for t in (one, other))
    if not first.size:
        return True
    largest = max(np.abs(first).max(), np.abs(second).max(), 1e-9)
    return bool(np.abs(first - second).max() <= CLOSE * largest)
