"""When periodic cameras with random phases send: the same moments for the gateway's cameras and for the bare loop."""

from __future__ import annotations

import random


def phases(cameras: int, period_s: float, seed: int) -> list[float]:
    """Seconds from the start to each camera's first frame."""
    source = random.Random(seed)
    return [source.uniform(0, period_s) for _ in range(cameras)]


def arrivals(cameras: int, period_s: float, seconds: float, seed: int) -> list[float]:
    """Seconds from the start to every frame of all cameras, in order."""
    return sorted(
        phase + n * period_s
        for phase in phases(cameras, period_s, seed)
        for n in range(int(seconds / period_s))
    )
