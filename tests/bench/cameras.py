"""Periodic cameras with random phases, in a process of their own: when each frame was due and when its answer came.

    python -m tests.bench.cameras PORT JPEG --rate 5 --cameras 8 --seconds 20

prints {"frames": [[due_s, answered_s or null], …], "late_p99_ms": …} of the monotonic clock as JSON. A frame that goes
out late counts from the time at which it was meant to go. A thread with a socket of its own sends: an event loop rounds
its timers up to the next millisecond, which would be measured as the gateway's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np

from penstock_gateway.mqtt import Granted, LinkOptions, Message, encode
from penstock_gateway.mqtt.link import MqttLink
from penstock_sim.load.packets import PublishTemplate
from penstock_sim.sources.encodings import UserProperties
from tests.bench.arrivals import arrivals

LEAD_S = 0.2
LAST_S = 1.0
"""For the last answers."""

Due = tuple[float, PublishTemplate, UserProperties]
"""When a frame is to be sent on the monotonic clock, and how its packet is made."""


class _Up:
    def __init__(self) -> None:
        self.event = asyncio.Event()

    def up(self, granted: Granted) -> None:
        self.event.set()

    def down(self, reason: str) -> None:
        raise RuntimeError(reason)


@asynccontextmanager
async def results(port: int, take: Callable[[dict[str, Any]], None]) -> AsyncIterator[None]:
    """Hand on every result of the site `home` as it comes."""

    def each(messages: Sequence[Message]) -> None:
        for message in messages:
            take(json.loads(message.payload))

    subscriptions = (("penstock/v1/home/dev/+/+/result", 0),)
    link, up = MqttLink(LinkOptions("127.0.0.1", port, "bench-listen", subscriptions=subscriptions)), _Up()
    listening = asyncio.create_task(link.run(each, up))
    await up.event.wait()
    yield
    await asyncio.sleep(LAST_S)
    listening.cancel()


def boot() -> str:
    """A device's start of its own: a number comes once in it, and the slice before used these too."""
    return secrets.token_hex(8)


def send(port: int, name: str, picture: Path, due: Sequence[Due]) -> list[float]:
    """Send a picture at each moment, numbered in order; by how many ms it missed them."""
    jpeg, late_ms = picture.read_bytes(), []
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(encode.connect(LinkOptions("127.0.0.1", port, name, keepalive_s=600), 5))
        connection.recv(4096)
        for seq, (moment, template, user) in enumerate(due):
            packet = template.packet(jpeg, user, seq, time.time_ns() // 1_000_000, 1 + seq % 65_535)
            time.sleep(max(0.0, moment - time.monotonic()))
            late_ms.append((time.monotonic() - moment) * 1e3)
            connection.sendall(packet)
        connection.sendall(encode.disconnect(5))
    return late_ms


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("jpeg", type=Path)
    parser.add_argument("--rate", type=float, required=True, help="frames per second of one camera")
    parser.add_argument("--cameras", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    came: dict[int, float] = {}

    def take(result: dict[str, Any]) -> None:
        if result["status"] == "ok":
            came[result["seq"]] = time.monotonic()

    start_id = boot()
    topics = [
        PublishTemplate(f"penstock/v1/home/dev/cam{n}/cam/frame", 0, 5, "", start_id)
        for n in range(options.cameras)
    ]
    planned = arrivals(options.cameras, 1 / options.rate, options.seconds, options.seed)
    async with results(options.port, take):
        start = time.monotonic() + LEAD_S
        due = [(start + moment, topics[camera], ()) for moment, camera in planned]
        late_ms = await asyncio.to_thread(send, options.port, "bench-send", options.jpeg, due)
    frames = [[moment, came.get(seq)] for seq, (moment, _, _) in enumerate(due)]
    print(json.dumps({"frames": frames, "late_p99_ms": float(np.percentile(late_ms, 99))}))


if __name__ == "__main__":
    asyncio.run(main())
