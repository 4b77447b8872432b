"""A real gateway with one fault for each of four devices, so that a test can see whether the simulator finds them.

    python -m tests.fakes.planted_gateway -c gateway.toml

It befalls the `NTH` frame of the device, and only that one: `lost` is forgotten before it is counted, `duplicate` has its
result sent twice, `late` has it sent long after its deadline, and nobody counts that, `count` is answered and booked as
superseded. Devices are called FAULT-0000.
"""

from __future__ import annotations

import asyncio
import sys

from penstock_gateway.ledger import OK, SUPERSEDED, Counts, Fate, Ledger
from penstock_gateway.mqtt import LinkState, OnAcked, OnMessages, Publish
from penstock_gateway.mqtt.link import MqttLink
from penstock_models.main import main

NTH = 12
LATE_S = 1.5


class Nth:
    """True for the NTH topic of this fault's device that ends so."""

    def __init__(self, fault: str, kind: str) -> None:
        self._name, self._kind, self._seen = f"/{fault}-0000/", f"/{kind}", 0

    def __call__(self, topic: str) -> bool:
        mine = self._name in topic and topic.endswith(self._kind)
        self._seen += mine
        return mine and self._seen == NTH


def lose() -> None:
    run, hit = MqttLink.run, Nth("lost", "frame")

    async def losing(self: MqttLink, on_messages: OnMessages, state: LinkState) -> None:
        await run(self, lambda messages: on_messages([m for m in messages if not hit(m.topic)]), state)

    MqttLink.run = losing  # type: ignore[method-assign]


def send_results() -> None:
    publish, twice, late = MqttLink.publish, Nth("duplicate", "result"), Nth("late", "result")

    def sending(self: MqttLink, message: Publish, on_acked: OnAcked | None = None) -> bool:
        if twice(message.topic):
            publish(self, message, None)
        if late(message.topic):
            asyncio.get_running_loop().call_later(LATE_S, publish, self, message, on_acked)
            return True
        return publish(self, message, on_acked)

    MqttLink.publish = sending  # type: ignore[method-assign]


def miscount() -> None:
    settle, stream, hit = Counts.settle, Ledger.stream, Nth("count", "settled")
    names: dict[int, str] = {}

    def making(self: Ledger, key: str) -> Counts:
        counts = stream(self, key)
        names[id(counts)] = key
        return counts

    def settling(self: Counts, fate: Fate) -> None:
        wrong = fate == OK and hit(f"/{names.get(id(self), '')}/settled")
        settle(self, SUPERSEDED if wrong else fate)

    Ledger.stream = making  # type: ignore[method-assign]
    Counts.settle = settling  # type: ignore[method-assign]


if __name__ == "__main__":
    lose()
    send_results()
    miscount()
    sys.exit(main(["gateway", "run", *sys.argv[1:]]))
