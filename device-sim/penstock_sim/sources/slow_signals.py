"""Slow synthetic sensors with what is true in them: a room's temperature, a worn accelerometer.

Both are pure functions of (seed, window number).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]

ACTIVITIES = ("resting", "walking", "running")

_EPISODE = 20  # windows; about one in four holds a fault
_STEP_HZ = (0.0, 1.8, 2.8)
_SWING = (0.05, 2.5, 7.0)  # m/s²
_GRAVITY = 9.81
MOTION_HZ = 50.0


def temperature(seed: int, n: int, size: int) -> tuple[Samples, bool]:
    """Window n of a thermometer that is read once a minute: float32 (size,) in °C, and whether it is faulty in it.

    A day's sway of some degrees and slow noise; in an episode the sensor is stuck, or the room is heated by far.
    """
    rng = np.random.default_rng((seed, 0))
    base, swing, phase = rng.uniform(17, 22), rng.uniform(1, 4), rng.uniform(0, 2 * np.pi)
    minutes = np.arange(n * size, (n + 1) * size, dtype=np.float64)
    values = base + swing * np.sin(2 * np.pi * minutes / 1440 + phase)
    values += 0.05 * np.random.default_rng((seed, 1, n)).standard_normal(size)
    fault = _fault(seed, n)
    if fault == "stuck":
        values[:] = values[0]
    elif fault == "hot":
        values += np.linspace(8.0, 15.0, size)
    return values.astype(np.float32), fault != ""


def _fault(seed: int, n: int) -> str:
    dice = np.random.default_rng((seed, 2, n // _EPISODE))
    begin, kind = dice.integers(5, _EPISODE - 5), ("", "", "", "stuck", "", "", "", "hot")[dice.integers(8)]
    return kind if begin <= n % _EPISODE < begin + 5 else ""


def motion(seed: int, n: int, size: int) -> tuple[Samples, str]:
    """Window n of a worn accelerometer at 50 Hz: float32 (size, 3) in m/s², and what its wearer does."""
    activity = int(np.random.default_rng((seed, 1, n // _EPISODE)).integers(len(ACTIVITIES)))
    rng = np.random.default_rng((seed, 2, n))
    seconds = np.arange(n * size, (n + 1) * size) / MOTION_HZ
    stride = np.sin(2 * np.pi * _STEP_HZ[activity] * seconds)[:, None]
    axes = np.array([0.3, 0.5, 1.0]) * _SWING[activity]
    noise = 0.1 * rng.standard_normal((size, 3))
    return (stride * axes + (0.0, 0.0, _GRAVITY) + noise).astype(np.float32), ACTIVITIES[activity]
