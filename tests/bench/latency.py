"""Added latency at half load: what the gateway, the broker and MQTT add to an ideal server on the same arrivals.

Eight periodic cameras with random phases send half of what the bare loop can do. The ideal server has the machine's
cores, takes the bare time for each frame, starts it the moment a core is free, and needs no broker: what a frame took
end to end less what it would have taken there is what was added.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.bench.report import Figure, figure
from tests.bench.site import CAMERA, bare, picture, run_json, site

CAMERAS = 8
SECONDS = 15.0
ALIKE = 0.10
"""A slice counts only where the bare time before and after it differs by at most this share: hosts change speed."""
TRIES = 4


def ideal(arrivals: Sequence[float], service_s: float, servers: int) -> list[float]:
    """Latency of each arrival at a first-come-first-served queue with so many servers."""
    free = [0.0] * servers
    found = []
    for arrival in arrivals:
        begins = max(arrival, heapq.heappop(free))
        heapq.heappush(free, begins + service_s)
        found.append(begins + service_s - arrival)
    return found


def measure(folder: Path, store: Path, repeats: int) -> Sequence[Figure]:
    image = picture(folder, 640, 480)
    p50, p99, void, lost = [], [], 0, 0
    with site(folder / "latency", CAMERA, store=str(store), model="mobilenet") as (broker, _):
        before = bare("mobilenet", "--image", image, "--seconds", 2)
        for attempt in range(TRIES * repeats):
            rate = float(before["items_per_s"]) / 2 / CAMERAS
            seen = run_json(
                "tests.bench.cameras", broker.port, image, "--rate", f"{rate:.3f}",
                "--seconds", SECONDS, "--cameras", CAMERAS, "--seed", attempt,
            )  # fmt: skip
            after = bare("mobilenet", "--image", image, "--seconds", 2)
            alike = abs(after["ms"] / before["ms"] - 1) <= ALIKE
            service_s = (before["ms"] + after["ms"]) / 2e3
            before = after
            if not alike:
                void += 1
                continue
            added = _added(seen, service_s)
            lost += sum(came is None for _, came in seen)
            p50.append(float(np.percentile(added, 50)))
            p99.append(float(np.percentile(added, 99)))
            if len(p50) == repeats:
                break
    note = f"int8 mobilenet_v2, {CAMERAS} cameras at half load; {void} slices void, {lost} frames unanswered"
    return [
        figure("added_latency_p50", p50, "ms", most=2.0, note=note),
        figure("added_latency_p99", p99, "ms", most=8.0, note=note),
    ]


def _added(seen: Sequence[tuple[float, float | None]], service_s: float) -> list[float]:
    """Milliseconds that each answered frame took beyond the ideal server's."""
    answered = [(sent, came) for sent, came in seen if came is not None]
    best = ideal([sent for sent, _ in answered], service_s, os.cpu_count() or 1)
    return [(came - sent - least) * 1e3 for (sent, came), least in zip(answered, best, strict=True)]
