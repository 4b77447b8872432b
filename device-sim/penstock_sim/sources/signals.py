"""Synthetic vibration of a rotating machine, with the faults that are true in it.

`Vibration(seed).window(n)` is a pure function of (seed, n). A healthy machine hums at harmonics of a speed that drifts;
during an episode one fault grows and fades: a damaged bearing (ringing impacts), imbalance (the first harmonic swells)
or looseness (half-order harmonics and clipping). Encoding and sending are left to the publisher.
"""

from __future__ import annotations

import functools
import math
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

Fault = Literal["bearing", "imbalance", "looseness"]
Samples = NDArray[np.float32]

FAULTS: tuple[Fault, ...] = ("bearing", "imbalance", "looseness")

RATE_HZ, SIZE = 4096.0, 512  # what the demo model was trained on: 8 windows a second

_SLOT = 40  # windows; a slot holds at most one episode, and the first of a signal holds none
_ORDERS = np.array([1.0, 2.0, 3.0, 4.0, 7.0])  # 7: the blades of a fan
_LEVELS = np.array([0.55, 0.30, 0.18, 0.10, 0.22])  # g


class Episode(msgspec.Struct, frozen=True):
    """A fault from window `begin` up to, not including, `end`; `severity` is at its height, 1 is a typical fault."""

    fault: Fault
    begin: int
    end: int
    severity: float

    def level(self, n: int) -> float:
        """Severity at window n: from 30 % it grows to the height in the middle and fades again; 0 outside."""
        if not self.begin <= n < self.end:
            return 0.0
        way = (n - self.begin + 0.5) / (self.end - self.begin)
        return self.severity * (0.3 + 0.7 * math.sin(math.pi * way))


class Vibration:
    """One accelerometer on one machine.

    Args:
        seed: ≥ 0; decides the machine, its episodes and its noise.
        rate_hz: samples a second, at least 1,000.
        size: samples in a window; windows follow one another without a gap.

    Raises:
        ValueError: a seed, rate or size outside those ranges.
    """

    def __init__(self, seed: int, rate_hz: float = RATE_HZ, size: int = SIZE) -> None:
        if seed < 0 or rate_hz < 1000 or size < 1:
            raise ValueError(
                f"expected seed >= 0, rate_hz >= 1000 and size >= 1, got {seed}, {rate_hz}, {size}"
            )
        self.seed, self.rate_hz, self.size = seed, rate_hz, size
        rng = np.random.default_rng((seed, 0))
        self._hz = float(rng.uniform(27.0, 33.0))
        self._drift = (
            float(rng.uniform(0.01, 0.04)),
            float(rng.uniform(20, 90)),
            float(rng.uniform(0, 2 * math.pi)),
        )
        self._levels = _LEVELS * rng.uniform(0.7, 1.3, _LEVELS.size)
        self._phases = rng.uniform(0, 2 * math.pi, _ORDERS.size)
        self._noise = float(rng.uniform(0.05, 0.09))
        self._ring_hz = float(rng.uniform(0.26, 0.38)) * rate_hz
        self._race = float(rng.uniform(3.3, 4.2))  # impacts a turn of a damaged outer race

    def window(self, n: int) -> tuple[Samples, bool]:
        """Window n ≥ 0: float32 (size,) in g, and whether a fault is present in it."""
        rng = np.random.default_rng((self.seed, 1, n))
        turns = self._turns((np.arange(self.size) + float(n) * self.size) / self.rate_hz)
        episode = self.episode(n)
        level = episode.level(n) if episode else 0.0
        fault = episode.fault if episode and level > 0 else None
        signal = self._hum(turns, level if fault == "imbalance" else 0.0)
        if fault == "looseness":
            signal = self._loose(signal, turns, level)
        elif fault == "bearing":
            signal = signal + self._impacts(turns, level)
        signal = signal * (1 + 0.05 * rng.standard_normal()) + self._noise * rng.standard_normal(self.size)
        return signal.astype(np.float32), fault is not None

    def episode(self, n: int) -> Episode | None:
        """The episode of the slot that window n lies in; it may be over or yet to come."""
        return _episode(self.seed, n // _SLOT)

    def _turns(self, t: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Revolutions since the start: the integral of a speed that sways by a few per cent."""
        depth, period, phase = self._drift
        way = 2 * math.pi / period
        return np.asarray(self._hz * (t - depth / way * (np.cos(way * t + phase) - math.cos(phase))))

    def _hum(self, turns: NDArray[np.float64], imbalance: float) -> NDArray[np.float64]:
        levels = self._levels * np.array([1 + 1.6 * imbalance, 1, 1, 1, 1])
        waves = np.sin(2 * math.pi * turns[:, None] * _ORDERS + self._phases)
        return np.asarray(waves @ levels)

    def _loose(
        self, signal: NDArray[np.float64], turns: NDArray[np.float64], level: float
    ) -> NDArray[np.float64]:
        """Parts knock at half orders, and the housing stops the swing on one side."""
        half = sum(
            0.22 * level * np.sin(2 * math.pi * order * turns + k)
            for k, order in enumerate((0.5, 1.5, 2.5, 5.5, 8.5))
        )
        return np.asarray(np.minimum(signal + half, 1.1 / (0.6 + level)))

    def _impacts(self, turns: NDArray[np.float64], level: float) -> NDArray[np.float64]:
        """A ringing blow each time a rolling element passes the damage; it dies within a few milliseconds."""
        speed = max((turns[-1] - turns[0]) * self.rate_hz / max(1, self.size - 1), 1.0)
        since = (turns * self._race % 1.0) / (self._race * speed)  # seconds since the last blow
        return np.asarray(0.9 * level * np.exp(-since / 0.0016) * np.sin(2 * math.pi * self._ring_hz * since))


@functools.lru_cache(maxsize=1024)
def _episode(seed: int, slot: int) -> Episode | None:
    rng = np.random.default_rng((seed, 2, slot))
    if slot == 0 or rng.random() > 0.6:
        return None
    length = int(rng.integers(10, 25))
    begin = slot * _SLOT + int(rng.integers(0, _SLOT - length + 1))
    fault = FAULTS[int(rng.integers(len(FAULTS)))]
    return Episode(fault, begin, begin + length, float(rng.uniform(0.6, 1.4)))
