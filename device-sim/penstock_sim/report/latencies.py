"""The latencies of many seconds as one matrix of counts: percentiles over any of the seconds are then sums. Pure.

Bins are 0.5 % wide on a logarithmic scale, from a microsecond on; within a bin a percentile is interpolated. That is
coarser than what a run has written (0.1 %), and fine enough to see half a per cent.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Sequence

import numpy as np
from hdrh.codec import HdrCookieException, HdrLengthException
from hdrh.histogram import HdrHistogram
from numpy.typing import NDArray

from penstock_models.errors import UsageError

WIDTH = 0.005
"""Of a bin, as a difference of natural logarithms."""

Floats = NDArray[np.float64]
Counts = NDArray[np.float32]

_BROKEN = (HdrCookieException, HdrLengthException, zlib.error, ValueError, RuntimeError)


class Latencies:
    """`counts` has a row for each step of time and a column for each bin; the first column is bin `first`."""

    def __init__(self, first: int, counts: Counts) -> None:
        self.first, self.counts = first, counts

    def total(self) -> Latencies:
        """All steps as one."""
        return Latencies(self.first, self.counts.sum(axis=0, keepdims=True))

    def head(self, steps: int) -> Latencies:
        """The first steps alone."""
        return Latencies(self.first, self.counts[:steps])

    def weighted(self, weights: Counts) -> Latencies:
        """Sums of the steps: a row for each row of `weights` (rows × steps)."""
        return Latencies(self.first, weights @ self.counts)

    def percentiles(self, percent: float) -> Floats:
        """That percentile of each row, in milliseconds; NaN where a row is empty."""
        if not self.counts.shape[1]:
            return np.full(len(self.counts), np.nan)
        sums = self._sums
        wanted = sums[:, -1] * percent / 100.0
        column = np.minimum((sums < wanted[:, None]).sum(axis=1), sums.shape[1] - 1)
        rows = np.arange(len(sums))
        there = self.counts[rows, column].astype(np.float64)
        over = np.divide(sums[rows, column] - wanted, there, out=np.zeros_like(there), where=there > 0)
        found: Floats = np.exp((self.first + column + 1 - over) * WIDTH) / 1000.0
        found[sums[:, -1] <= 0] = np.nan
        return found

    @functools.cached_property
    def _sums(self) -> Floats:
        """Of each row, how many values are in a bin or below it."""
        return self.counts.cumsum(axis=1, dtype=np.float64)


def collect(steps: Sequence[Sequence[str]]) -> Latencies:
    """The histograms of each step (HdrHistogram V2, compressed, base64; "" for none), added.

    Raises:
        UsageError: one of them is no histogram.
    """
    found = [(number, *_binned(text)) for number, texts in enumerate(steps) for text in texts if text]
    if not found:
        return Latencies(0, np.zeros((len(steps), 0), np.float32))
    first = min(int(bins[0]) for _, bins, _ in found)
    last = max(int(bins[-1]) for _, bins, _ in found)
    counts = np.zeros((len(steps), last - first + 1), np.float32)
    for number, bins, times in found:
        np.add.at(counts[number], bins - first, times)
    return Latencies(first, counts)


def _binned(text: str) -> tuple[NDArray[np.int64], Counts]:
    """The occupied bins of a histogram, ascending, and how often each was hit."""
    try:
        histogram = HdrHistogram.decode(text)
    except _BROKEN as error:
        raise UsageError(f"expected a histogram of latencies, came {text[:20]!r}…: {error}") from None
    counts = np.ctypeslib.as_array(histogram.counts)
    index = np.flatnonzero(counts)
    if not len(index):
        raise UsageError(f"expected a histogram with values, came an empty one: {text[:20]!r}…")
    bins = _bin_of(histogram.counts_len, histogram.sub_bucket_half_count_magnitude, histogram.unit_magnitude)
    return bins[index], counts[index].astype(np.float32)


@functools.lru_cache(maxsize=8)
def _bin_of(size: int, half: int, unit: int) -> NDArray[np.int64]:
    """The bin of each index of a histogram of this layout, by the middle of the values that share the index.

    Args:
        size: how many indices it has.
        half, unit: magnitudes (powers of two) of half a sub-bucket count, and of its unit.
    """
    index = np.arange(size, dtype=np.int64)
    bucket = (index >> half) - 1
    within = (index & ((1 << half) - 1)) + (1 << half)
    within = np.where(bucket < 0, within - (1 << half), within)
    scale = np.maximum(bucket, 0) + unit
    middle = np.ldexp(within + 0.5, scale) - 0.5
    bins: NDArray[np.int64] = np.floor(np.log(np.maximum(middle, 1.0)) / WIDTH).astype(np.int64)
    return bins
