"""Sensor windows a second, end to end: generator, broker, gateway and counter on the same cores, on each MQTT client.

640 int8 values a window, ad01_int8 in batches, results at the frame's QoS. QoS 0 runs on a `latest` route with so many
streams that hardly a window is superseded; QoS 1 on an `every` route: journalled, receipted, acknowledged after.
The figure is the most answers a second of a ladder of offered rates. Generator and gateway share the cores: a generator
that falls behind its schedule offers less, so what was answered then is a lower bound, and the note says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.bench.report import Figure, figure
from tests.bench.site import SENSOR, generate, site

STREAMS = 1000
SECONDS = 5.0
REACHED = 0.9
CASES = (
    ("qos0", "latest", 0, (5_000, 10_000, 12_000, 14_000, 16_000), 10_000),
    ("qos1_journalled", "every", 1, (2_500, 5_000, 6_000, 8_000), 5_000),
)
LINKS = ("penstock", "awscrt", "paho")


def measure(folder: Path, store: Path, repeats: int) -> Sequence[Figure]:
    rungs: dict[tuple[str, str], list[Rung]] = {}
    for repeat in range(repeats):
        for case, mode, qos, ladder, _ in CASES:
            for link in LINKS:
                place = folder / f"sensor-{case}-{link}-{repeat}"
                rungs.setdefault((case, link), []).append(_most(place, store, mode, qos, ladder, link))
    return [
        figure(
            f"windows_{case}_{link}", [rung.per_s for rung in rungs[case, link]], "windows/s",
            least=least if link == "penstock" else None, note=_note(rungs[case, link]),
        )
        for case, _, _, _, least in CASES
        for link in LINKS
    ]  # fmt: skip


def _note(rungs: Sequence[Rung]) -> str:
    late = sum(not rung.on_time for rung in rungs)
    bound = f"; the generator was late in {late} of {len(rungs)}, so at least" if late else ""
    return f"ad01_int8, 640 B, {STREAMS} streams{bound}"


class Rung(NamedTuple):
    """Answers a second at one offered rate, and whether the generator kept its schedule."""

    per_s: float
    on_time: bool


def _most(folder: Path, store: Path, mode: str, qos: int, ladder: Sequence[int], link: str) -> Rung:
    """The best rung; the ladder ends at one that is not reached."""
    best = Rung(0.0, True)
    with site(folder, SENSOR, link, store=str(store), model="anomaly", mode=mode) as (broker, _):
        for rate in ladder:
            found = generate(
                broker, "--streams", STREAMS, "--rate", rate, "--qos", qos,
                "--seconds", SECONDS, "--warmup", 1, "--settle", 20,
            )  # fmt: skip
            best = max(best, Rung(float(found["answered_per_s"]), found["on_time"]))
            if best.per_s < REACHED * rate:
                break
    return best
