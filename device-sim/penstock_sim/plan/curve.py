"""How long something takes, as its quantiles. Pure."""

from __future__ import annotations

from bisect import bisect_right

from penstock_models.measure import QUANTILES

Curve = tuple[float, ...]
"""Seconds at `QUANTILES`."""

_MIDDLE = QUANTILES.index(0.5)


def mean(curve: Curve) -> float:
    """The average of a distribution whose quantiles are joined by straight lines."""
    parts = zip(QUANTILES, QUANTILES[1:], curve, curve[1:])
    return sum((after - before) * (low + high) / 2 for before, after, low, high in parts)


def middle(curve: Curve) -> float:
    """What half of the runs take at most."""
    return curve[_MIDDLE]


def at(curve: Curve, share: float) -> float:
    """What `share` (0 to 1) of the runs take at most."""
    place = bisect_right(QUANTILES, share)
    if place >= len(curve):
        return curve[-1]
    below = QUANTILES[place - 1]
    low = curve[place - 1]
    return low + (curve[place] - low) * (share - below) / (QUANTILES[place] - below)


def between(one: Curve, other: Curve, share: float) -> Curve:
    """The distribution that lies between two, by `share` at the other."""
    return one if share == 0.0 else tuple(a + (b - a) * share for a, b in zip(one, other))
