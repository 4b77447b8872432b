"""Sensor windows a second, end to end: generator, broker, gateway and counter on the same cores, on each MQTT client.

640 int8 values a window, ad01_int8 in batches, results at the frame's QoS. QoS 0 runs on a `latest` route with so many
streams that hardly a window is superseded; QoS 1 on an `every` route: journalled, receipted, acknowledged after.
The figure is the most answers a second of a ladder of offered rates.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.bench.report import Figure, figure
from tests.bench.site import SENSOR, generate, site

STREAMS = 1000
SECONDS = 5.0
REACHED = 0.9
CASES = (
    ("qos0", "latest", 0, (5_000, 10_000, 13_000, 16_000), 10_000),
    ("qos1_journalled", "every", 1, (2_500, 5_000, 6_000, 8_000), 5_000),
)
LINKS = ("penstock", "awscrt", "paho")


def measure(folder: Path, store: Path, repeats: int) -> Sequence[Figure]:
    rates: dict[tuple[str, str], list[float]] = {}
    for repeat in range(repeats):
        for case, mode, qos, ladder, _ in CASES:
            for link in LINKS:
                place = folder / f"sensor-{case}-{link}-{repeat}"
                rate = _most(place, store, mode, qos, ladder, link)
                rates.setdefault((case, link), []).append(rate)
    return [
        figure(
            f"windows_{case}_{link}", rates[case, link], "windows/s", least=least if link == "penstock" else None,
            note=f"ad01_int8, 640 B, {STREAMS} streams",
        )
        for case, _, _, _, least in CASES
        for link in LINKS
    ]  # fmt: skip


def _most(folder: Path, store: Path, mode: str, qos: int, ladder: Sequence[int], link: str) -> float:
    """The most answers a second; the ladder ends at a rung that is not reached."""
    best = 0.0
    with site(folder, SENSOR, link, store=str(store), model="anomaly", mode=mode) as (broker, _):
        for rate in ladder:
            found = generate(
                broker, "--streams", STREAMS, "--rate", rate, "--qos", qos,
                "--seconds", SECONDS, "--warmup", 1, "--settle", 20,
            )  # fmt: skip
            best = max(best, float(found["answered_per_s"]))
            if best < REACHED * rate:
                break
    return best
