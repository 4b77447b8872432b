"""Periodic cameras with random phases, in a process of their own: when each frame was due and when its answer came.

    python -m tests.bench.cameras PORT JPEG --rate 5 --cameras 8 --seconds 20

prints {"frames": [[due_s, answered_s or null], …], "late_p99_ms": …} of the monotonic clock as JSON. A frame that goes
out late counts from the time at which it was meant to go.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from penstock_gateway.mqtt import Granted, LinkOptions, Message, Publish
from penstock_gateway.mqtt.link import MqttLink
from tests.bench.arrivals import phases


class Cameras:
    """Sends frames at their times, notes by how much it missed them, and notes the answers."""

    def __init__(self, port: int, jpeg: bytes) -> None:
        subscriptions = (("penstock/v1/home/dev/+/+/result", 0),)
        self.link = MqttLink(LinkOptions("127.0.0.1", port, "bench-cameras", subscriptions=subscriptions))
        self.up_event = asyncio.Event()
        self.due: list[float] = []
        self.late_ms: list[float] = []
        self.answered: dict[int, float] = {}
        self._jpeg = jpeg

    def up(self, granted: Granted) -> None:
        self.up_event.set()

    def down(self, reason: str) -> None:
        raise RuntimeError(reason)

    def take(self, messages: Sequence[Message]) -> None:
        now = asyncio.get_running_loop().time()
        for message in messages:
            result = json.loads(message.payload)
            if result["status"] == "ok":
                self.answered[result["seq"]] = now

    async def camera(self, name: str, period_s: float, phase_s: float, frames: int) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + phase_s
        for _ in range(frames):
            await asyncio.sleep(due - loop.time())
            seq = len(self.due)
            self.due.append(due)
            self.late_ms.append((loop.time() - due) * 1e3)
            topic = f"penstock/v1/home/dev/{name}/cam/frame"
            self.link.publish(Publish(topic, self._jpeg, user=(("seq", str(seq)),)))
            due += period_s


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("jpeg", type=Path)
    parser.add_argument("--rate", type=float, required=True, help="frames per second of one camera")
    parser.add_argument("--cameras", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    cameras = Cameras(options.port, options.jpeg.read_bytes())
    period_s = 1 / options.rate
    frames = int(options.seconds / period_s)
    link = asyncio.create_task(cameras.link.run(cameras.take, cameras))
    await cameras.up_event.wait()
    async with asyncio.TaskGroup() as group:
        for n, phase_s in enumerate(phases(options.cameras, period_s, options.seed)):
            group.create_task(cameras.camera(f"cam{n}", period_s, phase_s, frames))
    await asyncio.sleep(1.0)  # the last answers
    link.cancel()
    sent = sorted((due, seq) for seq, due in enumerate(cameras.due))
    found = {"frames": [[due, cameras.answered.get(seq)] for due, seq in sent]}
    print(json.dumps(found | {"late_p99_ms": float(np.percentile(cameras.late_ms, 99))}))


if __name__ == "__main__":
    asyncio.run(main())
