"""Values of the configuration that are more than a number or a string: addresses, the broker's URL, secrets."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from penstock_models.errors import UsageError

MAX_SECRET_BYTES = 64 << 10
MAX_VERSION = 2**63 - 1

_MODEL = re.compile(r"([a-z0-9_-]{1,64})(?::([0-9]{1,19})|@([A-Za-z0-9_.-]{1,64}))?")


class Address(msgspec.Struct, frozen=True):
    """A host and port to listen on; port 0 lets the system choose."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        host, colon, port = text.rpartition(":")
        host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise UsageError(f'expected "HOST:PORT" such as "127.0.0.1:8600", came "{text}"')
        return cls(host, int(port))

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class BrokerUrl(msgspec.Struct, frozen=True):
    """Where the broker is. With `embedded` the gateway starts one, and `host` is empty."""

    host: str = ""
    port: int = 0
    tls: bool = False
    embedded: bool = False

    @classmethod
    def parse(cls, text: str) -> BrokerUrl:
        if text == "embedded":
            return cls(embedded=True)
        try:
            url = urlsplit(text)
            scheme, host, port = url.scheme, url.hostname, url.port
        except ValueError:
            scheme, host, port = "", None, None
        if scheme not in ("mqtt", "mqtts") or not host or port == 0:
            raise UsageError(
                f'expected "mqtt://HOST:PORT", "mqtts://HOST:PORT" or "embedded", came "{_redacted(text)}"'
            )
        if "@" in url.netloc:
            raise UsageError(
                "expected a URL without a user, since secrets come from files: set `username` and `password_file`"
            )
        if url.path not in ("", "/") or url.query or url.fragment:
            raise UsageError(f'expected nothing after the port, came "{text}"')
        tls = scheme == "mqtts"
        return cls(host, port or (8883 if tls else 1883), tls)

    def __str__(self) -> str:
        if self.embedded:
            return "embedded"
        return f"{'mqtts' if self.tls else 'mqtt'}://{Address(self.host, self.port)}"


def _redacted(text: str) -> str:
    head, at, tail = text.rpartition("@")
    return f"…@{tail}" if at and head else text


class SecretFile(msgspec.Struct, frozen=True):
    """A file that holds a secret: read when it is used, so that the secret is in no tree, print or log."""

    path: Path

    def read(self) -> str:
        """Read the secret without the final line end.

        Raises:
            UsageError: where the file cannot be read, is empty, too large or no UTF-8.
        """
        try:
            with self.path.open("rb") as file:
                text = file.read(MAX_SECRET_BYTES + 1).decode()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"{self.path}: expected a readable UTF-8 text file with a secret: {_why(error)}"
            ) from None
        if not text.strip() or len(text) > MAX_SECRET_BYTES:
            raise UsageError(
                f"{self.path}: expected a secret of 1 to {MAX_SECRET_BYTES} bytes, came {len(text)}"
            )
        return text.rstrip("\r\n")

    def tokens(self) -> tuple[str, ...]:
        """Read the tokens of a server's file, one `NAME TOKEN` a line.

        Raises:
            UsageError: as `read`, or a line is none of these.
        """
        lines = [(n, line.split()) for n, line in enumerate(self.read().splitlines(), 1) if line.strip()]
        for n, words in lines:
            if len(words) != 2:
                raise UsageError(f"{self.path}:{n}: expected `NAME TOKEN`, came {len(words)} words")
        return tuple(token for _, (_, token) in lines)

    def too_open(self) -> bool:
        """Whether others than its owner may read the file."""
        try:
            return bool(self.path.stat().st_mode & 0o044)
        except OSError:
            return False

    def __str__(self) -> str:
        return str(self.path)


def _why(error: OSError | UnicodeDecodeError) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else "not UTF-8"


class ModelRef(msgspec.Struct, frozen=True):
    """Which version of which model: the newest, a numbered one, or the one that a label points to."""

    name: str
    version: int | None = None
    label: str | None = None

    @classmethod
    def parse(cls, text: str) -> ModelRef:
        found = _MODEL.fullmatch(text)
        version = int(found[2]) if found and found[2] else None
        if found is None or (version is not None and not 1 <= version <= MAX_VERSION):
            raise UsageError(
                f'expected "NAME", "NAME:VERSION" or "NAME@LABEL" with NAME in a-z 0-9 _ -, came "{text}"'
            )
        return cls(found[1], version, found[3])

    def __str__(self) -> str:
        if self.version is not None:
            return f"{self.name}:{self.version}"
        return f"{self.name}@{self.label}" if self.label else self.name
