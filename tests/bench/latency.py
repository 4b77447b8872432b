"""Added latency at half load: what the gateway, the broker and MQTT add to an ideal server on the same arrivals.

Eight periodic cameras with random phases send half of what the bare loop can do. The ideal server has the machine's
cores, takes the bare time for each frame, starts it the moment a core is free, and needs no broker: what a frame took
end to end less what it would have taken there is what was added.

The bare time is that of the bare loop on the same arrivals, before and after: on a core that was idle a moment ago
caches are cold and clocks low, and the same call takes longer than back to back. What was added to an ideal server of
the time back to back is given beside it, and what the bare loop itself, fed without a broker, takes beyond the ideal.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.report import Figure, figure
from tests.bench.site import CAMERA, bare, picture, run_json, site

CAMERAS = 8
SECONDS = 15.0
ALIKE = 0.10
"""A slice counts only where the bare time before and after it differs by at most this share: hosts change speed."""
TRIES = 4

Frames = Sequence[tuple[float, float | None]]
"""When each frame was meant to be sent and when its answer came, in seconds."""


def ideal(arrivals: Sequence[float], service_s: float, servers: int) -> list[float]:
    """Latency of each arrival at a first-come-first-served queue with so many servers."""
    free = [0.0] * servers
    found = []
    for arrival in arrivals:
        begins = max(arrival, heapq.heappop(free))
        heapq.heappush(free, begins + service_s)
        found.append(begins + service_s - arrival)
    return found


class Slices:
    """Milliseconds beyond the ideal server at each percentile, one value a slice that counts."""

    def __init__(self) -> None:
        self.added: list[tuple[float, float]] = []
        self.over_hot: list[tuple[float, float]] = []
        self.bare: list[tuple[float, float]] = []
        self.late_ms: list[float] = []
        self.void = self.lost = 0

    def figures(self, note: str) -> Sequence[Figure]:
        late_ms = max(self.late_ms, default=0.0)
        note += f"; {self.void} slices void; p99 of the cameras' own delay {late_ms:.1f} ms at most"
        lost = f"void: {self.lost} frames unanswered, which the percentiles leave out" if self.lost else ""
        return [
            figure("added_latency_p50", [p for p, _ in self.added], "ms", most=2.0, note=note, doubt=lost),
            figure("added_latency_p99", [p for _, p in self.added], "ms", most=8.0, note=note, doubt=lost),
            *(
                figure(f"{name}_p{p}", [pair[n] for pair in pairs], "ms", note=what)
                for name, pairs, what in (
                    ("added_latency_over_hot", self.over_hot, "to an ideal server of the time back to back"),
                    ("added_latency_of_bare", self.bare, "what the bare loop itself takes beyond the ideal"),
                )
                for n, p in enumerate((50, 99))
            ),
        ]


def measure(folder: Path, store: Path, repeats: int) -> Sequence[Figure]:
    image = picture(folder, 640, 480)
    slices = Slices()
    times: list[str] = []
    with site(folder / "latency", CAMERA, store=str(store), model="mobilenet") as (broker, _):
        for seed in range(TRIES * repeats):
            hot = bare("mobilenet", "--image", image, "--seconds", 2)
            rate = f"{float(hot['items_per_s']) / 2 / CAMERAS:.3f}"
            pace = ("--cameras", CAMERAS, "--rate", rate, "--seconds", SECONDS, "--seed", seed)
            before = bare("mobilenet", "--image", image, *pace)
            seen = run_json("tests.bench.cameras", broker.port, image, *pace)
            after = bare("mobilenet", "--image", image, *pace)
            if abs(after["ms"] / before["ms"] - 1) > ALIKE:
                slices.void += 1
                continue
            take(slices, seen, (before, after), hot["ms"])
            times.append(f"{before['ms']:.1f}")
            if len(slices.added) == repeats:
                break
    return slices.figures(
        f"int8 mobilenet_v2, {CAMERAS} cameras at half load, bare time {', '.join(times)} ms"
    )


def take(slices: Slices, seen: dict[str, Any], bares: Sequence[dict[str, Any]], hot_ms: float) -> None:
    """Add a slice that counts: what the cameras saw, and the bare loop before and after it."""
    service_ms = sum(b["ms"] for b in bares) / len(bares)
    slices.lost += sum(came is None for _, came in seen["frames"])
    slices.late_ms.append(seen["late_p99_ms"])
    slices.added.append(_beyond(seen["frames"], service_ms))
    slices.over_hot.append(_beyond(seen["frames"], hot_ms))
    slices.bare += [_beyond(b["frames"], b["ms"]) for b in bares]


def _beyond(frames: Frames, service_ms: float) -> tuple[float, float]:
    """p50 and p99 of the milliseconds that each answered frame took beyond the ideal server's."""
    answered = [(sent, came) for sent, came in frames if came is not None]
    best = ideal([sent for sent, _ in answered], service_ms / 1e3, os.cpu_count() or 1)
    added = [(came - sent - least) * 1e3 for (sent, came), least in zip(answered, best, strict=True)]
    p50, p99 = np.percentile(added, (50, 99))
    return float(p50), float(p99)
