"""Boxes: decoding of detector outputs and non-maximum suppression, vectorised.

Candidates are filtered by score before anything costly is computed on them, and bounded, so that a hostile output
cannot make one picture's post-processing long. Boxes here are x0, y0, x1, y1 in 0..1 of the model's input.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from penstock_models.runtimes.session import Array
from penstock_models.steps.specs import DecodeBoxes, DecodeYolox, Nms

MAX_CANDIDATES = 1024  # the best by score that go on to suppression
MAX_DETECTIONS = 300  # in one answer


class Boxes(NamedTuple):
    """`xyxy` (n, 4) float32, `scores` (n,) float32 best first, `classes` (n,) int."""

    xyxy: Array
    scores: Array
    classes: Array


def decode_yolox(output: Array, step: DecodeYolox, width: int, height: int) -> Boxes:
    """One picture's (cells, 5 + classes) output of a YOLOX head for an input of width × height pixels."""
    # Class scores are at most 1, so a cell whose objectness is too low cannot pass.
    likely = np.flatnonzero(output[:, 4] >= step.score)
    some = output[likely]
    classes = some[:, 5:].argmax(axis=1)
    scores = some[:, 4] * some[np.arange(len(some)), classes + 5]
    keep = _best(scores, scores >= step.score)
    grid, stride = _cells(width, height, step.strides)
    cells, of = likely[keep], some[keep]
    centre = (of[:, :2] + grid[cells]) * stride[cells]
    half = (
        np.exp(np.minimum(of[:, 2:4], 20.0)) * stride[cells] / 2
    )  # e^20 pixels: beyond any picture, not infinite
    size = np.array([width, height, width, height], np.float32)
    return Boxes(np.hstack([centre - half, centre + half]) / size, scores[keep], classes[keep])


def cell_count(width: int, height: int, strides: tuple[int, ...]) -> int:
    """Rows that a YOLOX output has for an input of that size."""
    return sum((width // stride) * (height // stride) for stride in strides)


def decode_boxes(scores: Array, boxes: Array, step: DecodeBoxes) -> Boxes:
    """One picture's (n, classes) scores, class 0 being background, and (n, 4) boxes."""
    foreground = scores[:, 1:]
    row, column = np.nonzero(foreground > step.score)
    found = foreground[row, column]
    keep = _best(found, np.ones(len(found), bool))
    return Boxes(boxes[row[keep]], found[keep], column[keep])


def suppress(boxes: Boxes, step: Nms) -> Boxes:
    """Greedy suppression: a box goes when it overlaps a better one by more than `iou`."""
    if len(boxes.scores) < 2:
        return boxes
    overlaps = _iou(boxes.xyxy) > step.iou
    if not step.across_classes:
        overlaps &= boxes.classes[:, None] == boxes.classes[None, :]
    gone = np.zeros(len(overlaps), bool)
    kept: list[int] = []
    for index in range(len(overlaps)):
        if not gone[index]:
            kept.append(index)
            gone |= overlaps[index]
            if len(kept) == MAX_DETECTIONS:
                break
    return Boxes(boxes.xyxy[kept], boxes.scores[kept], boxes.classes[kept])


def _best(scores: Array, eligible: Array) -> Array:
    """Indices of the eligible scores, best first, at most MAX_CANDIDATES."""
    index = np.flatnonzero(eligible)
    order = np.argsort(-scores[index], kind="stable")[:MAX_CANDIDATES]
    best: Array = index[order]
    return best


def _iou(xyxy: Array) -> Array:
    x0, y0, x1, y1 = xyxy.T
    area = np.maximum(x1 - x0, 0) * np.maximum(y1 - y0, 0)
    across = np.minimum.outer(x1, x1) - np.maximum.outer(x0, x0)
    down = np.minimum.outer(y1, y1) - np.maximum.outer(y0, y0)
    both = np.maximum(across, 0) * np.maximum(down, 0)
    together = np.add.outer(area, area) - both
    ratio: Array = np.divide(both, together, out=np.zeros_like(both), where=together > 0)
    return ratio


@lru_cache(maxsize=16)
def _cells(width: int, height: int, strides: tuple[int, ...]) -> tuple[Array, Array]:
    """For every cell, row by row and stride by stride: its (x, y) place in the grid, and its stride as (n, 1)."""
    places, sizes = [], []
    for stride in strides:
        y, x = np.mgrid[: height // stride, : width // stride]
        places.append(np.stack([x.ravel(), y.ravel()], axis=1))
        sizes.append(np.full((x.size, 1), stride))
    return np.concatenate(places).astype(np.float32), np.concatenate(sizes).astype(np.float32)
