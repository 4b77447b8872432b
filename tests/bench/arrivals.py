"""When periodic cameras with random phases send: the same moments for the gateway's cameras and for the bare loop."""

from __future__ import annotations

import random


def arrivals(cameras: int, period_s: float, seconds: float, seed: int) -> list[tuple[float, int]]:
    """Every frame of all cameras, in order: (seconds from the start, which camera)."""
    source = random.Random(seed)
    phases = [source.uniform(0, period_s) for _ in range(cameras)]
    return sorted(
        (phase + n * period_s, camera)
        for camera, phase in enumerate(phases)
        for n in range(int(seconds / period_s))
    )
