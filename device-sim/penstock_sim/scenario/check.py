"""What no single key of a scenario shows: names that are there twice, faults that cannot be, objectives. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from penstock_gateway.config.source import KeyPath
from penstock_models.errors import UsageError
from penstock_sim.measure import figures
from penstock_sim.measure.objectives import Objective
from penstock_sim.scenario import faults as f
from penstock_sim.scenario.load import Load
from penstock_sim.scenario.tree import MAX_DEVICES, Devices, Scenario

Problem = tuple[KeyPath, str]
"""Where, and what was expected and came."""

_ONE_AT_A_TIME: tuple[tuple[type[f.Fault], ...], ...] = (
    (f.LinkCut, f.Flapping),
    (f.Latency,),
    (f.Bandwidth,),
    (f.BrokerRestart,),
    (f.GatewayKill, f.GatewayPause, f.AcceleratorLoss),
)
"""Faults that undo each other at their ends."""


def check(scenario: Scenario, load: Load) -> Iterator[Problem]:
    """Everything that is wrong with a scenario whose keys are right, `load` being its phases joined."""
    mixes = [mix.name for mix in scenario.device]
    for number, mix in enumerate(scenario.device):
        if mixes.index(mix.name) != number:
            yield ("device", number, "name"), f"expected a name of its own, came {mix.name!r} again"
        yield from _streams(mix, ("device", number))
    if (total := sum(mix.count for mix in scenario.device)) > MAX_DEVICES:
        yield ("device",), f"expected at most {MAX_DEVICES} devices, came {total}"
    yield from _faults(scenario, mixes, load.seconds)
    for number, text in enumerate(scenario.objectives):
        try:
            figures.fits(Objective.parse(text, mixes, figures.NAMES))
        except UsageError as error:
            yield ("objectives", number), str(error)


def _streams(mix: Devices, at: KeyPath) -> Iterator[Problem]:
    names = [stream.name for stream in mix.stream]
    for number, stream in enumerate(mix.stream):
        if names.index(stream.name) != number:
            yield (*at, "stream", number), f"expected a name of its own, came {stream.name!r} again"
        period_ms = 1000 / stream.rate_hz
        if stream.jitter_ms > period_ms:
            message = f"expected at most one period, {period_ms:g} ms, came {stream.jitter_ms:g}"
            yield (*at, "stream", number, "jitter_ms"), message
        if stream.jitter_ms and stream.arrivals == "poisson":
            message = "expected no jitter of poisson arrivals, which are random already"
            yield (*at, "stream", number, "jitter_ms"), message


def _faults(scenario: Scenario, mixes: Sequence[str], seconds: float) -> Iterator[Problem]:
    for number, fault in enumerate(scenario.fault):
        at: KeyPath = ("fault", number)
        if isinstance(fault, f.Devices) and fault.devices and fault.devices not in mixes:
            yield (*at, "devices"), f"expected one of {', '.join(mixes)}, came {fault.devices!r}"
        if isinstance(fault, f.PROCESS) and scenario.target.url:
            yield at, f"{f.kind(fault)} needs a gateway that the run starts itself: leave [target] url out"
        if fault.at_s >= seconds:
            message = f"expected a fault within the run, which ends at {seconds:g} s, came {fault.at_s:g}"
            yield (*at, "at_s"), message
        for other in scenario.fault[:number]:
            if _collide(fault, other):
                kind, when = f.kind(other), f"{other.at_s:g} to {other.ends_s:g} s"
                yield (*at, "at_s"), f"expected one at a time, came one within the {kind} from {when}"
            if _both_change(fault, other):
                yield at, "expected one payload_change for a mix, came another"


def _collide(one: f.AnyFault, other: f.AnyFault) -> bool:
    return (
        any(isinstance(one, kinds) and isinstance(other, kinds) for kinds in _ONE_AT_A_TIME)
        and one.at_s < other.ends_s
        and other.at_s < one.ends_s
    )


def _both_change(one: f.AnyFault, other: f.AnyFault) -> bool:
    if not (isinstance(one, f.PayloadChange) and isinstance(other, f.PayloadChange)):
        return False
    return one.devices == other.devices or "" in (one.devices, other.devices)
