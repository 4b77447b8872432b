"""Scores: softmax, top-k and the reconstruction error, batch-wise on (rows, …) arrays."""

from __future__ import annotations

import numpy as np

from penstock_models.runtimes.session import Array


def softmax(x: Array) -> Array:
    """Over the last axis, float32."""
    y = x.astype(np.float32)
    y -= y.max(axis=-1, keepdims=True)
    np.exp(y, out=y)
    y /= y.sum(axis=-1, keepdims=True)
    return y


def top_k(scores: Array, k: int) -> Array:
    """Indices of the k highest of one row, best first; of equal scores the lower index."""
    if k >= len(scores):
        order: Array = np.argsort(-scores, kind="stable")
        return order
    floor = np.partition(scores, -k)[-k]
    candidates = np.flatnonzero(scores >= floor)
    best: Array = candidates[np.argsort(-scores[candidates], kind="stable")][:k]
    return best


def squared_error(output: Array, reference: Array) -> Array:
    """The mean squared difference of every row, float32 (rows,)."""
    difference = output.reshape(len(output), -1) - reference.reshape(len(reference), -1)
    squares: Array = np.einsum("ij,ij->i", difference, difference)
    squares /= difference.shape[1]
    return squares


def finite_rows(x: Array) -> Array | None:
    """Which rows hold only finite numbers; None where all do (one cheap pass)."""
    if x.dtype.kind != "f":
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(x.sum(dtype=np.float64)):
            return None
    finite: Array = np.isfinite(x.reshape(len(x), -1)).min(axis=1)
    return None if finite.all() else finite
