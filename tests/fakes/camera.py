"""Cameras for the tests: servers with verbs, whose pictures carry their number. `camera_mjpeg` and `camera_rtsp` speak.

    with MjpegCamera(fps=20) as camera:
        Location.parse(camera.url)
        camera.freeze(); camera.thaw(); camera.off(); camera.on()

`age_s` says how old a picture is that somebody received. A frozen camera goes on taking pictures and keeps them, as a
stalled network does; thawed, it sends them all at once.
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
from types import TracebackType
from typing import Self

from tests.fakes.camera_pictures import HEIGHT, WIDTH, jpeg, painted

BACKLOG = 600


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


def _md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


def _shut(client: socket.socket) -> None:
    with contextlib.suppress(OSError):
        client.shutdown(socket.SHUT_RDWR)
