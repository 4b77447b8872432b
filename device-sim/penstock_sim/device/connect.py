"""How a device connects: its URL, its credentials, what it subscribes to and what it leaves when it vanishes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from penstock_gateway.config.values import BrokerUrl, SecretFile
from penstock_gateway.mqtt import LinkOptions, Publish
from penstock_models.errors import UsageError

_OUTBOX_BYTES = 128 << 20


class Files(msgspec.Struct, frozen=True):
    """PEM files: the broker's authorities, and the device's own certificate and key."""

    ca: str | Path | None = None
    cert: str | Path | None = None
    key: str | Path | None = None


def link_options(
    url: str,
    prefix: str,
    kinds: Sequence[str],
    username: str | None,
    password_file: str | Path | None,
    files: Files,
    protocol: int,
) -> LinkOptions:
    """The connection of the device whose topics begin with `prefix`; it hears `kinds` of its streams.

    Raises:
        UsageError: the URL or a file is wrong.
    """
    broker = BrokerUrl.parse(url)
    if broker.embedded:
        raise UsageError('expected "mqtt://HOST:PORT" or "mqtts://HOST:PORT", came "embedded"')
    if not broker.tls and any((files.ca, files.cert, files.key)):
        raise UsageError(f"expected a URL that starts with mqtts:// beside ca, cert and key, came {url!r}")
    if protocol not in (4, 5):
        raise UsageError(f"expected the protocol 5 or 4 (MQTT 3.1.1), came {protocol!r}")
    return LinkOptions(
        broker.host,
        broker.port,
        client_id=prefix.replace("/", "-"),
        tls=broker.tls,
        username=username,
        password=SecretFile(Path(password_file)).read() if password_file else None,
        ca=_text(files.ca),
        cert=_text(files.cert),
        key=_text(files.key),
        subscriptions=tuple((f"{prefix}/+/{kind}", 1) for kind in kinds),
        will=status(prefix, "offline"),
        protocol=protocol,
        outbox_bytes=_OUTBOX_BYTES,
    )


def status(prefix: str, text: str) -> Publish:
    """The retained status of a device: `online` or `offline`."""
    return Publish(f"{prefix}/status", text.encode(), qos=1, retain=True)


def _text(path: str | Path | None) -> str | None:
    return None if path is None else str(path)
