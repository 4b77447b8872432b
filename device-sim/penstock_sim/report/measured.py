"""The figures that two runs are compared by, each with the difference and how sure it is. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import msgspec
import numpy as np

from penstock_sim.report.bootstrap import Estimate, block_length, drawn, estimate
from penstock_sim.report.latencies import Counts, Floats
from penstock_sim.report.series import MixSeries

SEED = 19

Kind = Literal["ms", "share", "count"]

_PERCENTILES = (50, 95, 99)
_SHARES = (("answered_share", "answered", "sent", 1), ("late_share", "late", "answered", -1))
"""Figure, counts above and below the line, and whether more of it is better (1) or worse (-1)."""


class Draws:
    """The resamples of both runs: the same seconds of both where `same`, else each its own."""

    def __init__(self, steps_a: int, steps_b: int, same: bool) -> None:
        self.steps = min(steps_a, steps_b)
        self.length = block_length(self.steps)
        random = np.random.default_rng(SEED)
        self.a = drawn(random, self.steps if same else steps_a, self.length)
        self.b = self.a if same else drawn(random, steps_b, self.length)

    def estimate(self, difference: float, resampled: Floats) -> Estimate:
        return estimate(difference, resampled, self.steps, self.length)


class Measured(msgspec.Struct, frozen=True):
    """A figure of a mix before its verdict; `estimate` is None where there is nothing to judge. `sign` is that of a better
    difference, `most` the frames behind a share, for where nothing happened in either run."""

    mix: str
    figure: str
    kind: Kind
    sign: int
    a: float
    b: float
    estimate: Estimate | None
    most: float = 0.0


def measured(mix: str, a: MixSeries, b: MixSeries, draw: Draws) -> Iterator[Measured]:
    """Percentiles of the latency, differing by the logarithm of their ratio, and shares."""
    yield from _latencies(mix, a, b, draw)
    for figure, above, below, sign in _SHARES:
        (over, under), (over_b, under_b) = (
            (float(_counts(one, above).sum()), float(_counts(one, below).sum())) for one in (a, b)
        )
        first, second = _share(over, under), _share(over_b, under_b)
        found = None
        if under and under_b:
            apart = _shares(draw.b, b, above, below) - _shares(draw.a, a, above, below)
            found = draw.estimate(second - first, apart)
        yield Measured(mix, figure, "share", sign, first, second, found, min(under, under_b))


def _latencies(mix: str, a: MixSeries, b: MixSeries, draw: Draws) -> Iterator[Measured]:
    resampled = [
        one.latencies.head(weights.shape[1]).weighted(weights) for one, weights in ((a, draw.a), (b, draw.b))
    ]
    for percent in _PERCENTILES:
        first, second = (float(one.latencies.total().percentiles(percent)[0]) for one in (a, b))
        found = None
        if math.isfinite(first) and math.isfinite(second):
            one, two = (np.log(side.percentiles(percent)) for side in resampled)
            found = draw.estimate(math.log(second / first), two - one)
        yield Measured(mix, f"p{percent}_ms", "ms", -1, first, second, found)


def _counts(mix: MixSeries, name: str) -> Floats:
    found: Floats = getattr(mix, name)
    return found


def _share(over: float, under: float) -> float:
    """At most 1: the first answers of some seconds are to frames that were sent before."""
    return min(over / under, 1.0) if under else math.nan


def _shares(weights: Counts, mix: MixSeries, above: str, below: str) -> Floats:
    steps = weights.shape[1]
    over, under = (weights @ _counts(mix, name)[:steps] for name in (above, below))
    return np.minimum(np.divide(over, under, out=np.full_like(over, np.nan), where=under > 0), 1.0)
