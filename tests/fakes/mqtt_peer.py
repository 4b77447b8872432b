"""A broker of verbs for the tests of a link: it does what no real broker does on demand.

    async with peer() as broker:
        session = await broker.next()      # a client's connection, its CONNECT read
        session.accept()
        assert (await session.packet())[0] == 0x82

It speaks just enough of MQTT 3.1.1 and 5 to misbehave in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from penstock_gateway.mqtt.wire import varint

WAIT_S = 5.0


class Session:
    """One connection of the client. `level` and `clean` are what its CONNECT said."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.level = 0
        self.clean = False

    async def packet(self) -> tuple[int, bytes]:
        """The client's next packet: its first byte, and what follows the length."""
        async with asyncio.timeout(WAIT_S):
            first = (await self._reader.readexactly(1))[0]
            length = shift = 0
            while True:
                byte = (await self._reader.readexactly(1))[0]
                length |= (byte & 127) << shift
                shift += 7
                if byte < 128:
                    return first, await self._reader.readexactly(length)

    async def read_connect(self) -> None:
        first, body = await self.packet()
        assert first == 0x10, f"expected CONNECT, got 0x{first:02x}"
        self.level, self.clean = body[6], bool(body[7] & 2)

    async def until(self, kind: int) -> tuple[int, bytes]:
        """The next packet of this type; others in between are passed over."""
        while True:
            first, body = await self.packet()
            if first >> 4 == kind:
                return first, body

    def accept(self, session_present: bool = False, properties: bytes = b"") -> None:
        tail = varint(len(properties)) + properties if self.level == 5 else b""
        self.send(0x20, bytes((session_present, 0)) + tail)

    def refuse(self, reason: int) -> None:
        self.send(0x20, bytes((0, reason)) + (b"\0" if self.level == 5 else b""))

    async def grant(self, *reasons: int) -> None:
        """Answer the client's SUBSCRIBE."""
        _, body = await self.until(8)
        self.send(0x90, body[:2] + (b"\0" if self.level == 5 else b"") + bytes(reasons or (1,)))

    def publish(self, topic: str, payload: bytes, packet_id: int = 0, dup: bool = False) -> None:
        name = topic.encode()
        body = len(name).to_bytes(2, "big") + name
        if packet_id:
            body += packet_id.to_bytes(2, "big")
        body += b"\0" if self.level == 5 else b""
        self.send(0x30 | (2 if packet_id else 0) | (8 if dup else 0), body + payload)

    def puback(self, packet_id: int, reason: int = 0) -> None:
        self.send(0x40, packet_id.to_bytes(2, "big") + (bytes((reason,)) if reason else b""))

    def send(self, first: int, body: bytes) -> None:
        self._writer.write(bytes((first,)) + varint(len(body)) + body)

    def hang_up(self) -> None:
        self._writer.close()

    def reset(self) -> None:
        self._writer.transport.abort()

    async def gone(self) -> bytes:
        """Wait until the client closed; returns the bytes that came before."""
        async with asyncio.timeout(WAIT_S):
            return await self._reader.read()


class Peer:
    """The listening side. `next` gives the client's connections in order."""

    def __init__(self) -> None:
        self.host = "127.0.0.1"
        self.port = 0
        self.sessions: asyncio.Queue[Session] = asyncio.Queue()
        self.writers: list[asyncio.StreamWriter] = []

    async def accept_socket(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        self.sessions.put_nowait(Session(reader, writer))

    async def next(self) -> Session:
        async with asyncio.timeout(WAIT_S):
            session = await self.sessions.get()
            await session.read_connect()
            return session


@asynccontextmanager
async def peer() -> AsyncIterator[Peer]:
    fake = Peer()
    server = await asyncio.start_server(fake.accept_socket, fake.host)
    fake.port = server.sockets[0].getsockname()[1]
    try:
        yield fake
    finally:
        server.close()
        for writer in fake.writers:
            writer.transport.abort()
        await server.wait_closed()
