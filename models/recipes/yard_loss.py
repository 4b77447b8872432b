"""What the detector is taught: which cell answers for which box, and what a wrong answer costs."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from yard_net import STRIDES

# Longest side in input pixels that a stride answers for; between 32 and 40 both do.
_RANGES = ((0.0, 40.0), (32.0, 1e9))
_RADIUS = 1.0  # cells whose centre is this near (in strides) to a box's centre answer for it

Targets = NDArray[np.float32]


def cells(width: int, height: int) -> NDArray[np.float32]:
    """Column, row and stride of every output row: float32 (cells, 3)."""
    grids = []
    for stride in STRIDES:
        rows, columns = np.mgrid[0 : height // stride, 0 : width // stride]
        grids.append(np.stack([columns.ravel(), rows.ravel(), np.full(rows.size, stride)], axis=1))
    return np.concatenate(grids).astype(np.float32)


def targets(boxes: NDArray[np.float32], width: int, height: int, classes: int) -> Targets:
    """Boxes as in `Pictures` → float32 (n, cells, 5 + classes): the wanted row of every cell, objectness 0 or 1."""
    grid = cells(width, height)
    out = np.zeros((len(boxes), len(grid), 5 + classes), np.float32)
    for picture, rows in enumerate(boxes):
        kept = rows[rows[:, 4] >= 0]
        area = (kept[:, 2] - kept[:, 0]) * (kept[:, 3] - kept[:, 1])
        for row in kept[np.argsort(-area)]:  # a small box overwrites a large one
            _assign(out[picture], grid, row[:4] * (width, height, width, height), int(row[4]))
    return out


def _assign(out: Targets, grid: NDArray[np.float32], box: NDArray[np.float32], label: int) -> None:
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    side = np.maximum(box[2:] - box[:2], 1.0)
    stride = grid[:, 2]
    low, high = np.array(_RANGES, np.float32)[np.searchsorted(STRIDES, stride)].T
    near = np.maximum(abs(x / stride - grid[:, 0] - 0.5), abs(y / stride - grid[:, 1] - 0.5)) <= _RADIUS
    mine = near & (side.max() >= low) & (side.max() <= high)
    out[mine] = 0.0
    out[mine, 0], out[mine, 1] = (x / stride - grid[:, 0])[mine], (y / stride - grid[:, 1])[mine]
    out[mine, 2:4] = np.log(side[None] / stride[mine, None])
    out[mine, 4] = out[mine, 5 + label] = 1.0


def loss(wanted: tf.Tensor, given: tf.Tensor) -> tf.Tensor:
    """One number: objectness over all cells; class, box overlap and box values over those that answer for a box."""
    mine = wanted[..., 4]
    count = tf.maximum(tf.reduce_sum(mine), 1.0)
    objectness = tf.reduce_sum(_cross_entropy(wanted[..., 4], given[..., 4]))
    label = tf.reduce_sum(mine[..., None] * _cross_entropy(wanted[..., 5:], given[..., 5:]))
    values = tf.reduce_sum(mine[..., None] * tf.abs(wanted[..., :4] - given[..., :4]))
    overlap = tf.reduce_sum(mine * (1 - _giou(wanted[..., :4], given[..., :4])))
    return (objectness + label + values + 2.0 * overlap) / count


def _cross_entropy(wanted: tf.Tensor, given: tf.Tensor) -> tf.Tensor:
    given = tf.clip_by_value(given, 1e-6, 1 - 1e-6)
    return -wanted * tf.math.log(given) - (1 - wanted) * tf.math.log(1 - given)


def _giou(wanted: tf.Tensor, given: tf.Tensor) -> tf.Tensor:
    """Generalised overlap of boxes given as x, y, log w, log h in units of one cell."""
    a0, a1 = wanted[..., :2] - tf.exp(wanted[..., 2:]) / 2, wanted[..., :2] + tf.exp(wanted[..., 2:]) / 2
    b0, b1 = given[..., :2] - tf.exp(given[..., 2:]) / 2, given[..., :2] + tf.exp(given[..., 2:]) / 2
    shared = tf.reduce_prod(tf.maximum(tf.minimum(a1, b1) - tf.maximum(a0, b0), 0.0), axis=-1)
    hull = tf.reduce_prod(tf.maximum(a1, b1) - tf.minimum(a0, b0), axis=-1)
    union = tf.reduce_prod(a1 - a0, axis=-1) + tf.reduce_prod(b1 - b0, axis=-1) - shared
    return shared / (union + 1e-6) - (hull - union) / (hull + 1e-6)
