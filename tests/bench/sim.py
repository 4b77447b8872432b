"""The load generator by itself: what it costs, what it can send, how well it keeps its times, what a device weighs.

It sends to a Mosquitto on the same machine that nobody listens to, so the broker's work is in the maximum too. A rate
counts as kept where the generator was on time and nothing waited for the broker at the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from penstock_sim.run.records import Row, Summary, Writer, load
from penstock_sim.run.run import Run
from penstock_sim.scenario import read
from tests.bench.report import Figure, calibration_ms, figure
from tests.fakes.broker import Broker, mosquitto
from tests.fakes.sim_runs import Watcher

SIZES = {"200b": 200, "50kb": 50_000, "500kb": 500_000}
FIRST = {"200b": 4000, "50kb": 500, "500kb": 50}
"""Frames a second to begin with."""

DEVICES = 100
PROBE_S, STEADY_S = 4, 10
TOLERANCE = 0.1
TRIES = 3
IDLE = 2500
"""Devices of one worker process."""

MANY, MANY_RATE = 10_000, 5000

SCENARIO = """
name = "generator"
[target]
url = "{url}"
[[device]]
name = "d"
count = {devices}
[[device.stream]]
source = {{ kind = "bytes", size = {size} }}
rate_hz = {rate}
arrivals = "poisson"
[[phase]]
kind = "steady"
seconds = {seconds}
"""

BROKER = "max_queued_messages 1000\nset_tcp_nodelay true\nallow_anonymous true"


class Sent:
    """What came of a run."""

    def __init__(self, summary: Summary, rows: Sequence[Row], rate: float) -> None:
        self.figures = summary.figures[""]
        self.seconds = summary.seconds
        self.rows = rows
        used = sum(row.processes["generator"].cpu for row in rows[1:-1])
        self.cost_us = used / max(1, sum(row.mixes["d"].sent for row in rows[1:-1])) * 1e6
        self.rss_mb = max(row.processes["generator"].rss_mb for row in rows)
        self.rate = (self.figures["sent"] or 0) / summary.seconds
        held = rows[int(summary.seconds) - 1].held
        self.kept = summary.on_time and held < rate / 20 and self.rate > 0.97 * rate
        self.timing_ms = self.figures["sent_lag_p99_ms"] or 0.0


def send(folder: Path, broker: Broker, size: int, devices: int, rate: float, seconds: float) -> Sent:
    file = folder / "generator.toml"
    each = max(1e-4, rate / devices)
    file.write_text(
        SCENARIO.format(url=broker.url, devices=devices, size=size, rate=f"{each:.6f}", seconds=seconds)
    )
    loaded = read(file)
    number = len(list(folder.glob("run-*")))
    writer = Writer(folder / f"run-{number}", loaded.text)
    summary = asyncio.run(Run(loaded, writer, Watcher()).go())
    return Sent(summary, load(writer.folder).rows, rate)


def highest(folder: Path, broker: Broker, size: int, first: float) -> float:
    """The highest rate that is kept, within `TOLERANCE`; a probe may be lucky, so it is kept for `STEADY_S` then."""
    kept, lost, rate = 0.0, None, first
    while lost is None or lost > kept * (1 + TOLERANCE):
        if send(folder, broker, size, DEVICES, rate, PROBE_S).kept:
            kept = rate
        else:
            lost = rate
        if lost is not None and lost < 1:
            return 0.0
        rate = 2 * rate if lost is None else (kept + lost) / 2
    while kept > 1 and not send(folder, broker, size, DEVICES, kept, STEADY_S).kept:
        kept *= 1 - TOLERANCE
    return kept


def paired(folder: Path, broker: Broker, size: int, first: float) -> tuple[float, Sent]:
    """The highest rate, and a run at 80 % of it; another try where the machine changed its speed in between."""
    for _ in range(TRIES):
        before = calibration_ms()
        most = highest(folder, broker, size, first)
        sent = send(folder, broker, size, DEVICES, 0.8 * most, STEADY_S)
        if abs(calibration_ms() / before - 1) <= TOLERANCE:
            break
    return most, sent


def measure(folder: Path, store: Path, repeats: int) -> Sequence[Figure]:
    folder = folder / "sim"
    folder.mkdir()
    maxima: dict[str, list[float]] = {name: [] for name in SIZES}
    steady: dict[str, list[Sent]] = {name: [] for name in SIZES}
    idle, many = [], []
    with mosquitto(BROKER, folder=folder) as broker:
        for _ in range(repeats):
            for name, size in SIZES.items():
                most, sent = paired(folder, broker, size, FIRST[name])
                maxima[name].append(most)
                steady[name].append(sent)
            idle.append(weight_kb(folder, broker))
            crowd = send(folder, broker, 200, MANY, MANY_RATE, STEADY_S)
            many.append(crowd.rate if crowd.kept else 0.0)
    cost = [sent.cost_us for sent in steady["200b"]]
    found = [
        figure("sim_cost", cost, "µs of CPU a frame", note="200 B at QoS 0, at 80 % of the highest rate")
    ]
    for name, size in SIZES.items():
        note = f"{size} B from {DEVICES} devices, to a Mosquitto on the same cores"
        found.append(figure(f"sim_rate_{name}", maxima[name], "frames/s", note=note))
        note = f"p99 of sent minus intended time, at 80 % of sim_rate_{name}"
        timing = [sent.timing_ms for sent in steady[name]]
        found.append(figure(f"sim_timing_{name}", timing, "ms", most=2.0, note=note))
    found.append(figure("sim_idle_device", idle, "kB", most=30.0, note=f"of {IDLE} connected devices"))
    note = f"{MANY} connected devices, 200 B, asked for {MANY_RATE}/s"
    found.append(figure("sim_10000_devices", many, "frames/s", least=0.97 * MANY_RATE, note=note))
    return found


def weight_kb(folder: Path, broker: Broker) -> float:
    """What a device more takes in memory, from many and from few of them in one process."""
    few, much = (send(folder, broker, 200, count, count * 0.01, 3) for count in (10, IDLE))
    return (much.rss_mb - few.rss_mb) * 1e3 / (IDLE - 10)
