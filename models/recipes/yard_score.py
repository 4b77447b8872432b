"""How good a detector is: average precision at an overlap of one half (AP50), a class at a time, in plain NumPy.

Decoding and suppression here are written anew, apart from the product's steps, so that the figures in a manifest do not
depend on the code that they judge.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from yard_data import Pictures
from yard_loss import cells

Floats = NDArray[np.float32]
Predict = Callable[[NDArray[np.uint8]], Floats]
"""uint8 RGB (n, height, width, 3) → (n, cells, 5 + classes) as the network gives them."""


def average_precisions(predict: Predict, test: Pictures, classes: int, floor: float = 0.02) -> list[float]:
    """AP50 of every class over all pictures, the area under the interpolated precision–recall curve."""
    height, width = test.images.shape[1:3]
    found = [detections(rows, width, height, floor) for rows in _in_batches(predict, test.images)]
    return [_average_precision(found, test.boxes, label) for label in range(classes)]


def at_score(predict: Predict, test: Pictures, floor: float) -> tuple[float, float]:
    """Precision and recall over all classes, where only detections of at least `floor` are shown."""
    height, width = test.images.shape[1:3]
    shown = right = wanted = 0
    for rows, boxes in zip(_in_batches(predict, test.images), test.boxes, strict=True):
        found = detections(rows, width, height, floor)
        truth = boxes[boxes[:, 4] >= 0]
        right += sum(
            _hits(found[found[:, 4] == c], truth[truth[:, 4] == c][:, :4]).sum() for c in set(truth[:, 4])
        )
        shown, wanted = shown + len(found), wanted + len(truth)
    return float(right / max(shown, 1)), float(right / max(wanted, 1))


def detections(rows: Floats, width: int, height: int, floor: float) -> Floats:
    """One picture's rows → (n, 6): x0, y0, x1, y1 in 0..1, label, score; the best first, overlaps > 0.45 suppressed."""
    grid = cells(width, height)
    centre = (rows[:, :2] + grid[:, :2]) * grid[:, 2:]
    half = np.exp(rows[:, 2:4]) * grid[:, 2:] / 2
    boxes = np.clip(
        np.concatenate([centre - half, centre + half], axis=1) / [width, height, width, height], 0, 1
    )
    scores = rows[:, 4:5] * rows[:, 5:]
    cell, label = np.nonzero(scores >= floor)
    table = np.concatenate([boxes[cell], label[:, None], scores[cell, label][:, None]], axis=1)
    return _suppressed(table[np.argsort(-table[:, 5], kind="stable")].astype(np.float32))


def _in_batches(predict: Predict, images: NDArray[np.uint8], size: int = 32) -> list[Floats]:
    return [rows for i in range(0, len(images), size) for rows in predict(images[i : i + size])]


def _suppressed(table: Floats) -> Floats:
    kept: list[int] = []
    for i, row in enumerate(table):
        same = [k for k in kept if table[k, 4] == row[4]]
        if not same or overlaps(row[:4], table[same, :4]).max() <= 0.45:
            kept.append(i)
    return table[kept]


def overlaps(box: Floats, others: Floats) -> Floats:
    """Intersection over union of one box with each of `others`."""
    size = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = np.prod(np.maximum(size, 0), axis=1)
    union = np.prod(box[2:] - box[:2]) + np.prod(others[:, 2:] - others[:, :2], axis=1) - shared
    return np.asarray(shared / np.maximum(union, 1e-9), np.float32)


def _hits(found: Floats, wanted: Floats) -> NDArray[np.bool_]:
    """Which of one class's detections, best first, are the first to overlap a true box by half or more."""
    taken = np.zeros(len(wanted), bool)
    hits = np.zeros(len(found), bool)
    for i, row in enumerate(found):
        match = np.where(taken, 0.0, overlaps(row[:4], wanted)) if len(wanted) else np.zeros(1)
        if match.max() >= 0.5:
            hits[i] = taken[match.argmax()] = True
    return hits


def _average_precision(found: list[Floats], truth: Floats, label: int) -> float:
    total = int((truth[..., 4] == label).sum())
    scores: list[float] = []
    hits: list[bool] = []
    for rows, boxes in zip(found, truth, strict=True):
        mine = rows[rows[:, 4] == label]
        scores += mine[:, 5].tolist()
        hits += _hits(mine, boxes[boxes[:, 4] == label][:, :4]).tolist()
    if not total or not hits:
        return 0.0
    right = np.cumsum(np.array(hits)[np.argsort(-np.array(scores), kind="stable")])
    precision = right / np.arange(1, len(right) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(right / total, prepend=0.0) * best))
