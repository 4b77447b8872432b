"""What a benchmark says: one line a figure on the terminal, and build/bench.json for machines."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

BUILD = Path(__file__).resolve().parents[2] / "build"


class Figure(msgspec.Struct, frozen=True):
    """One measured figure. `met` is None where there is no aim or no valid measurement; `spread` is (min, max) of its
    repeats, None where it was measured once."""

    name: str
    value: float | None
    unit: str
    aim: str
    met: bool | None
    spread: tuple[float, float] | None
    note: str


def figure(
    name: str,
    values: Sequence[float],
    unit: str,
    *,
    least: float | None = None,
    most: float | None = None,
    note: str = "",
    doubt: str = "",
) -> Figure:
    """A figure from its repeats: the median, held against an aim where there is one and nothing to doubt."""
    aim = f"≥ {least:g}" if least is not None else f"≤ {most:g}" if most is not None else ""
    if not values:
        return Figure(name, None, unit, aim, None, None, note or "no valid measurement")
    value = statistics.median(values)
    met = value >= least if least is not None else value <= most if most is not None else None
    spread = (round(min(values), 4), round(max(values), 4)) if len(values) > 1 else None
    if doubt:
        met, note = None, f"{note}; {doubt}" if note else doubt
    return Figure(name, round(value, 4), unit, aim, met, spread, note)


def lateness(late: int) -> str:
    """What is to be doubted about a figure of which so many slices had a late generator."""
    return f"void: the generator was late in {late} of the slices" if late else ""


def show(found: Figure) -> str:
    value = "void" if found.value is None else f"{found.value:g} {found.unit}"
    spread = f" [{found.spread[0]:g} … {found.spread[1]:g}]" if found.spread else ""
    verdict = {True: "met", False: "MISSED", None: "-"}[found.met]
    return f"{found.name}: {value}{spread}  aim {found.aim or 'none'}: {verdict}  {found.note}".rstrip()


def write(figures: Sequence[Figure]) -> Path:
    """Replace the figures of these names in build/bench.json, keep the others."""
    path = BUILD / "bench.json"
    BUILD.mkdir(exist_ok=True)
    known: dict[str, Figure] = {}
    if path.exists():
        known = {f.name: f for f in msgspec.json.decode(path.read_bytes(), type=list[Figure])}
    known |= {f.name: f for f in figures}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(list(known.values())), indent=1) + b"\n")
    return path


def calibration_ms() -> float:
    """Milliseconds of a fixed piece of pure Python: how fast the host is right now."""
    began = time.process_time()
    table = {}
    for i in range(300_000):
        table[i & 1023] = i ^ (i >> 3)
    return (time.process_time() - began) * 1e3


def steal_s() -> float:
    """Seconds that the hypervisor gave to somebody else, over all cores, since boot."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return int(fields[8]) / os.sysconf("SC_CLK_TCK")


def busy_s() -> float:
    """Processor seconds that were not idle, over all cores, since boot: everybody's, the hypervisor's too."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")
