"""A link that can be bad on request: a TCP proxy that cuts, delays and narrows what goes through it.

    async with LinkProxy("127.0.0.1", 1883) as link:
        connect("127.0.0.1", link.port)
        link.delay(0.2, 0.05)
        link.cut()
        link.heal()

What is said of it is done by its verbs, at once and for all connections. Buffers are bounded: a slow side stops the
reading of the other. Each direction ends by itself, as TCP's do; a reset of one side ends both.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Iterator
from types import TracebackType

_CHUNK = 1 << 16
_MAX_UNDER_WAY = 1 << 20
"""Bytes in one direction of one connection; beyond them reading stops, as in a full socket."""

_PIECE_S, _LEAST_PIECE = 0.02, 256
"""What goes over a narrow link at a time, in seconds of it and in bytes at least, so that it flows and does not jump."""

_PAUSE_S = 0.1


class LinkProxy:
    """Listens on a free loopback `port` and hands on to one address."""

    def __init__(self, host: str, port: int, seed: int = 0) -> None:
        self._to = host, port
        self._dice = random.Random(seed)
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._open = asyncio.Event()
        self._open.set()
        self._refusing = False
        self._delay_s = self._jitter_s = 0.0
        self._widths = _Width(), _Width()  # towards the broker, and back
        self.port = 0

    async def __aenter__(self) -> LinkProxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=4096, limit=_CHUNK)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await asyncio.gather(*self._connections)

    def cut(self, silent: bool = False) -> None:
        """End every connection and accept none; or, `silent`, let nothing through and tell nobody."""
        self._open.clear()
        if not silent:
            self._refusing = True
            for task in self._connections:
                task.cancel()

    def heal(self) -> None:
        """Undo `cut`; delay and width stay as they are."""
        self._refusing = False
        self._open.set()

    def delay(self, seconds: float, jitter_s: float = 0.0) -> None:
        """Let each piece that comes from now on arrive so much later, with up to `jitter_s` on top, in order."""
        self._delay_s, self._jitter_s = seconds, jitter_s

    def narrow(self, bytes_per_s: float | None) -> None:
        """Let so many bytes a second through each way, over all connections together; None: all."""
        for width in self._widths:
            width.change(bytes_per_s)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Own one connection until both directions have ended, one side has gone, or it is cut."""
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            if not self._refusing:
                await self._carry(reader, writer)
        except asyncio.CancelledError:
            pass  # cut
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there: asyncio.StreamWriter | None = None
        try:
            await self._open.wait()
            back, there = await asyncio.open_connection(*self._to, limit=_CHUNK)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._direction(reader, there, self._widths[0]))
                group.create_task(self._direction(back, writer, self._widths[1]))
            for ended in (there, writer):
                ended.close()
                await ended.wait_closed()
        except* OSError:
            await self._until_told()
        finally:
            if there is not None:
                there.transport.abort()

    async def _until_told(self) -> None:
        """A reset on one side is not felt on the other while the link is silently cut."""
        if not self._refusing:
            await self._open.wait()

    async def _direction(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, width: _Width
    ) -> None:
        pipe = _Pipe()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._take(reader, pipe))
            group.create_task(self._give(pipe, writer, width))

    async def _take(self, reader: asyncio.StreamReader, pipe: _Pipe) -> None:
        data = b"?"
        while data:
            data = await reader.read(_CHUNK)
            due = time.monotonic() + self._delay_s + self._dice.uniform(0, self._jitter_s)
            await pipe.put(due, data)

    async def _give(self, pipe: _Pipe, writer: asyncio.StreamWriter, width: _Width) -> None:
        while True:
            due, data = await pipe.get()
            if (wait_s := due - time.monotonic()) > 0:
                await asyncio.sleep(wait_s)
            for piece in width.pieces(data):
                await width.take(len(piece))
                await self._open.wait()
                writer.write(piece)
                await writer.drain()
            if not data:
                await self._open.wait()
                writer.write_eof()
                return


class _Pipe:
    """Pieces under way, in order, a bounded number of bytes; an empty one is the end."""

    def __init__(self) -> None:
        self._pieces: deque[tuple[float, bytes]] = deque()
        self._bytes = 0
        self._changed = asyncio.Condition()

    async def put(self, due: float, data: bytes) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._bytes < _MAX_UNDER_WAY)
            self._pieces.append((due, data))
            self._bytes += len(data)
            self._changed.notify_all()

    async def get(self) -> tuple[float, bytes]:
        async with self._changed:
            await self._changed.wait_for(lambda: bool(self._pieces))
            due, data = self._pieces.popleft()
            self._bytes -= len(data)
            self._changed.notify_all()
            return due, data


class _Width:
    """So many bytes a second for all who take, first come first served."""

    def __init__(self) -> None:
        self._rate: float | None = None
        self._free_at = 0.0
        self._turn = asyncio.Lock()
        self._changed = asyncio.Event()

    def change(self, rate: float | None) -> None:
        """Whoever waits goes on at the new rate."""
        self._rate, self._free_at = rate, 0.0
        self._changed.set()

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """`data` in pieces that are taken one at a time."""
        begin = 0
        while begin < len(data):
            size = len(data) if self._rate is None else max(_LEAST_PIECE, int(self._rate * _PIECE_S))
            yield data[begin : begin + size]
            begin += size

    async def take(self, size: int) -> None:
        """Wait until so many bytes have gone through."""
        if self._rate is None and not self._turn.locked():
            return
        async with self._turn:
            while self._rate is not None:
                self._changed.clear()
                now = time.monotonic()
                # A wake-up that comes late is made up for by the next ones; a pause is not.
                begin = self._free_at if now - self._free_at < _PAUSE_S else now
                self._free_at = begin + size / self._rate
                try:
                    await asyncio.wait_for(self._changed.wait(), max(0.0, self._free_at - now))
                except TimeoutError:
                    return
