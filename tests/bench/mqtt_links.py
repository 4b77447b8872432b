"""Measure the links: messages a second in and out, and CPU a message, against a real Mosquitto.

    python -m tests.bench.mqtt_links --repeats 3 --json build/mqtt_links.json

One process for the link, one for the other side, Mosquitto: all on the same cores, as on an edge box. The links take
turns within each repeat; the table shows medians. CPU is the link's process, all its threads.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from penstock_gateway.mqtt import Granted, Link, LinkOptions, Message, Publish, encode
from penstock_gateway.mqtt.link import MqttLink
from tests.bench.links.crt_link import CrtLink
from tests.bench.links.paho_link import PahoLink
from tests.fakes.broker import Broker, mosquitto

LINKS: dict[str, type[Link]] = {"penstock": MqttLink, "paho": PahoLink, "awscrt": CrtLink}
CASES = [(200, 0), (200, 1), (640, 0), (640, 1), (50_000, 0), (50_000, 1)]
COUNT = {200: 40_000, 640: 40_000, 50_000: 3_000}
BROKER = "max_queued_messages 0\nmax_inflight_messages 1000\nset_tcp_nodelay true\npersistence false"
TOPIC = "penstock/v1/home/dev/dev0001/vib/data"
LIMIT_S = 120.0


class Bench:
    """One run of one link: what `worker` prints."""

    def __init__(self, link: Link, count: int) -> None:
        self.link = link
        self.count = count
        self.seen = 0
        self.began = self.ended = 0.0
        self.cpu_began = self.cpu_ended = 0.0
        self.ready = asyncio.Event()
        self.finished = asyncio.Event()

    def up(self, granted: Granted) -> None:
        self.ready.set()

    def down(self, reason: str) -> None:
        if not self.finished.is_set():
            print(f"down: {reason}", file=sys.stderr)

    def take(self, messages: Sequence[Message]) -> None:
        if not self.seen:
            self.start()
        self.seen += len(messages)
        if messages[0].qos:
            ack = self.link.ack
            for message in messages:
                ack(message.ack)
        if self.seen >= self.count:
            self.stop()

    def acked(self) -> None:
        self.seen += 1
        if self.seen >= self.count:
            self.stop()

    def start(self) -> None:
        self.began, self.cpu_began = time.perf_counter(), cpu_s()

    def stop(self) -> None:
        self.ended, self.cpu_ended = time.perf_counter(), cpu_s()
        self.finished.set()

    def figures(self) -> dict[str, float]:
        return {
            "per_s": self.count / (self.ended - self.began),
            "cpu_us": (self.cpu_ended - self.cpu_began) / self.count * 1e6,
        }


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def worker(name: str, way: str, size: int, qos: int, port: int) -> dict[str, float]:
    """Run one link in this process; "ready" on standard output starts the other side."""
    options = LinkOptions(
        "127.0.0.1", port, "under-test", session_expiry_s=0, outbox=20_000, outbox_bytes=256 << 20,
        subscriptions=((TOPIC, qos),) if way == "receive" else (),
    )  # fmt: skip
    link = LINKS[name](options)  # type: ignore[call-arg]
    bench = Bench(link, COUNT[size])
    running = asyncio.create_task(link.run(bench.take, bench))
    await bench.ready.wait()
    if way == "receive":
        print("ready", flush=True)
    else:
        await send(bench, Publish(TOPIC, bytes(size), qos, content_type="application/json"))
    async with asyncio.timeout(LIMIT_S):
        await bench.finished.wait()
    running.cancel()
    await asyncio.wait((running,))
    return bench.figures()


async def send(bench: Bench, message: Publish) -> None:
    """Keep the link's outbox busy, as a publisher of results in batches does."""
    bench.start()
    sent = 0
    while sent < bench.count:
        for _ in range(min(64, bench.count - sent)):
            if sent - bench.seen >= 4000 or not bench.link.publish(message, bench.acked):
                break
            sent += 1
        await asyncio.sleep(0)


def feed(port: int, size: int, qos: int, count: int) -> None:
    """Publish `count` messages as fast as the broker takes them, over a plain socket."""
    with socket.create_connection(("127.0.0.1", port)) as wire:
        wire.sendall(encode.connect(LinkOptions("h", 0, "feeder"), 5))
        wire.recv(4096)
        batch = max(1, min(200, 65_536 // size))
        message = Publish(TOPIC, bytes(size), qos)
        for first in range(0, count, batch):
            ids = [1 + (first + i) % 60_000 for i in range(min(batch, count - first))]
            wire.sendall(b"".join(encode.publish_header(message, 5, i) + message.payload for i in ids))
            if qos:
                left = 4 * len(ids)
                while left:
                    left -= len(wire.recv(left))
        wire.sendall(encode.disconnect(5))


def measure(name: str, way: str, size: int, qos: int, broker: Broker) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.bench.mqtt_links", "--worker", name, way, str(size), str(qos)]
    with subprocess.Popen([*command, str(broker.port)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        if way == "receive":
            assert process.stdout.readline() == "ready\n"
            feed(broker.port, size, qos, COUNT[size])
        found: dict[str, float] = json.loads(process.stdout.readlines()[-1])
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", nargs=5, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.worker:
        name, way, size, qos, port = chosen.worker
        print(json.dumps(asyncio.run(worker(name, way, int(size), int(qos), int(port)))), flush=True)
        return
    rows = compare(chosen.repeats)
    if chosen.json is not None:
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        chosen.json.write_text(json.dumps(rows, indent=1) + "\n")


def compare(repeats: int) -> list[dict[str, Any]]:
    """Print one line a case: for each link messages a second (CPU µs a message)."""
    print(f"{'':24}" + "".join(f"{name:>22}" for name in LINKS))
    rows: list[dict[str, Any]] = []
    for way in ("receive", "publish"):
        for size, qos in CASES:
            runs: dict[str, list[dict[str, float]]] = {name: [] for name in LINKS}
            for _ in range(repeats):
                for name in LINKS:
                    with mosquitto(BROKER) as broker:
                        runs[name].append(measure(name, way, size, qos, broker))
            line = f"{way} {size} B QoS {qos}"
            row: dict[str, Any] = {"way": way, "size": size, "qos": qos}
            for name, found in runs.items():
                row[name] = {key: statistics.median(run[key] for run in found) for key in ("per_s", "cpu_us")}
            rows.append(row)
            cells = "".join(f"{row[n]['per_s']:>13,.0f} ({row[n]['cpu_us']:6.1f})" for n in LINKS)
            print(f"{line:24}{cells}", flush=True)
    return rows


if __name__ == "__main__":
    main()
