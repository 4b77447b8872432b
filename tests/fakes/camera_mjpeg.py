"""A camera that serves MJPEG over HTTP."""

from __future__ import annotations

import socket
from typing import Any

from tests.fakes.camera import Camera


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
