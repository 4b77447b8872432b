"""`penstock plan` against the truth: what it predicts of five scenarios, and what three runs of each do here.

Everything is calibrated in the same run: before a scenario `penstock model bench` measures its models; a run of the same devices
at more than the cores can do tells what a frame costs the event loop, the broker and the devices, which share the cores, and a run
at a low rate what it costs on cores that were idle, and how long the way takes. After the scenario the bench is taken again: where the machine is another one by then, the scenario is void.
A run counts whose devices kept their times, with little steal, nobody else on the cores, and the speed of the machine as before.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

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
    Spent,
    load,
)  # fmt: skip
from tests.bench.report import Figure, calibration_ms, figure, steal_s
from tests.bench.site import BROKER, picture
from tests.fakes.broker import Broker, mosquitto
from tests.fakes.gateway import Gateway

SECONDS, LOW_S = 8.0, 6.0
LOW, LOW_SENSOR, FULL = 0.4, 0.7, 1.3
"""Loads of the calibration: of the scenario's rate, and of what the machine can do. What a window costs falls with the rate, as
reads and commits take more of them at once; nothing here gives out under windows before the broker does, so they have no
full load."""
FITS = 6
"""Rounds in which what is not measured by itself is fitted to the latencies of the calibration."""
DAMPED = 0.7
"""Of a difference is made up for in a round: a longer rest makes frames wait longer, too."""
LEAST_MS = 0.05
"""Of a way."""
BENCH_S = 2.0
CALIBRATION = (97, 98, 99)
"""The seeds of its arrivals; what counts is the median."""
RUNS, TRIES = 3, 2
AGAIN = 2
"""Attempts at a scenario that turned out void."""
ALIKE, STEAL, FOREIGN = 0.10, 0.01, 0.05
"""How much the speed of the machine may differ, and which shares of its cores others may have."""
THROUGHPUT, P99 = 0.15, 0.25
"""How far a prediction may be off."""
DRAWS = 3
"""Simulations of each run's arrivals."""
WANTED = 4
"""Scenarios of which both figures must be predicted."""


class Seen(NamedTuple):
    """A measured run; `seed` is that of its arrivals."""

    seed: int
    answered_per_s: float
    p50_ms: float
    p99_ms: float


class Cost(NamedTuple):
    """What a run of the calibration tells: what a frame costs each time that it passes the event loop, and beside it; what it
    took in the gateway on average, and in all."""

    loop_ms: float
    beside_ms: float
    within_ms: float
    p50_ms: float
    p99_ms: float


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

    def figures(self) -> list[Figure]:
        speed = _speed_ms()
        reports = self._bench()
        with mosquitto(BROKER) as broker:
            config = HEAD.format(url=broker.url, store=self._store, threads=THREADS) + self._routes()
            with Gateway(config, self._folder) as gateway:
                gateway.wait_ready()
                facts = self._calibrate(broker, gateway, reports)
                rates = {mix.model: mix.load * _capacity(mix, reports, facts) for mix in self._case.mixes}
                scenario = self._scenario("run", rates, SECONDS)
                seen, void = [], 0
                for number in range(RUNS + TRIES):
                    run = self._run(broker, gateway, scenario, number, speed)
                    if run is None:
                        void += 1
                    else:
                        seen.append(run)
                    if len(seen) == RUNS:
                        break
        again = self._bench([1])
        doubt = self._doubt(reports, again, seen)
        predicted = (
            self._predicted(scenario, [run.seed for run in seen], _profile(reports, facts)) if seen else {}
        )
        return self._compared(predicted, seen, void, facts, doubt)

    def _bench(self, sizes: Sequence[int] = ()) -> list[BenchReport]:
        return [
            bench(
                next(self._store.glob(f"{mix.model}-*.bundle")),
                self._window if mix.sensor else self._image,
                BENCH_S,
                lambda part: None,
                sizes or SIZES.get(mix.model, (1, 2, 4)),
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

    def _scenario(self, name: str, rates: dict[str, float], seconds: float) -> Path:
        text = f'name = "{self._case.name}"\n[target]\ngateway = "gateway.toml"\n'
        for mix in self._case.mixes:
            text += DEVICES.format(
                model=mix.model, count=mix.devices, rate=f"{rates[mix.model] / mix.devices:.4f}", arrivals=mix.arrivals,
                source=WINDOWS if mix.sensor else PICTURES, qos=int(mix.sensor),
            )  # fmt: skip
        file = self._folder / f"{name}.toml"
        file.write_text(text + f'[[phase]]\nkind = "steady"\nseconds = {seconds}\n')
        return file

    def _run(self, broker: Broker, gateway: Gateway, scenario: Path, seed: int, speed: float) -> Seen | None:
        """Measure once; None where the machine or the devices were not as they should."""
        stolen, now = steal_s(), _speed_ms()
        found, spent = load(broker, gateway, scenario, seed)
        loud = steal_s() - stolen > STEAL * THREADS * SECONDS or abs(now / speed - 1) > ALIKE
        if loud or spent.foreign > FOREIGN or not found["on_time"]:
            return None
        latency = found["latency_ms"]
        return Seen(seed, found["answered_per_s"], latency["p50"], latency["p99"])

    def _calibrate(self, broker: Broker, gateway: Gateway, reports: Sequence[BenchReport]) -> Facts:
        """What a frame costs beside its model, and how long its way takes."""
        sensor = any(mix.sensor for mix in self._case.mixes)
        total = sum(mix.load for mix in self._case.mixes)
        low = self._loaded(broker, gateway, reports, "low", LOW_SENSOR if sensor else LOW / total)
        if sensor:
            return self._commits(_facts(low), low, reports)
        facts = _facts(self._loaded(broker, gateway, reports, "full", FULL / total))
        longer = max(1.0, low.loop_ms / facts.ingest_ms)
        facts = msgspec.structs.replace(facts, cold=1.0 + (longer - 1.0) / (1.0 - LOW))
        return self._ways(facts, low, reports)

    def _ways(self, facts: Facts, low: Cost, reports: Sequence[BenchReport]) -> Facts:
        """What frames take in the gateway beyond what is known is a slot's rest; what the latencies have beyond that, the way."""
        for _ in range(FITS):
            more_ms = low.within_ms - self._still(facts, reports)["mean_ms"]
            facts = msgspec.structs.replace(facts, hop_ms=max(0.0, facts.hop_ms + DAMPED * more_ms))
        facts = msgspec.structs.replace(facts, before_ms=LEAST_MS, after_ms=LEAST_MS, after_p99_ms=LEAST_MS)
        for _ in range(FITS):
            still = self._still(facts, reports)
            way_ms = max(LEAST_MS, facts.after_ms + (low.p50_ms - still["p50_ms"]) / 2)
            most_ms = max(way_ms, facts.after_p99_ms + low.p99_ms - still["p99_ms"])
            facts = msgspec.structs.replace(facts, before_ms=way_ms, after_ms=way_ms, after_p99_ms=most_ms)
        return facts

    def _loaded(
        self, broker: Broker, gateway: Gateway, reports: Sequence[BenchReport], name: str, share: float
    ) -> Cost:
        """Run with this share of the scenario's load."""
        rates = {mix.model: share * mix.load * _capacity(mix, reports, Facts()) for mix in self._case.mixes}
        scenario = self._scenario(name, rates, LOW_S)
        costs = [_cost(*load(broker, gateway, scenario, seed)) for seed in CALIBRATION]
        return Cost(*map(statistics.median, zip(*costs)))

    def _commits(self, facts: Facts, low: Cost, reports: Sequence[BenchReport]) -> Facts:
        """Nearly all that a window takes is waiting for a commit, and its own: what commits take follows from the latencies."""
        facts = msgspec.structs.replace(facts, journal_ms=low.p50_ms / 2, journal_p99_ms=low.p99_ms / 2)
        for _ in range(FITS):
            still = self._still(facts, reports)
            facts = msgspec.structs.replace(
                facts,
                journal_ms=facts.journal_ms * low.p50_ms / still["p50_ms"],
                journal_p99_ms=facts.journal_p99_ms * low.p99_ms / still["p99_ms"],
            )
        return facts

    def _still(self, facts: Facts, reports: Sequence[BenchReport]) -> dict[str, float]:
        """What would be predicted of the run at a low rate."""
        return self._predicted(self._folder / "low.toml", CALIBRATION, _profile(reports, facts))

    def _predicted(self, scenario: Path, seeds: Sequence[int], profile: Profile) -> dict[str, float]:
        """Medians over the arrivals of these runs: what chance made of them is not the estimator's to predict."""
        loaded = read(scenario)
        runs = []
        for seed in seeds:
            schedules = [stream.schedule for stream in streams(loaded, seed)]
            times, owners = merge(schedules, loaded.load.seconds)
            work = msgspec.structs.replace(work_of(loaded), times=times, owners=owners)
            here: Where = "edge"
            plan = Plan(tuple(route.model for route in work.routes), (here,) * len(work.routes))
            for draw in range(DRAWS):
                outcome = simulate(work, plan, profile, seed=draw)
                took = [seconds for mix in outcome.mixes.values() for seconds in mix.latencies]
                found = figures(outcome, plan, profile, None)[""]
                runs.append({**found, "mean_ms": statistics.fmean(took) * 1e3})
        return {name: statistics.median(run[name] or 0.0 for run in runs) for name in runs[0]}

    def _doubt(
        self, before: Sequence[BenchReport], after: Sequence[BenchReport], seen: Sequence[Seen]
    ) -> str:
        if len(seen) < RUNS:
            return f"void: {len(seen)} of {RUNS} runs were quiet enough"
        for one, other in zip(before, after, strict=True):
            changed = _busy_ms(other) / _busy_ms(one) - 1
            if abs(changed) > ALIKE:
                return f"void: the machine changed its speed by {changed:+.0%} meanwhile ({one.name})"
        return ""

    def _compared(
        self, predicted: dict[str, float], seen: Sequence[Seen], void: int, facts: Facts, doubt: str
    ) -> list[Figure]:
        found = []
        for name, key, values, most in (
            ("throughput", "answered_per_s", [run.answered_per_s for run in seen], THROUGHPUT),
            ("p99", "p99_ms", [run.p99_ms for run in seen], P99),
        ):
            said = predicted.get(key, 0.0)
            label = f"plan_{self._case.name}_{name}_off"
            if not values:
                found.append(figure(label, [], "of measured", most=most, note=doubt))
                continue
            middle = statistics.median(values)
            spread = f"{min(values):.4g} … {max(values):.4g}"
            note = f"predicted {said:.4g}, measured {middle:.4g} [{spread}] {'/s' if key == 'answered_per_s' else 'ms'}"
            if name == "p99":
                note += (
                    f"; p50 {predicted['p50_ms']:.3g} and {statistics.median(run.p50_ms for run in seen):.3g} ms; a frame"
                    f" takes {facts.ingest_ms + facts.publish_ms:.2f} ms of the loop and {facts.beside_ms:.2f} ms beside;"
                    f" {void} runs void"
                )
            found.append(
                figure(label, [abs(said / middle - 1)], "of measured", most=most, note=note, doubt=doubt)
            )
        return found


def _cost(found: dict[str, Any], spent: Spent) -> Cost:
    frames, passed = found["sent"], found["sent"] + found["fates"].get("ok", 0)
    beside_s = spent.beside_s + found["cpu_s"]
    latency = found["latency_ms"]
    return Cost(
        spent.loop_s / passed * 1e3, beside_s / frames * 1e3, spent.within_ms, latency["p50"], latency["p99"]
    )


def _facts(cost: Cost) -> Facts:
    return Facts(
        slots=THREADS, cores=THREADS, ingest_ms=cost.loop_ms, publish_ms=cost.loop_ms, beside_ms=cost.beside_ms,
        before_ms=0.0, after_ms=0.0, journal_ms=0.0,
    )  # fmt: skip


def _speed_ms() -> float:
    """The calibration, the best of three: one may have met something."""
    return min(calibration_ms() for _ in range(3))


def _capacity(mix: Mix, reports: Sequence[BenchReport], facts: Facts) -> float:
    """Frames a second that the machine can do: what all threads do by the bench, each frame with what it costs beside."""
    if mix.sensor:
        return SENSOR_RATE
    report = next(report for report in reports if report.name == mix.model)
    rate = next(row.items_per_s for row in report.rows if row.busy == THREADS and row.batch == 1)
    return THREADS / (THREADS / rate + (facts.ingest_ms + facts.publish_ms + facts.beside_ms) / 1e3)


def _busy_ms(report: BenchReport) -> float:
    return next(row.p50_ms for row in report.rows if row.busy == THREADS and row.batch == 1)


def _profile(reports: Sequence[BenchReport], facts: Facts) -> Profile:
    return Profile("edge", facts, {report.name: ModelProfile(report, "bench") for report in reports})
