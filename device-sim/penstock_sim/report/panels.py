"""What is plotted of a run: panels of lines over time, and the faults as bands. Pure; how it looks belongs to `plots`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from penstock_gateway.ledger import BUCKETS
from penstock_sim.report.latencies import Floats
from penstock_sim.report.series import MixSeries, Series
from penstock_sim.run.records import Event, Row

MOST_MIXES = 6
"""More have no panel of their own: those that were answered most do."""

MOST_FATES = 8
MOST_BANDS = 200

# Okabe and Ito's palette, which people with any colour blindness tell apart, with its blue and black made lighter for
# dark pages; lines differ in their dashes too.
BLACK, ORANGE, SKY, GREEN, BLUE, VERMILION, PURPLE, GREY = (
    "#888888", "#e69f00", "#56b4e9", "#009e73", "#2a85c7", "#d55e00", "#cc79a7", "#999999",
)  # fmt: skip
_PERCENTILES = ((50, SKY, "dot"), (95, ORANGE, "dash"), (99, VERMILION, "solid"))
_STATUSES = {
    "ok": GREEN, "degraded": SKY, "unchanged": GREY, "expired": ORANGE, "rejected": PURPLE, "failed": VERMILION,
}  # fmt: skip
_BUCKETS = _STATUSES | {"answered": GREEN, "superseded": BLUE, "duplicate": SKY, "dropped": BLACK}
_PROCESSES = (("gateway", BLUE, "solid"), ("broker", ORANGE, "dash"), ("generator", GREY, "dot"))
_RUNS = (("A", BLUE, "solid"), ("B", VERMILION, "dash"))


class Line(msgspec.Struct, frozen=True):
    """`y` over `x` (s since the load's begin); NaN is a hole."""

    name: str
    x: Floats
    y: Floats
    colour: str
    dash: str = "solid"
    pale: float = 0.0
    """How much of the page shines through a filled line: for the second and third of a colour."""


class Panel(msgspec.Struct, frozen=True):
    title: str
    unit: str
    lines: tuple[Line, ...]
    log: bool = False
    stacked: bool = False


class Band(msgspec.Struct, frozen=True):
    """A fault on the time line, in seconds; one without length is a moment."""

    begin_s: float
    end_s: float
    kind: str
    text: str


def of_run(series: Series) -> list[Panel]:
    """All panels of one run, from the top down; those without any value are left out."""
    found = [
        *_latencies(series), _throughput(series), _fates(series), _settled(series), _queue(series),
        _of_processes(series, "cpu", "CPU", "cores"), _of_processes(series, "rss_mb", "memory", "MB"),
        _of_processes(series, "network", "network, both ways", "kB/s"),
        Panel("connected", "devices", (_gauge(series, "connected", "connected", BLUE),)),
        Panel("temperature", "°C", (_gauge(series, "celsius", "gateway", VERMILION),)),
        Panel("frequency of the cores", "of the highest", (_gauge(series, "frequency_ratio", "gateway", BLUE),)),
    ]  # fmt: skip
    return [panel for panel in (_shown(panel) for panel in found) if panel.lines]


def of_two(a: Series, b: Series) -> list[Panel]:
    """The panels in which two runs lie over each other: A and B by colour, what it is by dash."""
    found = [
        Panel(f"latency of {name}", "ms", tuple(_both(a, b, name)), log=True) for name in shown_mixes(a, b)
    ]
    rates = [
        Line(run, series.at_s, series.rate(_sum(series, "answered")), colour, dash)
        for (run, colour, dash), series in zip(_RUNS, (a, b))
    ]
    found.append(Panel("answered", "a second", tuple(rates)))
    for title, unit, gauge in (
        ("waiting in the gateway", "frames", "waiting"),
        ("CPU of the gateway", "cores", "gateway_cpu"),
        ("memory of the gateway", "MB", "gateway_rss_mb"),
    ):
        lines = [
            _gauge(series, gauge, run, colour, dash) for (run, colour, dash), series in zip(_RUNS, (a, b))
        ]
        found.append(Panel(title, unit, tuple(lines)))
    return [panel for panel in (_shown(panel) for panel in found) if panel.lines]


def bands(events: Sequence[Event], end_s: float) -> list[Band]:
    """Faults from their begin to their end; one that did not end lasts until `end_s`."""
    found: list[Band] = []
    opened: dict[tuple[str, str], list[float]] = {}
    for event in events:
        key = event.kind, event.text
        if event.kind in ("stage", "warning"):
            continue
        if event.begins:
            opened.setdefault(key, []).append(event.at_s)
        elif opened.get(key):
            found.append(Band(opened[key].pop(0), event.at_s, *key))
    found += [Band(at, max(at, end_s), *key) for key, begun in opened.items() for at in begun]
    return sorted(found, key=lambda band: band.begin_s)[:MOST_BANDS]


def shown_mixes(*runs: Series) -> list[str]:
    """The mixes of all runs with a panel of their own, in the scenario's order."""
    there = [name for name in runs[0].mixes if all(name in run.mixes for run in runs)]
    most = sorted(there, key=lambda name: -runs[0].mixes[name].answered.sum())[:MOST_MIXES]
    return [name for name in there if name in most]


def end_of(rows: Sequence[Row]) -> float:
    """When the last second was over."""
    return max((row.second + 1.0 for row in rows), default=0.0)


def _latencies(series: Series) -> Iterator[Panel]:
    for name in shown_mixes(series):
        found = series.mixes[name].latencies
        lines = tuple(
            Line(f"p{percent}", series.at_s, found.percentiles(percent), colour, dash)
            for percent, colour, dash in _PERCENTILES
        )
        yield Panel(f"latency of {name}", "ms", lines, log=True)


def _both(a: Series, b: Series, name: str) -> Iterator[Line]:
    for (run, colour, _), series in zip(_RUNS, (a, b)):
        for percent, dash in ((50, "dot"), (99, "solid")):
            y = series.mixes[name].latencies.percentiles(percent)
            yield Line(f"{run} p{percent}", series.at_s, y, colour, dash)


def _throughput(series: Series) -> Panel:
    lines = tuple(
        Line(name, series.at_s, series.rate(_sum(series, name)), colour, dash)
        for name, colour, dash in (
            ("sent", GREY, "dot"), ("answered", GREEN, "solid"), ("late", VERMILION, "dash"),
        )
    )  # fmt: skip
    return Panel("throughput", "a second", lines)


def _fates(series: Series) -> Panel:
    """Results a second by fate; the rarest beyond a legend's length are one."""
    totals: dict[str, Floats] = {}
    for mix in series.mixes.values():
        for fate, counts in mix.fates.items():
            totals[fate] = totals.get(fate, 0.0) + counts
    order = list(_STATUSES)
    often = sorted(totals, key=lambda fate: -float(totals[fate].sum()))
    kept = sorted(often[:MOST_FATES], key=lambda f: (order.index(s) if (s := _status(f)) in order else 99, f))
    seen: dict[str, int] = {}
    lines = []
    for fate in kept:
        status = _status(fate)
        again = seen[status] = seen.get(status, -1) + 1
        colour = _STATUSES.get(status, BLACK)
        lines.append(Line(fate, series.at_s, series.rate(totals[fate]), colour, pale=min(0.7, 0.35 * again)))
    if rest := often[MOST_FATES:]:
        counts = np.sum([totals[fate] for fate in rest], axis=0)
        lines.append(Line(f"{len(rest)} others", series.at_s, series.rate(counts), BLACK))
    return Panel("results by fate", "a second", tuple(lines), stacked=True)


def _settled(series: Series) -> Panel:
    """What the gateway's ledger counted, with the fates that no device hears of."""
    lines = tuple(
        _gauge(series, f"settled_{bucket}", bucket, _BUCKETS[bucket])
        for bucket in BUCKETS
        if np.nansum(series.gauges.get(f"settled_{bucket}", _nothing(series))) > 0
    )
    return Panel("frames settled in the gateway by fate", "a second", lines, stacked=True)


def _status(fate: str) -> str:
    return fate.partition(":")[0]


def _queue(series: Series) -> Panel:
    lines = (
        _gauge(series, "waiting", "waiting in the gateway", BLUE),
        _gauge(series, "in_flight", "in flight", SKY, "dash"),
        _gauge(series, "held", "held by devices", ORANGE, "dot"),
    )
    return Panel("queue", "frames", lines)


def _of_processes(series: Series, key: str, title: str, unit: str) -> Panel:
    lines = tuple(_gauge(series, f"{name}_{key}", name, colour, dash) for name, colour, dash in _PROCESSES)
    return Panel(title, unit, lines)


def _gauge(series: Series, gauge: str, name: str, colour: str, dash: str = "solid") -> Line:
    return Line(name, series.at_s, series.gauges.get(gauge, _nothing(series)), colour, dash)


def _nothing(series: Series) -> Floats:
    return np.full(len(series.at_s), np.nan)


def _sum(series: Series, name: str) -> Floats:
    """A count of `MixSeries`, over all mixes."""
    total = np.zeros(len(series.at_s))
    for mix in series.mixes.values():
        total += _count(mix, name)
    return total


def _count(mix: MixSeries, name: str) -> Floats:
    found: Floats = getattr(mix, name)
    return found


def _shown(panel: Panel) -> Panel:
    """Without the lines that have no value."""
    lines = tuple(line for line in panel.lines if np.isfinite(line.y).any())
    return msgspec.structs.replace(panel, lines=lines)
