"""Cameras for the tests: an MJPEG server and an RTSP server with verbs, whose pictures carry their number.

    with MjpegCamera(fps=20) as camera:
        Location.parse(camera.url)
        camera.freeze(); camera.thaw(); camera.off(); camera.on()

A picture's number is painted into it as black and white blocks, so that it survives any encoding; `age_s` says how old
a picture is that somebody received. A frozen camera goes on taking pictures and keeps them, as a stalled network does;
thawed, it sends them all at once.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import secrets
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import cv2
import numpy as np

BITS = 16
WIDTH, HEIGHT = 320, 240
BACKLOG = 600


def painted(number: int, width: int = WIDTH, height: int = HEIGHT) -> Any:
    """A picture that shows a number, (height, width, 3) uint8."""
    bits = [255 * (number >> bit & 1) for bit in range(BITS)]
    row = np.repeat(np.array(bits, np.uint8), width // BITS)
    return np.broadcast_to(row[None, :, None], (height, width, 3)).copy()


def jpeg(image: Any, quality: int = 90) -> bytes:
    data: bytes = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
    return data


def number_of(data: bytes) -> int:
    """The number that an encoded picture shows."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert image is not None, "no picture"
    return number_in(image)


def number_in(image: Any) -> int:
    means = np.array_split(image.reshape(image.shape[0], -1), BITS, axis=1)
    return sum(int(block.mean() > 127) << bit for bit, block in enumerate(means))


class Camera(ABC):
    """A listener, a thread that takes pictures, one thread a client. Subclasses speak a protocol in `serve`.

    Args:
        fps: pictures a second.
        login: (user, password) to ask for.
        schemes: the challenges that it sends, in order.
    """

    scheme = "http"

    def __init__(
        self,
        fps: float = 20.0,
        *,
        login: tuple[str, str] | None = None,
        schemes: Sequence[str] = ("Digest",),
        size: tuple[int, int] = (WIDTH, HEIGHT),
    ) -> None:
        self.fps, self.login, self.schemes, self.size = fps, login, schemes, size
        self.taken: list[float] = []
        """When each picture was taken, on the monotonic clock."""
        self.jpegs: dict[int, bytes] = {}
        self.requests: list[str] = []
        """The heads of the requests that came."""
        self.nonce = secrets.token_hex(8)
        self._listener: socket.socket | None = None
        self._port = 0
        self._clients: dict[socket.socket, deque[int]] = {}
        self._changed = threading.Condition()
        self._frozen = False
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.address}/stream"

    @property
    def clients(self) -> int:
        with self._changed:
            return len(self._clients)

    def age_s(self, number: int, at: float) -> float:
        """How old picture `number` was at a monotonic time."""
        return at - self.taken[number]

    def on(self) -> None:
        """Listen, on the same port as before."""
        listener = socket.create_server(("127.0.0.1", self._port))
        self._port = listener.getsockname()[1]
        self._listener = listener
        self._spawn(lambda: self._accept(listener))

    def off(self) -> None:
        """Break every connection; who comes is refused."""
        if self._listener is not None:
            # A close alone would leave the port listening while `accept` sleeps in it.
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        self.drop()

    def drop(self) -> None:
        """Break every connection."""
        with self._changed:
            clients = list(self._clients)
            self._clients.clear()
            self._changed.notify_all()
        for client in clients:
            _shut(client)

    def freeze(self) -> None:
        """Say nothing more, on any connection: the cable is cut. Pictures are still taken, and wait."""
        with self._changed:
            self._frozen = True

    def thaw(self) -> None:
        with self._changed:
            self._frozen = False
            self._changed.notify_all()

    def take_on(self) -> None:
        """Take pictures at the pace, whoever looks."""
        began = time.monotonic()
        while not self._over.wait(max(0.0, began + len(self.taken) / self.fps - time.monotonic())):
            number = len(self.taken)
            self.jpegs[number] = self.make(number)
            with self._changed:
                self.taken.append(time.monotonic())
                for waiting in self._clients.values():
                    waiting.append(number)
                self._changed.notify_all()

    def make(self, number: int) -> bytes:
        """Picture `number`, encoded."""
        return jpeg(painted(number, *self.size))

    def next_picture(self, client: socket.socket) -> int | None:
        """Wait for the next picture for this client; None when it is to go."""

        def there() -> bool:
            waiting = self._clients.get(client)
            return waiting is None or (bool(waiting) and not self._frozen) or self._over.is_set()

        with self._changed:
            self._changed.wait_for(there)
            waiting = self._clients.get(client)
            return waiting.popleft() if waiting and not self._over.is_set() else None

    def melted(self) -> bool:
        """Wait while it is frozen; False when it ended."""
        with self._changed:
            self._changed.wait_for(lambda: not self._frozen or self._over.is_set())
        return not self._over.is_set()

    def begin(self, client: socket.socket) -> None:
        """From now on the client gets pictures."""
        with self._changed:
            self._clients[client] = deque(maxlen=BACKLOG)

    @abstractmethod
    def serve(self, client: socket.socket) -> None:
        """Speak with one client until it leaves."""

    def read_head(self, client: socket.socket) -> str:
        """A request up to its blank line, "" at the end; interleaved binary before it is left out."""
        raw = b""
        while not raw.endswith(b"\r\n\r\n"):
            byte = client.recv(1)
            if not byte:
                return ""
            if byte == b"$" and not raw:
                _, length = client.recv(1), int.from_bytes(client.recv(2, socket.MSG_WAITALL), "big")
                client.recv(length, socket.MSG_WAITALL)
                continue
            raw += byte
        self.requests.append(raw.decode())
        return raw.decode()

    def allowed(self, head: str, method: str, url: str) -> bool:
        """Whether the request holds the right credentials."""
        if self.login is None:
            return True
        found = re.search(r"^Authorization: (\w+) (.*)$", head, flags=re.M | re.I)
        if found is None or found[1] not in self.schemes:
            return False
        user, password = self.login
        if found[1] == "Basic":
            return base64.b64decode(found[2]).decode() == f"{user}:{password}"
        given = dict(re.findall(r'(\w+)="?([^",\r]*)"?', found[2]))
        if method != "DESCRIBE" and self.scheme == "http":
            assert given["uri"] == url
        secret, request = _md5(f"{user}:camera:{password}"), _md5(f"{method}:{given['uri']}")
        if "qop" in given:
            request = f"{given['nc']}:{given['cnonce']}:{given['qop']}:{request}"
        return given.get("response") == _md5(f"{secret}:{self.nonce}:{request}")

    def challenges(self) -> list[str]:
        texts = {
            "Basic": 'WWW-Authenticate: Basic realm="camera"',
            "Digest": f'WWW-Authenticate: Digest realm="camera", nonce="{self.nonce}"{self.qop}',
        }
        return [texts[name] for name in self.schemes]

    qop = ""

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self._spawn(lambda client=client: self._serve(client))  # type: ignore[misc]

    def _serve(self, client: socket.socket) -> None:
        client.settimeout(60)
        try:
            self.serve(client)
        except OSError:
            pass
        finally:
            with self._changed:
                self._clients.pop(client, None)
            _shut(client)
            client.close()

    def _spawn(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name=type(self).__name__, daemon=True)
        self._threads.append(thread)
        thread.start()

    def __enter__(self) -> Self:
        self.on()
        self._spawn(self.take_on)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self.thaw()
        self.off()
        for thread in self._threads:
            thread.join(5)


class MjpegCamera(Camera):
    """`multipart/x-mixed-replace` over HTTP 1.1. `lengths` False leaves Content-Length out of the parts."""

    qop = ', qop="auth"'

    def __init__(self, fps: float = 20.0, *, lengths: bool = True, stamps: bool = False, **more: Any) -> None:
        super().__init__(fps, **more)
        self.lengths, self.stamps = lengths, stamps
        self.answer = ""
        """A whole other answer, where one is set."""
        self.corrupt: set[int] = set()
        """Pictures that are sent as something else."""

    def serve(self, client: socket.socket) -> None:
        head = self.read_head(client)
        while head and self.melted():
            path = head.split()[1]
            if self.answer:
                client.sendall(self.answer.encode())
                return
            if self.allowed(head, "GET", path):
                self._stream(client)
                return
            lines = ["HTTP/1.1 401 Unauthorized", *self.challenges(), "Content-Length: 0", "", ""]
            client.sendall("\r\n".join(lines).encode())
            head = self.read_head(client)

    def _stream(self, client: socket.socket) -> None:
        kind = "Content-Type: multipart/x-mixed-replace; boundary=frame"
        client.sendall(f"HTTP/1.1 200 OK\r\n{kind}\r\nConnection: close\r\n\r\n".encode())
        self.begin(client)
        while (number := self.next_picture(client)) is not None:
            data = b"no picture" if number in self.corrupt else self.jpegs[number]
            lines = ["--frame", "Content-Type: image/jpeg"]
            lines += [f"Content-Length: {len(data)}"] if self.lengths else []
            lines += [f"X-Timestamp: {self.taken[number] + 1e6:.6f}"] if self.stamps else []
            client.sendall("\r\n".join([*lines, "", ""]).encode() + data + b"\r\n")


class RtspCamera(Camera):
    """RTSP 1.0 (RFC 2326) over TCP, with its RTP interleaved, and Motion JPEG in it (RFC 2435)."""

    scheme = "rtsp"

    def serve(self, client: socket.socket) -> None:
        while head := self.read_head(client):
            if not self.melted():
                return
            method, url = head.split()[:2]
            if not self.allowed(head, method, url):
                self._answer(client, head, "401 Unauthorized", *self.challenges())
            elif method == "DESCRIBE":
                self._answer(client, head, "200 OK", f"Content-Base: {self.url}/", "Content-Type: application/sdp",
                             body=self.description())  # fmt: skip
            elif method == "SETUP":
                transport = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1"
                self._answer(client, head, "200 OK", "Session: 1;timeout=60", transport)
            elif method == "PLAY":
                self._answer(client, head, "200 OK", "Session: 1", "Range: npt=0.000-")
                self.begin(client)
                self._spawn(lambda: self._stream(client))
            else:
                self._answer(client, head, "200 OK", "Session: 1", "Public: DESCRIBE, SETUP, PLAY, TEARDOWN")

    def _answer(self, client: socket.socket, head: str, status: str, *lines: str, body: str = "") -> None:
        number = re.search(r"^CSeq: *(\d+)", head, flags=re.M | re.I)
        assert number is not None
        text = [f"RTSP/1.0 {status}", f"CSeq: {number[1]}", *lines]
        text += [f"Content-Length: {len(body)}"] if body else []
        client.sendall("\r\n".join([*text, "", body]).encode())

    def description(self) -> str:
        media = [
            "m=video 0 RTP/AVP 26",
            "a=rtpmap:26 JPEG/90000",
            f"a=framerate:{self.fps:g}",
            "a=control:track1",
        ]
        return "\r\n".join(["v=0", "o=- 0 0 IN IP4 127.0.0.1", "s=camera", "t=0 0", *media, ""])

    def _stream(self, client: socket.socket) -> None:
        sequence = 0
        with contextlib.suppress(OSError):
            while (number := self.next_picture(client)) is not None:
                stamp = round((self.taken[number] - self.taken[0]) * 90_000) & 0xFFFFFFFF
                packets = self.packets(number)
                for at, payload in enumerate(packets):
                    last = at == len(packets) - 1
                    client.sendall(_rtp(self.payload_type | 128 * last, sequence, stamp, payload))
                    sequence = sequence + 1 & 0xFFFF

    payload_type = 26

    def packets(self, number: int) -> list[bytes]:
        """A picture's RTP payloads: RFC 2435 3.1, quantization tables in the first (Q 255)."""
        tables, scan = _scan_of(self.jpegs[number])
        width, height = self.size
        payloads, offset = [], 0
        while offset < len(scan):
            piece = scan[offset : offset + 1300]
            header = b"\0" + offset.to_bytes(3, "big") + bytes((1, 255, width // 8, height // 8))
            if offset == 0:
                header += b"\0\0" + len(tables).to_bytes(2, "big") + tables
            payloads.append(header + piece)
            offset += len(piece)
        return payloads


class H264Camera(RtspCamera):
    """The same with H.264 (RFC 6184) out of a video file, its first `count` pictures again and again."""

    payload_type = 96

    def __init__(self, film: Path, count: int, fps: float = 10.0, **more: Any) -> None:
        super().__init__(fps, **more)
        raw, decoded = (
            cv2.VideoCapture(str(film), cv2.CAP_FFMPEG),
            cv2.VideoCapture(str(film), cv2.CAP_FFMPEG),
        )
        assert raw.set(cv2.CAP_PROP_FORMAT, -1)
        self._units = [raw.read()[1].tobytes() for _ in range(count)]
        self._shown = [hashlib.md5(decoded.read()[1].tobytes()).digest() for _ in range(count)]

    def make(self, number: int) -> bytes:
        return self._units[number % len(self._units)]

    def numbers(self, image: Any) -> list[int]:
        """The pictures taken so far that look so to the last bit, as a decoder without loss shows them."""
        print_of = hashlib.md5(image.tobytes()).digest()
        return [n for n in range(len(self.taken)) if self._shown[n % len(self._shown)] == print_of]

    def description(self) -> str:
        media = ["m=video 0 RTP/AVP 96", "a=rtpmap:96 H264/90000", "a=fmtp:96 packetization-mode=1"]
        return "\r\n".join(
            ["v=0", "o=- 0 0 IN IP4 127.0.0.1", "s=camera", "t=0 0", *media, "a=control:track1", ""]
        )

    def packets(self, number: int) -> list[bytes]:
        units = [unit.strip(b"\0") for unit in self.jpegs[number].split(b"\0\0\1")]
        return [packet for unit in units if unit for packet in _nal_packets(unit)]


def _nal_packets(unit: bytes) -> list[bytes]:
    """A NAL unit whole, or in fragments (FU-A, RFC 6184 5.8)."""
    if len(unit) <= 1300:
        return [unit]
    pieces = [unit[at : at + 1300] for at in range(1, len(unit), 1300)]
    indicator, kind, last = unit[0] & 0xE0 | 28, unit[0] & 31, len(pieces) - 1
    heads = [kind | 0x80 * (n == 0) | 0x40 * (n == last) for n in range(len(pieces))]
    return [bytes((indicator, head)) + piece for head, piece in zip(heads, pieces)]


def _scan_of(data: bytes) -> tuple[bytes, bytes]:
    """(quantization tables, entropy-coded scan) of a baseline JPEG."""
    tables, at = b"", 2
    while True:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        body = data[at + 4 : at + 2 + length]
        if marker == 0xDB:
            tables += b"".join(body[n + 1 : n + 65] for n in range(0, len(body), 65))
        at += 2 + length
        if marker == 0xDA:
            return tables, data[at:-2]


def _rtp(kind: int, sequence: int, stamp: int, payload: bytes) -> bytes:
    packet = (
        bytes((0x80, kind)) + sequence.to_bytes(2, "big") + stamp.to_bytes(4, "big") + b"\0\0\0\1" + payload
    )
    return b"$\0" + len(packet).to_bytes(2, "big") + packet


def _md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


def _shut(client: socket.socket) -> None:
    with contextlib.suppress(OSError):
        client.shutdown(socket.SHUT_RDWR)
