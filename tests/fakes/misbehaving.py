"""Peers that do what no client library lets one do: packets byte by byte, and a wire that loses acknowledgements."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from types import TracebackType

from tests.fakes.broker import Broker

WAIT_S = 10.0
PUBACK = 0x40


def _text(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def _length(number: int) -> bytes:
    out = bytearray()
    while True:
        number, low = divmod(number, 128)
        out.append(low | (128 if number else 0))
        if not number:
            return bytes(out)


def packet(first: int, body: bytes) -> bytes:
    return bytes((first,)) + _length(len(body)) + body


class RawPublisher:
    """An MQTT 3.1.1 client over a bare socket; topics are bytes, so they may be anything."""

    def __init__(self, broker: Broker, client_id: bytes = b"raw") -> None:
        self._socket = socket.create_connection((broker.host, broker.port), timeout=WAIT_S)
        self._socket.sendall(packet(0x10, _text(b"MQTT") + b"\x04\x02\x00\x3c" + _text(client_id)))
        assert self._socket.recv(4) == b"\x20\x02\x00\x00"

    def publish(self, topic: bytes, payload: bytes) -> None:
        self._socket.sendall(packet(0x30, _text(topic) + payload))

    def cut_off(self) -> bool:
        """Wait until the broker ends the connection; False when it does not."""
        try:
            return self._socket.recv(1) == b""
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False

    def close(self) -> None:
        self._socket.close()


class Wire:
    """A TCP relay before a broker. `withhold` loses the acknowledgements of some clients, `cut` ends connections.

    It reads no more of a connection than its CONNECT, for the client id, and the first byte of each packet.
    """

    host = "127.0.0.1"

    def __init__(self, broker: Broker) -> None:
        self._to = (broker.host, broker.port)
        self._listener = socket.create_server((self.host, 0))
        self.port = self._listener.getsockname()[1]
        self.withheld = 0
        self._secret = b"\0"
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        return f"mqtt://{self.host}:{self.port}"

    def withhold(self, id_part: str) -> None:
        """From now on lose the PUBACKs of clients whose id holds this."""
        self._secret = id_part.encode()

    def release(self) -> None:
        """Lose no more of them. Those that were lost stay lost."""
        self._secret = b"\0"

    def wait_withheld(self, count: int) -> None:
        deadline = time.monotonic() + WAIT_S
        while self.withheld < count:
            assert time.monotonic() < deadline, f"{self.withheld} of {count} acknowledgements came"
            time.sleep(0.01)

    def cut(self) -> None:
        """End every connection, as a router that is unplugged."""
        for pair in self._pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        self._pairs.clear()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            broker = socket.create_connection(self._to, timeout=WAIT_S)
            self._pairs.append((client, broker))
            thread = threading.Thread(target=self._relay, args=(client, broker), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _relay(self, client: socket.socket, broker: socket.socket) -> None:
        outward = _Outward(self)
        with selectors.DefaultSelector() as ready, client, broker, contextlib.suppress(OSError):
            ready.register(client, selectors.EVENT_READ)
            ready.register(broker, selectors.EVENT_READ)
            while True:
                for key, _ in ready.select():
                    data = key.fileobj.recv(1 << 16)  # type: ignore[union-attr]
                    if not data:
                        return
                    if key.fileobj is client:
                        broker.sendall(outward.feed(data))
                    else:
                        client.sendall(data)

    def secret_of(self, connect: bytes) -> bool:
        """Whether a client's acknowledgements are to be lost now."""
        return self._secret in connect

    def close(self) -> None:
        self._ended.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(WAIT_S)

    def __enter__(self) -> Wire:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Outward:
    """What one client sends, packet by packet."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._data = b""
        self._connect = b""

    def feed(self, data: bytes) -> bytes:
        """The whole packets that go on."""
        self._data += data
        out = []
        while (end := _packet_end(self._data)) and len(self._data) >= end:
            one, self._data = self._data[:end], self._data[end:]
            self._connect = self._connect or one
            if one[0] == PUBACK and self._wire.secret_of(self._connect):
                self._wire.withheld += 1
            else:
                out.append(one)
        return b"".join(out)


def _packet_end(data: bytes) -> int:
    """How long the packet at the front is; 0 while its head is not whole."""
    length = 0
    for i, byte in enumerate(data[1:5]):
        length |= (byte & 127) << 7 * i
        if byte < 128:
            return 2 + i + length
    return 0
