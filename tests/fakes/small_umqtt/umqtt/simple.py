"""A stand-in for MicroPython's `umqtt.simple`, with the calls that the example of the docs makes.

It runs on MicroPython and on CPython, speaks MQTT 3.1.1 to a real broker, and is as plain as the original: QoS 0 and 1,
one message at a time, and OSError where the connection is gone.
"""

import socket
import struct

try:
    from collections.abc import Callable

    Callback = Callable[[bytes, bytes], None]
except ImportError:  # MicroPython
    pass


def _ignore(topic: bytes, msg: bytes) -> None:
    pass


class MQTTClient:
    def __init__(self, client_id: str, server: str, port: int = 1883, keepalive: int = 0) -> None:
        self.client_id, self.server, self.port, self.keepalive = client_id, server, port, keepalive
        self.sock = socket.socket()
        self.pid = 0
        self.cb: Callback = _ignore

    def set_callback(self, callback: "Callback") -> None:
        self.cb = callback

    def connect(self) -> None:
        self.sock = socket.socket()
        self.sock.connect(socket.getaddrinfo(self.server, self.port)[0][-1])
        head = b"\x00\x04MQTT\x04\x02" + struct.pack("!H", self.keepalive)
        self._send(0x10, head + self._text(self.client_id))
        answer = self._read(4)
        if answer[0] != 0x20 or answer[3] != 0:
            raise OSError(answer[3])

    def disconnect(self) -> None:
        self._send(0xE0, b"")
        self.sock.close()

    def ping(self) -> None:
        self._send(0xC0, b"")

    def publish(self, topic: bytes, msg: bytes, retain: bool = False, qos: int = 0) -> None:
        head = self._text(topic)
        if qos:
            self.pid = self.pid % 65535 + 1
            head += struct.pack("!H", self.pid)
        self._send(0x30 | qos << 1 | retain, head + msg)
        while qos:
            if self.wait_msg() == 0x40 and self._read(3)[1:] == struct.pack("!H", self.pid):
                return

    def subscribe(self, topic: bytes, qos: int = 0) -> None:
        self.pid = self.pid % 65535 + 1
        self._send(0x82, struct.pack("!H", self.pid) + self._text(topic) + bytes([qos]))
        while self.wait_msg() != 0x90:
            pass
        if self._read(4)[3] == 0x80:
            raise OSError(0x80)

    def check_msg(self) -> "int | None":
        self.sock.setblocking(False)
        return self.wait_msg()

    def wait_msg(self) -> "int | None":
        """Read one packet; what is no message is left to the caller, from its length on."""
        first = self._first()
        self.sock.setblocking(True)
        if first is None:
            return None
        if first == 0xD0:
            self._read(1)
            return None
        if first & 0xF0 != 0x30:
            return first
        body = self._read(self._length())
        at = 2 + (body[0] << 8 | body[1])
        topic = body[2:at]
        if first & 6:
            self.sock.send(b"\x40\x02" + body[at : at + 2])
            at += 2
        self.cb(topic, body[at:])
        return first

    def _first(self) -> "int | None":
        try:
            found = self.sock.recv(1)
        except OSError as error:
            if error.args[0] == 11:  # EAGAIN: nothing there
                return None
            raise
        if not found:
            raise OSError(-1)
        return found[0]

    def _read(self, count: int) -> bytes:
        parts = b""
        while len(parts) < count:
            found = self.sock.recv(count - len(parts))
            if not found:
                raise OSError(-1)
            parts += found
        return parts

    def _length(self) -> int:
        number = shift = 0
        while True:
            (byte,) = self._read(1)
            number |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return number

    def _send(self, first: int, body: bytes) -> None:
        size, head = len(body), bytes([first])
        while True:
            head += bytes([size & 0x7F | (0x80 if size > 0x7F else 0)])
            size >>= 7
            if not size:
                break
        self._write(head + body)

    def _write(self, data: bytes) -> None:
        while data:
            data = data[self.sock.send(data) :]

    @staticmethod
    def _text(value: "str | bytes") -> bytes:
        data = value if isinstance(value, bytes) else value.encode()
        return struct.pack("!H", len(data)) + data
