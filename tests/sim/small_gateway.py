"""A stand-in for `penstock gateway run`, so that the demo is tested on every ending that a gateway can have.

    python -m tests.sim.small_gateway BEHAVIOUR -c gateway.toml

It has the real embedded broker and the pages of contracts 8; its answers are made up. BEHAVIOUR is `good`, or what goes
wrong: `dies` (at the start), `sleeps` (never ready), `vanishes` (while frames come), `mute` (no answer for one device),
`loses` (a frame without a fate), `crashes` (exit code 3 when it is to stop). `old` has a broker that speaks 3.1.1 only.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import cbor2
import msgspec
from aiohttp import web

from penstock_gateway.embedded import amqtt_broker, embedded_broker
from penstock_gateway.ledger import Counts
from penstock_gateway.mqtt import LinkOptions, Message, Publish, encode
from penstock_sim.load.connection import Connection, connect, newest_protocol

BUCKETS = ("answered", "unchanged", "superseded", "duplicate", "expired", "rejected", "failed", "dropped")
MUTE = "pump"
VANISH_AFTER = 20


class SmallGateway:
    def __init__(self, behaviour: str) -> None:
        self.behaviour = behaviour
        self.counts = Counts()
        self.connection: Connection | None = None

    def take(self, messages: Sequence[Message]) -> None:
        for message in messages:
            self.counts.received += 1
            if self.behaviour == "vanishes" and self.counts.received == VANISH_AFTER:
                os._exit(9)
            device, stream, kind = message.topic.split("/")[4:]
            if self.behaviour == "mute" and device == MUTE:
                self.counts.settle(("dropped", "full"))
            elif not (self.behaviour == "loses" and self.counts.received == 3):
                self.counts.settle(("answered", ""))
                self.answer(message, device, stream, kind)

    def answer(self, message: Message, device: str, stream: str, kind: str) -> None:
        keys = dict(message.user) or (decode(message.payload) if kind == "data" else {})
        result: dict[str, object] = {
            "v": 1,
            "device": device,
            "stream": stream,
            "status": "ok",
            "arrived": 2**50,
        }
        result |= {"seq": int(keys["seq"]), "boot": keys["boot"]} if keys else {}
        result |= {"answered_by": "edge", "model": {"name": "fake", "version": 1}, "placement": "cpu"}
        if kind == "frame":
            result["detections"] = [{"box": [0.1, 0.2, 0.5, 0.9], "score": 0.9, "label": "person"}]
        else:
            result["anomaly"] = {"score": 0.2, "threshold": 0.1}
        body = msgspec.json.encode(result)
        topic = message.topic.rpartition("/")[0] + "/result"
        assert self.connection is not None
        head = encode.publish_header(Publish(topic, body), self.connection.protocol)
        self.connection.write([head + body])

    async def ready(self, _: web.Request) -> web.Response:
        awake = self.connection is not None and self.behaviour != "sleeps"
        return web.json_response({}, status=200 if awake else 503)

    async def status(self, _: web.Request) -> web.Response:
        counts = dict.fromkeys(BUCKETS, 0)
        for (bucket, _reason), number in self.counts.fates.items():
            counts[bucket] += number
        ledger = {"received": self.counts.received, "in_flight": self.counts.in_flight, **counts}
        return web.json_response({"v": 1, "ledger": ledger})


def decode(body: bytes) -> dict[str, str]:
    found: dict[str, str] = cbor2.loads(body)
    return found


async def main(behaviour: str, config: Path) -> int:
    if behaviour == "dies":
        print("penstock: the model store is on fire", file=sys.stderr)
        return 2
    end = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end.set)
    fake = SmallGateway(behaviour)
    listen = os.environ["PENSTOCK_MQTT__LISTEN"]
    host, _, port = listen.partition(":")
    made = (
        amqtt_broker(host, int(port))
        if behaviour == "old"
        else embedded_broker(listen, config.parent / "state")
    )
    async with made as broker:
        app = web.Application()
        app.router.add_get("/readyz", fake.ready)
        app.router.add_get("/v1/status", fake.status)
        runner = web.AppRunner(app)
        await runner.setup()
        host, _, port = os.environ["PENSTOCK_HTTP__LISTEN"].partition(":")
        await web.TCPSite(runner, host, int(port)).start()
        options = LinkOptions(broker.host, broker.port, "small")
        link = await connect(options, await newest_protocol(options), fake.take)
        await link.subscribe([(f"penstock/v1/home/dev/+/+/{kind}", 1) for kind in ("frame", "data")])
        fake.connection = link
        await end.wait()
        link.close()
        await runner.cleanup()
    return 3 if behaviour == "crashes" else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1], Path(sys.argv[3]))))
