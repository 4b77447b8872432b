"""`penstock plan` against the truth: what it predicts of five scenarios, and what three runs of each do here.

Everything is calibrated in the same run, and interleaved with what is measured: each round has `penstock model bench` measure the
scenario's models, a run of the same devices at a low load and one at more than the cores can do, which tell what a frame costs
the event loop, the broker and the devices, which share the cores, and how long the way takes, and the run that is to be
predicted. Medians of the rounds are compared. A round counts whose devices kept their times, with little steal, nobody
else on the cores, and the speed of the machine as at the begin.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from penstock_models.measure import BenchReport
from penstock_models.measure import measure as bench
from penstock_sim.load.schedule import merge
from penstock_sim.plan.figures import figures
from penstock_sim.plan.overflow import Where
from penstock_sim.plan.profile import Facts, ModelProfile, Profile
from penstock_sim.plan.simulate import Plan, simulate
from penstock_sim.plan.work import work_of
from penstock_sim.scenario.read import read
from tests.bench.plan_calibration import (
    FULL,
    LOW,
    LOW_SENSOR,
    Cost,
    cost,
    median_report,
    middle,
    of_cameras,
    of_sensors,
)
from tests.bench.plan_load import streams
from tests.bench.plan_site import (
    CAMERA,
    CASES,
    DEVICES,
    HEAD,
    PICTURES,
    SENSOR,
    SENSOR_RATE,
    SIZES,
    THREADS,
    WINDOWS,
    Case,
    Mix,
    load,
)  # fmt: skip
from tests.bench.report import Figure, calibration_ms, figure, steal_s
from tests.bench.site import BROKER, picture
from tests.fakes.broker import Broker, mosquitto
from tests.fakes.gateway import Gateway

SECONDS, LOW_S, BENCH_S = 8.0, 6.0, 2.0
CALIBRATION = 90
"""The first seed of its arrivals."""
ROUNDS, TRIES = 3, 2
AGAIN = 2
"""Attempts at a scenario that turned out void."""
ALIKE, STEAL, FOREIGN = 0.10, 0.01, 0.05
"""How much the speed of the machine may differ, and which shares of its cores others may have."""
THROUGHPUT, P99 = 0.15, 0.25
"""How far a prediction may be off."""
BESIDE_S = 0.0004
"""About what a frame costs beside its model on busy cores."""
DRAWS = 3
"""Simulations of each run's arrivals, for the prediction."""
WANTED = 4
"""Scenarios of which both figures must be predicted."""


class Seen(NamedTuple):
    """A measured run; `seed` is that of its arrivals."""

    seed: int
    answered_per_s: float
    p50_ms: float
    p99_ms: float


class Round(NamedTuple):
    """What was measured next to each other; `full` is the low load for sensors, which have no other."""

    reports: list[BenchReport]
    low: Cost
    full: Cost
    run: Seen


def measure(folder: Path, store: Path, repeats: int) -> Sequence[Figure]:
    here = folder / "plan"
    here.mkdir()
    (here / "pictures").mkdir()
    image = picture(here / "pictures", 640, 480)
    window = here / "window.bin"
    window.write_bytes(np.random.default_rng(1).integers(0, 256, 640, np.uint8).tobytes())
    found: list[Figure] = []
    good = counted = 0
    for case in CASES:
        site = _Case(case, here, store, image, window)
        for _ in range(AGAIN):
            verdict = site.figures()
            if all(one.met is not None for one in verdict):
                break
        found += verdict
        counted += all(one.met is not None for one in verdict)
        good += all(one.met is True for one in verdict)
    doubt = "" if counted == len(CASES) else f"void: {len(CASES) - counted} scenarios were too loud to tell"
    if good >= WANTED:
        doubt = ""
    found.append(figure("plan_scenarios", [good], f"of {len(CASES)}", least=WANTED, doubt=doubt))
    return found


class _Case:
    """One scenario: calibrated, predicted, measured."""

    def __init__(self, case: Case, folder: Path, store: Path, image: Path, window: Path) -> None:
        self._case, self._folder, self._store = case, folder / case.name, store
        self._folder.mkdir()
        (self._folder / "pictures").symlink_to(image.parent)
        self._image, self._window = image, window
        self._sensor = any(mix.sensor for mix in case.mixes)

    def figures(self) -> list[Figure]:
        speed = _speed_ms()
        rounds, void = list[Round](), 0
        with mosquitto(BROKER) as broker:
            config = HEAD.format(url=broker.url, store=self._store, threads=THREADS) + self._routes()
            with Gateway(config, self._folder) as gateway:
                gateway.wait_ready()
                self._write(self._bench())
                while len(rounds) < ROUNDS and void <= TRIES:
                    one = self._round(broker, gateway, len(rounds) + void, speed)
                    if one is None:
                        void += 1
                    else:
                        rounds.append(one)
        doubt = "" if len(rounds) == ROUNDS else f"void: {len(rounds)} of {ROUNDS} rounds were quiet enough"
        return self._compared(rounds, void, doubt)

    def _round(self, broker: Broker, gateway: Gateway, number: int, speed: float) -> Round | None:
        """Measure once; None where the machine or the devices were not as they should."""
        stolen, began = steal_s(), time.monotonic()
        reports = self._bench()
        seed = CALIBRATION + number
        low = cost(*load(broker, gateway, self._file("low"), seed))
        full = low if self._sensor else cost(*load(broker, gateway, self._file("full"), seed))
        now = _speed_ms()
        found, spent = load(broker, gateway, self._file("run"), number)
        loud = steal_s() - stolen > STEAL * THREADS * (time.monotonic() - began)
        if loud or abs(now / speed - 1) > ALIKE or spent.foreign > FOREIGN or not found["on_time"]:
            return None
        latency = found["latency_ms"]
        run = Seen(number, found["answered_per_s"], latency["p50"], latency["p99"])
        return Round(reports, low, full, run)

    def _bench(self) -> list[BenchReport]:
        return [
            bench(
                next(self._store.glob(f"{mix.model}-*.bundle")),
                self._window if mix.sensor else self._image,
                BENCH_S,
                lambda part: None,
                SIZES.get(mix.model, (1, 2, 4)),
                THREADS,
            )
            for mix in self._case.mixes
        ]

    def _routes(self) -> str:
        return "".join(
            (SENSOR if mix.sensor else CAMERA).format(
                model=mix.model, stream=mix.model, deadline=mix.deadline_ms
            )
            for mix in self._case.mixes
        )

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.toml"

    def _write(self, reports: Sequence[BenchReport]) -> None:
        """The scenario, and those of its calibration, for a machine of that speed."""
        total = sum(mix.load for mix in self._case.mixes)
        low = LOW_SENSOR if self._sensor else LOW / total
        for name, share, seconds in (
            ("run", 1.0, SECONDS),
            ("low", low, LOW_S),
            ("full", FULL / total, LOW_S),
        ):
            text = f'name = "{self._case.name}"\n[target]\ngateway = "gateway.toml"\n'
            for mix in self._case.mixes:
                rate = share * mix.load * _capacity(mix, reports) / mix.devices
                text += DEVICES.format(
                    model=mix.model, count=mix.devices, rate=f"{rate:.4f}", arrivals=mix.arrivals,
                    source=WINDOWS if mix.sensor else PICTURES, qos=int(mix.sensor),
                )  # fmt: skip
            self._file(name).write_text(text + f'[[phase]]\nkind = "steady"\nseconds = {seconds}\n')

    def _facts(self, rounds: Sequence[Round], reports: Sequence[BenchReport]) -> Facts:
        seeds = [CALIBRATION + one.run.seed for one in rounds]
        low = middle([one.low for one in rounds])

        def still(facts: Facts) -> dict[str, float]:
            return self._predicted("low", seeds, _profile(reports, facts), draws=1)

        return (
            of_sensors(low, still)
            if self._sensor
            else of_cameras(low, middle([r.full for r in rounds]), still)
        )

    def _predicted(
        self, name: str, seeds: Sequence[int], profile: Profile, draws: int = DRAWS
    ) -> dict[str, float]:
        """Medians over the arrivals of these runs: what chance made of them is not the estimator's to predict."""
        loaded = read(self._file(name))
        runs = []
        for seed in seeds:
            schedules = [stream.schedule for stream in streams(loaded, seed)]
            times, owners = merge(schedules, loaded.load.seconds)
            work = msgspec.structs.replace(work_of(loaded), times=times, owners=owners)
            here: Where = "edge"
            plan = Plan(tuple(route.model for route in work.routes), (here,) * len(work.routes))
            for draw in range(draws):
                outcome = simulate(work, plan, profile, seed=draw)
                took = [seconds for mix in outcome.mixes.values() for seconds in mix.latencies]
                found = figures(outcome, plan, profile, None)[""]
                runs.append({**found, "mean_ms": statistics.fmean(took) * 1e3})
        return {name: statistics.median(run[name] or 0.0 for run in runs) for name in runs[0]}

    def _compared(self, rounds: Sequence[Round], void: int, doubt: str) -> list[Figure]:
        found = []
        seen = [one.run for one in rounds]
        if rounds:
            reports = [median_report(alike) for alike in zip(*(one.reports for one in rounds))]
            facts = self._facts(rounds, reports)
            predicted = self._predicted("run", [run.seed for run in seen], _profile(reports, facts))
        for name, key, values, most in (
            ("throughput", "answered_per_s", [run.answered_per_s for run in seen], THROUGHPUT),
            ("p99", "p99_ms", [run.p99_ms for run in seen], P99),
        ):
            label = f"plan_{self._case.name}_{name}_off"
            if not values:
                found.append(figure(label, [], "of measured", most=most, note=doubt))
                continue
            said, measured = predicted[key], statistics.median(values)
            spread = f"{min(values):.4g} … {max(values):.4g}"
            note = f"predicted {said:.4g}, measured {measured:.4g} [{spread}] {'/s' if key == 'answered_per_s' else 'ms'}"
            if name == "p99":
                note += (
                    f"; p50 {predicted['p50_ms']:.3g} and {statistics.median(run.p50_ms for run in seen):.3g} ms; a frame"
                    f" takes {facts.ingest_ms + facts.publish_ms:.2f} ms of the loop and {facts.beside_ms:.2f} ms beside;"
                    f" {void} rounds void"
                )
            found.append(
                figure(label, [abs(said / measured - 1)], "of measured", most=most, note=note, doubt=doubt)
            )
        return found


def _speed_ms() -> float:
    """The calibration, the best of three: one may have met something."""
    return min(calibration_ms() for _ in range(3))


def _capacity(mix: Mix, reports: Sequence[BenchReport]) -> float:
    """Frames a second that the machine can do: what all threads do by the bench, each frame with about what it costs beside."""
    if mix.sensor:
        return SENSOR_RATE
    report = next(report for report in reports if report.name == mix.model)
    rate = next(row.items_per_s for row in report.rows if row.busy == THREADS and row.batch == 1)
    return THREADS / (THREADS / rate + BESIDE_S)


def _profile(reports: Sequence[BenchReport], facts: Facts) -> Profile:
    return Profile("edge", facts, {report.name: ModelProfile(report, "bench") for report in reports})
