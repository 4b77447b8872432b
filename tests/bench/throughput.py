"""Frames a second of the gateway beside a bare loop and beside the script that a user would write.

Each repeat measures all of them in turn within a few seconds, on the same cores; the ratio is taken inside a repeat,
so that a host that changes its speed moves both sides. The cameras send a tenth more than the bare loop can do, all at
the same moments, so that the generator, which shares the cores, wakes as seldom as it can.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.bench.report import Figure, figure, lateness
from tests.bench.site import BENCH, CAMERA, bare, generate, kit, picture, site, timely
from tests.fakes.broker import Broker

CAMERAS = 8
SLICE_S = 4.0
CASES = (
    ("mobilenet", "640x480 JPEG, int8 mobilenet_v2", (640, 480), 0.90),
    ("vww", "640x480 JPEG, int8 vww", (640, 480), 0.80),
    ("person", "640x480 JPEG, person detector 192", (640, 480), 0.80),
    ("mobilenet", "1920x1080 JPEG, int8 mobilenet_v2", (1920, 1080), None),
)


@contextmanager
def script(recipe: str, broker: Broker, threads: int | None) -> Iterator[None]:
    """The thirty-line script, running."""
    words = [sys.executable, str(BENCH / "script.py"), recipe, str(kit()), str(broker.port)]
    process = subprocess.Popen([*words, *([str(threads)] if threads else [])], stderr=subprocess.DEVNULL)
    try:
        time.sleep(2.0)  # it imports and connects; it has no way to say that it is ready
        yield
    finally:
        process.kill()
        process.wait(10)


class Rates:
    """Answers a second of each side, one a repeat (of the bare loop two), and how many slices had a late generator."""

    def __init__(self) -> None:
        self.sides: dict[str, list[float]] = {}
        self.late: Counter[str] = Counter()

    def bare(self, recipe: str, image: Path) -> float:
        rate = float(bare(recipe, "--image", image, "--seconds", SLICE_S)["items_per_s"])
        self.sides.setdefault("bare", []).append(rate)
        return rate

    def cameras(self, side: str, broker: Broker, site_name: str, image: Path, rate: float) -> None:
        """Take a slice while the cameras send `rate` frames a second."""
        found = timely(
            lambda: generate(
                broker, "--site", site_name, "--streams", CAMERAS, "--rate", round(rate, 1),
                "--seconds", SLICE_S, "--warmup", 1, "--settle", 2, "--image", image, "--in-phase",
            )
        )  # fmt: skip
        self.sides.setdefault(side, []).append(float(found["answered_per_s"]))
        self.late[side] += not found["on_time"]


def measure(folder: Path, store: Path, repeats: int) -> Sequence[Figure]:
    found = []
    for number, (recipe, what, size, least) in enumerate(CASES):
        image = picture(folder, *size)
        rates = Rates()
        with site(folder / f"throughput-{number}", CAMERA, store=str(store), model=recipe) as (broker, _):
            for _ in range(repeats):
                offered = 1.1 * rates.bare(recipe, image)
                rates.cameras("gateway", broker, "home", image, offered)
                rates.bare(recipe, image)  # before and after: a host changes its speed within seconds
                for name, threads in (("script", None), ("script, intra-op 1", 1)):
                    with script(recipe, broker, threads):
                        rates.cameras(name, broker, "script", image, offered)
        found += _figures(f"{recipe}_{size[0]}x{size[1]}", what, rates, least)
    return found


def _figures(name: str, what: str, rates: Rates, least: float | None) -> list[Figure]:
    sides, late = rates.sides, rates.late
    best = max(("script", "script, intra-op 1"), key=lambda side: sum(sides[side]))
    note = f"{what}; " + ", ".join(f"{side} {sum(v) / len(v):.1f}/s" for side, v in sides.items())
    bares = [
        (before + after) / 2 for before, after in zip(sides["bare"][::2], sides["bare"][1::2], strict=True)
    ]
    over_bare = [g / b for g, b in zip(sides["gateway"], bares, strict=True)]
    over_script = [g / s for g, s in zip(sides["gateway"], sides[best], strict=True)]
    return [
        figure(f"{name}_over_bare", over_bare, "×", least=least, note=note, doubt=lateness(late["gateway"])),
        figure(
            f"{name}_over_script",
            over_script,
            "×",
            least=1.5 if least else None,
            note=f"the better one: {best}",
            doubt=lateness(late["gateway"] + late[best]),
        ),
    ]
