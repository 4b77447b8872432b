"""Answers each frame of the sensors with a small result, and counts them: who neither of two load tools is.

    python -m tests.bench.sim_echo PORT

Prints "ready", and at the end of its standard input `{"frames": N, "seconds": S}`: frames that came, from the first to the
last.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence

import msgspec

from penstock_gateway.mqtt import LinkOptions, Message, Publish, encode
from penstock_sim.load.connection import Connection, connect


class _Frame(msgspec.Struct):
    boot: str
    seq: int


class Echo:
    def __init__(self) -> None:
        self.frames = 0
        self.first = self.last = 0.0
        self.connection: Connection | None = None
        self._frame = msgspec.json.Decoder(_Frame)

    def take(self, messages: Sequence[Message]) -> None:
        self.last = time.monotonic()
        self.first = self.first or self.last
        self.frames += len(messages)
        out = b"".join(map(self._answer, messages))
        if self.connection is not None:
            self.connection.write([out])

    def _answer(self, message: Message) -> bytes:
        frame = self._frame.decode(message.payload)
        device, stream = message.topic.split("/")[4:6]
        result = {"device": device, "stream": stream, "boot": frame.boot, "seq": frame.seq, "status": "ok"}
        body = msgspec.json.encode(result)
        return encode.publish_header(Publish(message.topic.rpartition("/")[0] + "/result", body), 5) + body


async def main(port: int) -> None:
    echo = Echo()
    connection = echo.connection = await connect(LinkOptions("127.0.0.1", port, "echo"), 5, echo.take)
    await connection.subscribe([("penstock/v1/home/dev/+/+/data", 0)])
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    print(
        msgspec.json.encode({"frames": echo.frames, "seconds": echo.last - echo.first}).decode(), flush=True
    )


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
