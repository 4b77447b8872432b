"""A load generator in a process of its own, for the benchmarks: publishes open-loop, counts results, prints JSON.

    python -m tests.bench.generator --url mqtt://127.0.0.1:1883 --streams 100 --rate 10000 --seconds 10 --qos 1

The printed object is the publisher's report without its streams, and beside it `answered_in_run` (answers that came
before the sending ended; a refusal is none), `answered_per_s` of them, and `cpu_s` of this process. `on_time` false:
void, measure again.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from penstock_sim.load.publisher import Publisher, Target, VirtualStream
from penstock_sim.load.schedule import Periodic, Poisson, Schedule
from penstock_sim.sources import Payload, Ring
from penstock_sim.sources.encodings import MEDIA_TYPES, encode_window
from penstock_sim.sources.files import IMAGE_TYPES

_VARIETY = 16
_SETTLE_QUIET_S = 1.0
_WARMUP_SETTLE_S = 60.0
"""Longest wait for what the warm-up left behind: it would be answered first, and counted for nobody."""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tests.bench.generator", description="Open-loop MQTT load; prints JSON."
    )
    parser.add_argument("--url", default="mqtt://127.0.0.1:1883")
    parser.add_argument("--site", default="home")
    parser.add_argument("--protocol", type=int, choices=(4, 5), default=5)
    parser.add_argument("--username")
    parser.add_argument("--password")
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--rate", type=float, required=True, help="messages per second, all streams together")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument(
        "--warmup", type=float, default=0.0, help="seconds of the same load before, not counted and settled"
    )
    parser.add_argument(
        "--settle", type=float, default=10.0, help="longest wait for results after the sending"
    )
    parser.add_argument("--qos", type=int, choices=(0, 1), default=0)
    parser.add_argument(
        "--poisson", action="store_true", help="independent arrivals; else periodic, random phases"
    )
    parser.add_argument(
        "--image", type=Path, nargs="*", default=[], help="send these files; else sensor windows"
    )
    parser.add_argument("--samples", type=int, default=640, help="values in a sensor window")
    parser.add_argument("--dtype", default="int8")
    parser.add_argument("--encoding", choices=tuple(MEDIA_TYPES), default="tensor")
    parser.add_argument("--in-phase", action="store_true", help="all streams send at the same moment")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def payloads(options: argparse.Namespace) -> tuple[str, list[Payload]]:
    """Media type and the ring of bodies that every stream sends."""
    if options.image:
        kinds = {IMAGE_TYPES[file.suffix.lower()] for file in options.image}
        return (kinds.pop() if len(kinds) == 1 else ""), [
            Payload(file.read_bytes()) for file in options.image
        ]
    random = np.random.default_rng(options.seed)
    windows = random.normal(0.0, 20.0, (_VARIETY, options.samples)).astype(options.dtype)
    return MEDIA_TYPES[options.encoding], [
        Payload(*encode_window(window, options.encoding)) for window in windows
    ]


def streams(options: argparse.Namespace) -> list[VirtualStream]:
    media_type, ring = payloads(options)
    rate = options.rate / options.streams
    phases = np.random.default_rng(options.seed).uniform(
        0.0, 0.0 if options.in_phase else 1.0 / rate, options.streams
    )

    def schedule(number: int) -> Schedule:
        if options.poisson:
            return Poisson(rate, seed=options.seed + number)
        return Periodic(rate, float(phases[number]))

    return [
        VirtualStream(f"bench-{n}", "s", Ring(f"ring-{n}", media_type, rate, ring), schedule(n), options.qos)
        for n in range(options.streams)
    ]


async def measure(options: argparse.Namespace, seconds: float, settle_s: float) -> dict[str, Any]:
    target = Target(
        options.url,
        options.site,
        protocol=options.protocol,
        connections=options.connections,
        username=options.username,
        password=options.password,
    )
    cpu = time.process_time()
    async with Publisher(target, streams(options)) as publisher:
        await publisher.run(seconds)
        in_run = publisher.report()
        await publisher.settle(settle_s, _SETTLE_QUIET_S)
        report = msgspec.to_builtins(publisher.report())
    del report["streams"]
    answered = sum(books.answered for books in in_run.streams.values())
    return {
        **report,
        "answered_in_run": answered,
        "answered_per_s": round(answered / in_run.seconds, 1),
        "cpu_s": round(time.process_time() - cpu, 3),
    }


async def main(options: argparse.Namespace) -> None:
    if options.warmup:
        await measure(options, options.warmup, _WARMUP_SETTLE_S)
    found = await measure(options, options.seconds, options.settle)
    print(msgspec.json.encode(found).decode(), flush=True)


if __name__ == "__main__":
    asyncio.run(main(parse()))
