"""What a run and its worker processes say to each other: one JSON object a line, each with its `kind`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from penstock_sim.load.track import StreamReport
from penstock_sim.measure.window import MixSecond
from penstock_sim.run.build import Part
from penstock_sim.scenario.load import Load
from penstock_sim.scenario.tree import Loaded, Target


class Say(msgspec.Struct, frozen=True, tag_field="kind"):
    """A line."""


class Order(Say, tag="order", frozen=True):
    """To a worker, first: the scenario, which part of it, and where to; `run` is in its devices' boots."""

    loaded: Loaded
    part: Part
    target: Target
    run: str


class Begin(Say, tag="begin", frozen=True):
    """To a worker: send from this monotonic time (s) on."""

    at_s: float


class Stop(Say, tag="stop", frozen=True):
    """To a worker: send no more, and close the books."""


class Progress(Say, tag="progress", frozen=True):
    """From a worker: so many devices are connected; `ready` when it waits for `Begin`."""

    connected: int
    ready: bool = False


class Second(Say, tag="second", frozen=True):
    """From a worker: one second, `number` from the begin. `mixes` by name; `lag_p99_ms` by how much the generator was late
    so far; bytes are totals."""

    number: int
    mixes: dict[str, MixSecond]
    connected: int
    held: int
    unsent: int
    lag_p99_ms: float | None
    bytes_received: int
    bytes_sent: int


class Done(Say, tag="done", frozen=True):
    """From a worker, last: the books. Streams are "DEVICE/STREAM", by mix. `lag_ms` is by how much the generator was late,
    `behind` counts frames of which it was more than allowed, `sent_lag_ms` is with the wait for connections; `offset_ms` bounds the gateway's clock minus ours."""

    streams: dict[str, dict[str, StreamReport]]
    unsent: dict[str, int]
    lag_ms: dict[str, float | None]
    behind: int
    sent_lag_ms: dict[str, float | None]
    lost_connections: dict[str, int]
    refused: int
    foreign: int
    undecodable: int
    stopped: bool
    offset_ms: tuple[float, float] | None = None


class Failed(Say, tag="failed", frozen=True):
    """From a worker, last: why it could not go on."""

    error: str
    usage: bool = False


def _encoded(value: Any) -> Any:
    match value:
        case Load():
            return [points.tolist() for points in value.points]
        case Path():
            return str(value)
    raise TypeError(f"expected a load or a path beside what JSON has, came {type(value)}")


def _decoded(kind: type, value: Any) -> Any:
    return Load(*value) if kind is Load else kind(value)


ToWorker = Order | Begin | Stop
FromWorker = Progress | Second | Done | Failed

to_worker = msgspec.json.Decoder(ToWorker, dec_hook=_decoded)
from_worker = msgspec.json.Decoder(FromWorker)


def line(say: ToWorker | FromWorker) -> bytes:
    return msgspec.json.encode(say, enc_hook=_encoded) + b"\n"
