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
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from penstock_gateway.mqtt import Granted, LinkOptions, Message, encode
from penstock_gateway.mqtt.link import MqttLink
from penstock_sim.packets import PublishTemplate
from tests.bench.arrivals import arrivals

LEAD_S = 0.2


class Answers:
    """When each frame's answer came, by its number."""

    def __init__(self) -> None:
        self.up_event = asyncio.Event()
        self.came: dict[int, float] = {}

    def up(self, granted: Granted) -> None:
        self.up_event.set()

    def down(self, reason: str) -> None:
        raise RuntimeError(reason)

    def take(self, messages: Sequence[Message]) -> None:
        now = time.monotonic()
        for message in messages:
            result = json.loads(message.payload)
            if result["status"] == "ok":
                self.came[result["seq"]] = now


def send(port: int, jpeg: bytes, due: Sequence[tuple[float, int]]) -> list[float]:
    """Send a frame of a camera at each moment of the monotonic clock; by how many ms it missed them."""
    cameras = {camera for _, camera in due}
    boot = secrets.token_hex(
        8
    )  # a number comes once in the life of a device, and the slice before used these too
    topics = {n: PublishTemplate(f"penstock/v1/home/dev/cam{n}/cam/frame", 0, 5, "", boot) for n in cameras}
    late_ms = []
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(encode.connect(LinkOptions("127.0.0.1", port, "bench-send", keepalive_s=600), 5))
        connection.recv(4096)
        for seq, (moment, camera) in enumerate(due):
            packet = topics[camera].packet(jpeg, (), seq, time.time_ns() // 1_000_000)
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
    answers = Answers()
    subscriptions = (("penstock/v1/home/dev/+/+/result", 0),)
    link = MqttLink(LinkOptions("127.0.0.1", options.port, "bench-listen", subscriptions=subscriptions))
    listening = asyncio.create_task(link.run(answers.take, answers))
    await answers.up_event.wait()
    planned = arrivals(options.cameras, 1 / options.rate, options.seconds, options.seed)
    start = time.monotonic() + LEAD_S
    due = [(start + moment, camera) for moment, camera in planned]
    late_ms = await asyncio.to_thread(send, options.port, options.jpeg.read_bytes(), due)
    await asyncio.sleep(1.0)  # the last answers
    listening.cancel()
    frames = [[moment, answers.came.get(seq)] for seq, (moment, _) in enumerate(due)]
    print(json.dumps({"frames": frames, "late_p99_ms": float(np.percentile(late_ms, 99))}))


if __name__ == "__main__":
    asyncio.run(main())
