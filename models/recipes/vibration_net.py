"""The vibration model: an autoencoder whose code is bounded, trained in closed form.

The best linear code for healthy windows is their principal components, so nothing is searched for by descent. Each code
value is scaled to its healthy range and held there by a ReLU6: a swing that is larger than any healthy one, or of
another shape, comes out wrong, and the error shows it.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_MIDDLE = 3.0  # of ReLU6
_HEALTHY = 99.9  # per cent of healthy code values that lie within the range


def build(size: int, code: int) -> keras.Model:
    """Float windows (n, size) → their reconstruction (n, size), through `code` values."""
    window = keras.Input((size,), name="window")
    middle = layers.ReLU(max_value=6.0)(layers.Dense(code)(window))
    return keras.Model(window, layers.Dense(size, name="reconstruction")(middle))


def fit(model: keras.Model, healthy: Floats) -> None:
    """Set the weights from healthy windows (n, size)."""
    encoder, decoder = (layer for layer in model.layers if isinstance(layer, layers.Dense))
    _, _, directions = np.linalg.svd(healthy, full_matrices=False)
    basis = directions[: encoder.units]
    limits = np.percentile(np.abs(healthy @ basis.T), _HEALTHY, axis=0)[:, None]
    encode, decode = _MIDDLE * basis / limits, basis * limits / _MIDDLE
    encoder.set_weights([encode.T, np.full(encoder.units, _MIDDLE)])
    decoder.set_weights([decode, -_MIDDLE * decode.sum(axis=0)])


def errors(windows: Floats, rebuilt: Floats) -> Floats:
    """The mean squared difference of every window: float32 (n,)."""
    return np.asarray(np.mean((windows - rebuilt) ** 2, axis=1), np.float32)


def area_under_curve(scores: Floats, faulty: NDArray[np.bool_]) -> float:
    """The chance that a faulty window scores higher than a healthy one (ROC AUC); ties count half."""
    healthy = np.sort(scores[~faulty])
    below = np.searchsorted(healthy, scores[faulty], "left")
    upto = np.searchsorted(healthy, scores[faulty], "right")
    return float(np.mean(below + upto) / (2 * len(healthy)))
