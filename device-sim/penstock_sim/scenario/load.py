"""How the load goes over a run: phases end to end, each a piece of one curve, and schedules bent along it. Pure.

A load of 1 is what the streams say of their own rates. A schedule is bent by time-rescaling: an arrival process in
operational time tau becomes one of rate `load(t)` times its own when tau(t) = ∫ load dt. A Poisson process stays one,
with a rate that varies (Cinlar, Introduction to Stochastic Processes, 1975, section 4.7); a periodic one keeps its
order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from penstock_models.errors import UsageError
from penstock_sim.load.schedule import Due, Schedule, Times


class Load:
    """A curve of straight pieces: `values` (≥ 0) at `times` (s, ascending, from 0). Two values at one time are a step.

    Raises:
        UsageError: times that do not ascend from 0, a negative value, or no load at all.
    """

    def __init__(self, times: Sequence[float], values: Sequence[float]) -> None:
        self._times, self._values = np.asarray(times, np.float64), np.asarray(values, np.float64)
        if len(times) != len(values) or len(times) < 2 or times[0] != 0:
            raise UsageError("expected a load of two points or more, the first at 0 s")
        if not np.isfinite(self._times).all() or (np.diff(self._times) < 0).any():
            raise UsageError("expected the times of a load to ascend")
        if not np.isfinite(self._values).all() or (self._values < 0).any():
            raise UsageError("expected no load below 0")
        lengths = np.diff(self._times)
        areas = lengths * (self._values[1:] + self._values[:-1]) / 2
        self._sums = np.concatenate([[0.0], np.cumsum(areas)])
        self._slopes = np.divide(
            np.diff(self._values), lengths, out=np.zeros_like(lengths), where=lengths > 0
        )
        if self._sums[-1] <= 0:
            raise UsageError("expected a load above 0 somewhere, came none: nothing would be sent")

    @property
    def seconds(self) -> float:
        return float(self._times[-1])

    @property
    def points(self) -> tuple[Times, Times]:
        """Times (s) and values of the corners."""
        return self._times, self._values

    @property
    def highest(self) -> float:
        return float(self._values.max())

    def tau(self, t: float) -> float:
        """Operational seconds up to `t`: those that a load of 1 takes for as many frames."""
        t = min(max(t, 0.0), self.seconds)
        piece = int(np.clip(np.searchsorted(self._times, t, side="right") - 1, 0, len(self._slopes) - 1))
        since = t - self._times[piece]
        return float(self._sums[piece] + since * (self._values[piece] + self._slopes[piece] * since / 2))

    def times(self, tau: Times) -> Times:
        """When each operational time (ascending, below `tau(seconds)`) comes."""
        piece = np.clip(np.searchsorted(self._sums, tau, side="right") - 1, 0, len(self._slopes) - 1)
        rest = tau - self._sums[piece]
        begin, slope = self._values[piece], self._slopes[piece]
        # The root of slope/2·s² + begin·s = rest in the form that is exact where slope is 0.
        root = begin + np.sqrt(np.maximum(begin**2 + 2 * slope * rest, 0.0))
        since = np.divide(2 * rest, root, out=np.zeros_like(rest), where=root > 0)
        found: Times = self._times[piece] + since
        return found


class Bent:
    """A schedule along a load; it ends with the load. `rate_hz` is the highest."""

    def __init__(self, schedule: Schedule, load: Load) -> None:
        self.rate_hz, self.streams = schedule.rate_hz * load.highest, schedule.streams
        self._schedule, self._load = schedule, load

    def until(self, end_s: float) -> Due:
        tau, owners = self._schedule.until(self._load.tau(end_s))
        return self._load.times(tau), owners
