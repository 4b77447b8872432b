"""When streams intend to send: times in seconds from the start of a run, decided before anything is sent.

A schedule never waits for an answer or for a slow broker: that is what makes the load open-loop. It owns the intended
times and nothing else; the publisher keeps them, or says by how much it missed them. One schedule may stand for many
streams of one kind, so that thousands cost no more than one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from penstock_models.errors import UsageError

Times = NDArray[np.float64]
Owners = NDArray[np.intp]
Due = tuple[Times, Owners]
"""Intended times, ascending, and beside each the number of its stream."""

_BLOCK = 1024


class Schedule(Protocol):
    """Intended times of `streams` streams, without end; `rate_hz` of them a second and stream."""

    @property
    def rate_hz(self) -> float: ...

    @property
    def streams(self) -> int: ...

    def until(self, end_s: float) -> Due:
        """The next intended times before `end_s`; each is given out once."""


class Periodic:
    """Every 1/rate seconds from each phase, each time delayed by a uniform share of `jitter_s` (at most one period).

    The delay does not add up: the next time counts from the clean grid, as a camera's timer does.
    """

    def __init__(self, rate_hz: float, *phases_s: float, jitter_s: float = 0.0, seed: int = 0) -> None:
        self.rate_hz = _positive(rate_hz)
        self._period = 1.0 / rate_hz
        if not 0.0 <= jitter_s <= self._period:
            raise UsageError(
                f"expected a jitter of 0 to {self._period:.6g} s (one period), got {jitter_s:.6g}"
            )
        self._phases, self._jitter = np.asarray(phases_s or (0.0,), np.float64), jitter_s
        self.streams = len(self._phases)
        self._random = np.random.default_rng(seed)
        self._next = 0  # the first period that was not drawn yet
        self._ahead = _Ahead()

    def until(self, end_s: float) -> Due:
        first_s = self._next * self._period + float(self._phases.min())
        if first_s < end_s:
            periods = int((end_s - first_s) / self._period) + 1
            self._ahead.add(*self._draw(periods))
        return self._ahead.cut(end_s)

    def _draw(self, periods: int) -> Due:
        grid = np.arange(self._next, self._next + periods)[:, None] * self._period
        self._next += periods
        delays = self._random.uniform(0.0, self._jitter, (periods, self.streams))
        return (grid + self._phases + delays).ravel(), np.tile(np.arange(self.streams), periods)


class Poisson:
    """Independent arrivals: exponential gaps with mean 1/rate seconds in each stream.

    Many streams are drawn as one of their total rate whose arrivals are shared out at random, which is the same process.
    """

    def __init__(self, rate_hz: float, streams: int = 1, seed: int = 0) -> None:
        self.rate_hz, self.streams = _positive(rate_hz), streams
        self._mean = 1.0 / rate_hz / streams
        self._gaps, self._owners = (np.random.default_rng((seed, part)) for part in range(2))
        self._last = 0.0
        self._ahead = _Ahead()

    def until(self, end_s: float) -> Due:
        while self._last < end_s:
            times = self._last + np.cumsum(self._gaps.exponential(self._mean, _BLOCK))
            self._last = float(times[-1])
            self._ahead.add(times, self._owners.integers(0, self.streams, _BLOCK))
        return self._ahead.cut(end_s)


class Some:
    """Those streams of a schedule whose numbers are `chosen`, numbered anew. Each sends when it would among all."""

    def __init__(self, whole: Schedule, chosen: Sequence[int]) -> None:
        self.rate_hz, self.streams = whole.rate_hz, len(chosen)
        self._whole = whole
        self._new = np.full(whole.streams, -1, np.intp)
        self._new[list(chosen)] = np.arange(len(chosen))

    def until(self, end_s: float) -> Due:
        times, owners = self._whole.until(end_s)
        new = self._new[owners]
        mine = new >= 0
        return times[mine], new[mine]


class _Ahead:
    """What was drawn and is not due yet."""

    def __init__(self) -> None:
        self._times: Times = np.empty(0)
        self._owners: Owners = np.empty(0, np.intp)

    def add(self, times: Times, owners: Owners) -> None:
        self._times, self._owners = _ordered([self._times, times], [self._owners, owners])

    def cut(self, end_s: float) -> Due:
        """Take out what is due before `end_s`."""
        cut = int(np.searchsorted(self._times, end_s, side="left"))
        due = self._times[:cut], self._owners[:cut]
        self._times, self._owners = self._times[cut:], self._owners[cut:]
        return due


def merge(schedules: Sequence[Schedule], end_s: float) -> Due:
    """All intended times before `end_s`, in order; the streams of the schedules are numbered through."""
    due = [schedule.until(end_s) for schedule in schedules]
    firsts = np.cumsum([0, *(schedule.streams for schedule in schedules)])
    return _ordered([times for times, _ in due], [o + first for (_, o), first in zip(due, firsts)])


def _ordered(times: Sequence[Times], owners: Sequence[Owners]) -> Due:
    all_times = np.concatenate(times)
    order = np.argsort(all_times, kind="stable")
    return all_times[order], np.concatenate(owners)[order]


def _positive(rate_hz: float) -> float:
    if not 0.0 < rate_hz < math.inf:
        raise UsageError(f"expected a rate above 0 Hz, got {rate_hz}")
    return rate_hz
