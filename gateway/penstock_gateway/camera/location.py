"""Which camera or file a word on the command line means. Looks at the text and, for a file, at the disk; opens nothing."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from penstock_gateway.camera.credentials import Credentials, check_url, shown_url
from penstock_models.errors import UsageError, one_line

KNOWN = "rtsp://, rtsps://, http:// or https:// (MJPEG), /dev/video0 or its number, or a file"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


class Kind(enum.Enum):
    RTSP = "rtsp"
    MJPEG = "mjpeg"
    WEBCAM = "webcam"
    FILE = "file"


@dataclass(frozen=True)
class Location:
    """Where pictures come from. `text` is for opening, `shown` for people; `credentials` are empty for most kinds."""

    kind: Kind
    text: str = field(repr=False)
    shown: str
    credentials: Credentials = field(default_factory=Credentials)

    @property
    def live(self) -> bool:
        """Whether it is a camera: its pictures come when they come, and it is connected to again."""
        return self.kind is not Kind.FILE

    @classmethod
    def parse(cls, text: str, credentials: Credentials | None = None) -> Location:
        """Understand a URL, a webcam or a path.

        Raises:
            UsageError: it is none of them, its URL holds a password, or there is no such file.
        """
        login = credentials or Credentials()
        if scheme := _SCHEME.match(text):
            return cls(_url_kind(text, scheme[1].lower(), login), text, shown_url(text), login)
        if login:
            raise UsageError(
                f"{login.source}: credentials are for a camera's URL, came {one_line(text, 200)}"
            )
        if re.fullmatch(r"\d{1,3}|/dev/video\d{1,3}", text):
            device = f"/dev/video{text}" if text.isdigit() else text
            return cls(Kind.WEBCAM, device, device)
        if not Path(text).is_file():
            raise UsageError(f"expected {KNOWN}; there is no file {one_line(text, 200)}")
        return cls(Kind.FILE, text, one_line(Path(text).name, 200))


def _url_kind(url: str, scheme: str, credentials: Credentials) -> Kind:
    try:
        check_url(url, credentials)
        host, _ = urlsplit(url).hostname, urlsplit(url).port
    except ValueError:  # its text may hold what stands before an @
        host = None
    if not host or any(sign.isspace() or not sign.isprintable() for sign in url):
        raise UsageError("expected a camera's URL such as rtsp://HOST:PORT/PATH; this one cannot be read")
    kind = {"rtsp": Kind.RTSP, "rtsps": Kind.RTSP, "http": Kind.MJPEG, "https": Kind.MJPEG}.get(scheme)
    if kind is None:
        raise UsageError(f"expected {KNOWN}, came a URL of {one_line(scheme, 20)}://")
    return kind
