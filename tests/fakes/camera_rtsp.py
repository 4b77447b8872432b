"""Cameras that speak RTSP: Motion JPEG, and H.264 out of a film."""

from __future__ import annotations

import contextlib
import hashlib
import re
import socket
from pathlib import Path
from typing import Any

import cv2

from tests.fakes.camera import Camera


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
