"""How sure a difference between two runs is: a bootstrap over blocks of seconds. Pure.

Seconds of one run are no independent draws: a queue that is long now is long in a second. So whole blocks are drawn
(Künsch, Annals of Statistics 17, 1989), on a circle so that the first and last seconds count as much as the others
(Politis and Romano, 1992). Of n steps a block has 2·√n, and the normal quantile gives way to Student's with 1.5·n/length
degrees of freedom: long blocks with the wider quantile hold their error rate under autocorrelation where short ones with
the normal quantile do not (Lazarus, Lewis, Stock and Watson, JBES 36, 2018; measured in decision 019).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np

from penstock_sim.report.latencies import Counts, Floats

RESAMPLES = 1000
LEVEL = 0.05
POWER = 0.8

SHORTEST_BLOCK = 5
FEWEST_BLOCKS = 3
"""Where the run is long enough for them; below that the blocks are the shortest."""


class Estimate(msgspec.Struct, frozen=True):
    """A difference with its standard error, and the degrees of freedom that the error rests on."""

    difference: float
    error: float
    freedom: int

    @property
    def p(self) -> float:
        """How likely so large a difference is, either way, where there is none."""
        if not self.error:
            return 0.0 if self.difference else 1.0
        return 2.0 * (1.0 - t_below(abs(self.difference) / self.error, self.freedom))

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, of this difference by itself."""
        reach = t_quantile(1 - LEVEL / 2, self.freedom) * self.error
        return self.difference - reach, self.difference + reach

    def seen(self, comparisons: int) -> float:
        """How large a difference would have been found in four runs of five, among so many comparisons."""
        strict = t_quantile(1 - LEVEL / 2 / max(1, comparisons), self.freedom)
        return (strict + t_quantile(POWER, self.freedom)) * self.error


def block_length(steps: int) -> int:
    return max(SHORTEST_BLOCK, min(math.ceil(2 * math.sqrt(steps)), steps // FEWEST_BLOCKS))


def drawn(random: np.random.Generator, steps: int, length: int) -> Counts:
    """How often each step is in each resample: RESAMPLES × steps, every row sums to `steps`."""
    blocks = -(-steps // length)
    begins = random.integers(0, steps, (RESAMPLES, blocks))
    chosen = ((begins[..., None] + np.arange(length)) % steps).reshape(RESAMPLES, -1)[:, :steps]
    flat = (chosen + np.arange(RESAMPLES)[:, None] * steps).ravel()
    return np.bincount(flat, minlength=RESAMPLES * steps).reshape(RESAMPLES, steps).astype(np.float32)


def estimate(difference: float, resampled: Floats, steps: int, length: int) -> Estimate:
    """From the difference in the runs themselves and in each resample; resamples without a value are left out."""
    blocks = max(2.0, steps / length)
    there = resampled[np.isfinite(resampled)]
    spread = float(there.std(ddof=1)) if len(there) > 1 else math.inf
    return Estimate(difference, spread * math.sqrt(blocks / (blocks - 1)), int(1.5 * blocks))


def holm(ps: Sequence[float]) -> list[float]:
    """P-values corrected for their number (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    corrected, highest = [0.0] * len(ps), 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=lambda n: ps[n])):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[place]))
        corrected[place] = highest
    return corrected


def t_below(t: float, freedom: int) -> float:
    """Student's distribution function at t ≥ 0 (Abramowitz and Stegun, 26.7.3 and 26.7.4: exact, a finite sum)."""
    angle = math.atan(t / math.sqrt(freedom))
    cos, odd = math.cos(angle), freedom % 2
    term = total = cos if odd else 1.0
    for n in range(2 + odd, freedom - 1, 2):
        term *= cos * cos * (n - 1) / n
        total += term
    if odd:
        inside = angle + (math.sin(angle) * total if freedom > 1 else 0.0)
        return 0.5 + inside / math.pi
    return 0.5 + math.sin(angle) * total / 2


def t_quantile(p: float, freedom: int) -> float:
    """Where Student's distribution function is `p`, from 0.5 to below 1."""
    low, high = 0.0, 1.0
    while t_below(high, freedom) < p:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if t_below(middle, freedom) < p else (low, middle)
    return high
