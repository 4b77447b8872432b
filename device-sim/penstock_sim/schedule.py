"""When a stream intends to send: times in seconds from the start of a run, decided before anything is sent.

A schedule never waits for an answer or for a slow broker: that is what makes the load open-loop. It owns the intended
times and nothing else; the publisher keeps them, or says by how much it missed them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from penstock_models.errors import UsageError

_BLOCK = 1024


class Schedule(Protocol):
    """Intended times of one stream, ascending, without end; `rate_hz` of them a second."""

    @property
    def rate_hz(self) -> float: ...

    def until(self, end_s: float) -> NDArray[np.float64]:
        """The next intended times before `end_s`; each time is given out once."""


class Periodic:
    """Every 1/rate seconds from `phase_s`, each time delayed by a uniform share of `jitter_s` (at most one period).

    The delay does not add up: the next time counts from the clean grid, as a camera's timer does.
    """

    def __init__(self, rate_hz: float, phase_s: float = 0.0, jitter_s: float = 0.0, seed: int = 0) -> None:
        self.rate_hz = _positive(rate_hz)
        self._period = 1.0 / rate_hz
        if not 0.0 <= jitter_s <= self._period:
            raise UsageError(
                f"expected a jitter of 0 to {self._period:.6g} s (one period), got {jitter_s:.6g}"
            )
        self._phase, self._jitter = phase_s, jitter_s
        self._random = np.random.default_rng(seed)
        self._next = 0
        self._ahead: NDArray[np.float64] = np.empty(0)

    def until(self, end_s: float) -> NDArray[np.float64]:
        while not len(self._ahead) or self._ahead[-1] < end_s:
            grid = self._phase + np.arange(self._next, self._next + _BLOCK) * self._period
            self._next += _BLOCK
            self._ahead = np.append(self._ahead, grid + self._random.uniform(0.0, self._jitter, _BLOCK))
        due, self._ahead = _split(self._ahead, end_s)
        return due


class Poisson:
    """Independent arrivals: exponential gaps with mean 1/rate seconds."""

    def __init__(self, rate_hz: float, seed: int = 0) -> None:
        self.rate_hz = _positive(rate_hz)
        self._mean = 1.0 / rate_hz
        self._random = np.random.default_rng(seed)
        self._last = 0.0
        self._ahead: NDArray[np.float64] = np.empty(0)

    def until(self, end_s: float) -> NDArray[np.float64]:
        while not len(self._ahead) or self._ahead[-1] < end_s:
            block = self._last + np.cumsum(self._random.exponential(self._mean, _BLOCK))
            self._last = float(block[-1])
            self._ahead = np.append(self._ahead, block)
        due, self._ahead = _split(self._ahead, end_s)
        return due


def merge(schedules: Sequence[Schedule], end_s: float) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """All intended times before `end_s`, in order, and beside each the index of its schedule."""
    due = [schedule.until(end_s) for schedule in schedules]
    times = np.concatenate(due)
    owners = np.repeat(np.arange(len(due)), [len(part) for part in due])
    order = np.argsort(times, kind="stable")
    return times[order], owners[order]


def _split(ahead: NDArray[np.float64], end_s: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    cut = int(np.searchsorted(ahead, end_s, side="left"))
    return ahead[:cut], ahead[cut:]


def _positive(rate_hz: float) -> float:
    if not rate_hz > 0.0:
        raise UsageError(f"expected a rate above 0 Hz, got {rate_hz}")
    return rate_hz
