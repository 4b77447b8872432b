"""Asks an RTSP camera why FFmpeg could not open it, since OpenCV does not say: one DESCRIBE, and its status line.

RFC 2326 10.2 and 14.
"""

from __future__ import annotations

import re
import socket
from urllib.parse import urlsplit

from penstock_gateway.camera.challenge import authorization
from penstock_gateway.camera.credentials import Credentials
from penstock_gateway.camera.mjpeg import refusal
from penstock_gateway.camera.pictures import SourceLost, SourceRefused

PORTS = {"rtsp": 554, "rtsps": 322}
ASK_S = 3.0
_MOST = 16 << 10


def why_not(url: str, credentials: Credentials) -> SourceLost | SourceRefused:
    """The error for a stream that did not open."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or PORTS[parts.scheme]
    try:
        if parts.scheme == "rtsps":
            socket.create_connection((host, port), timeout=ASK_S).close()
            return SourceLost(f"{host}:{port} did not open the stream over TLS")
        code, words = _ask(host, port, url, credentials)
    except TimeoutError:
        return SourceLost(f"{host}:{port} is silent")
    except OSError as error:
        return SourceLost(f"no connection to {host}:{port}: {error.strerror or type(error).__name__}")
    said = credentials.redact(f"{code} {words}")
    if code in (401, 403):
        return SourceRefused(refusal(credentials, said))
    if code == 200:
        return SourceLost(f"{host}:{port} has the stream, but nothing that FFmpeg can read came of it")
    return SourceLost(f"{host}:{port} answers {said}" if code else f"{host}:{port} does not speak RTSP")


def _ask(host: str, port: int, url: str, credentials: Credentials) -> tuple[int, str]:
    """(status, words) of a DESCRIBE, answered with the credentials where it is challenged; (0, "") for no RTSP."""
    with socket.create_connection((host, port), timeout=ASK_S) as wire:
        code, words, head = _describe(wire, url, 1, "")
        if code == 401 and credentials:
            challenges = re.findall(r"^WWW-Authenticate: *(.*?)\s*$", head, flags=re.M | re.I)
            answer = authorization(challenges, credentials, "DESCRIBE", url)
            code, words, head = _describe(wire, url, 2, answer) if answer else (code, words, head)
    return code, words


def _describe(wire: socket.socket, url: str, number: int, authorization: str) -> tuple[int, str, str]:
    lines = [f"DESCRIBE {url} RTSP/1.0", f"CSeq: {number}", "Accept: application/sdp", "User-Agent: penstock"]
    if authorization:
        lines.append(f"Authorization: {authorization}")
    wire.sendall("\r\n".join([*lines, "", ""]).encode())
    raw = b""
    while b"\r\n\r\n" not in raw and len(raw) < _MOST:
        if not (more := wire.recv(4096)):
            break
        raw += more
    head = raw.partition(b"\r\n\r\n")[0].decode("latin-1")
    found = re.match(r"RTSP/\d\.\d (\d{3}) ?([^\r\n]*)", head)
    return (int(found[1]), found[2], head) if found else (0, "", head)
