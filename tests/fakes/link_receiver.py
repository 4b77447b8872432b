"""A process that receives over a link, to be killed: `python -m tests.fakes.link_receiver LINK PORT ACKS`.

It prints one line a message, `PAYLOAD DUP`, before it allows the PUBACK of every message whose number is below ACKS.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

from penstock_gateway.mqtt import Granted, LinkOptions, Message
from tests.bench.mqtt_links import LINKS


class Printer:
    def up(self, granted: Granted) -> None:
        print("up", flush=True)

    def down(self, reason: str) -> None:
        print("down", flush=True)


async def main(name: str, port: int, acks: int) -> None:
    options = LinkOptions(
        "127.0.0.1", port, "receiver", session_expiry_s=600, receive_maximum=500, subscriptions=(("t", 1),)
    )
    link = LINKS[name](options)  # type: ignore[call-arg]

    def take(messages: Sequence[Message]) -> None:
        for message in messages:
            print(message.payload.decode(), int(message.dup))
            if int(message.payload) < acks:
                link.ack(message.ack)
        sys.stdout.flush()

    await link.run(take, Printer())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
