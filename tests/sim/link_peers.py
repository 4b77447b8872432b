"""The two sides of a link that is tested: an echo server behind it, and a client that goes through."""

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from penstock_sim.faults.proxy import LinkProxy

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None] | None]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.close()


@asynccontextmanager
async def linked(serve: Serve = echo, seed: int = 0) -> AsyncIterator[LinkProxy]:
    """A link to a server of ours."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with LinkProxy("127.0.0.1", server.sockets[0].getsockname()[1], seed) as link:
        yield link
    server.close()


@asynccontextmanager
async def through(link: LinkProxy) -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def say(streams: Streams, word: bytes) -> float:
    """Send a word and have it back; the seconds that took."""
    began = time.monotonic()
    streams[1].write(word)
    assert await streams[0].readexactly(len(word)) == word
    return time.monotonic() - began


async def silence(streams: Streams, seconds: float = 0.1) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(streams[0].read(1), seconds)


async def gone(streams: Streams) -> bool:
    """Whether the connection ends, by an end or a reset."""
    try:
        return await asyncio.wait_for(streams[0].read(), 5) == b""
    except ConnectionResetError:
        return True


def reset(writer: asyncio.StreamWriter) -> None:
    """Close it with a reset instead of an end."""
    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
