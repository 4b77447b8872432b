"""A site for a system test: a real Mosquitto, a real gateway on a store of packed models, an ear and a device.

with site(tmp_path, store, route("home", "colours")) as home:
    home.send("door/cam", picture)
    assert home.ear.result("door/cam")["status"] == "ok"
    home.check_books()
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paho.mqtt.client import MQTTMessageInfo

from tests.fakes.broker import Broker, mosquitto
from tests.fakes.clients import Device, Ear
from tests.fakes.gateway import Gateway, gateway
from tests.fakes.schemas import validate

ROOMY = "max_queued_messages 100000\nmax_inflight_messages 1000\n"
BUCKETS = (
    "answered", "unchanged", "superseded", "duplicate", "expired", "rejected", "failed", "dropped", "in_flight",
)  # fmt: skip
STATUS_TOPIC = "penstock/v1/home/gw/gw1/status"


def topic(stream: str, kind: str = "frame") -> str:
    return f"penstock/v1/home/dev/{stream}/{kind}"


def route(model: str, topic: str = "penstock/v1/home/dev/{device}/{stream}/frame", **keys: object) -> str:
    """A [[route]]; keys as TOML has them."""
    values = {"topic": topic, "model": model, **keys}
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    return "\n".join(["[[route]]", *lines, ""])


def device_route(model: str, device: str, kind: str = "frame", **keys: object) -> str:
    """A route of one device, so that several models stand side by side."""
    return route(model, f"penstock/v1/home/dev/{device}/{{stream}}/{kind}", device=device, **keys)


def config(url: str, store: Path, *routes: str, mqtt: str = "", top: str = "", more: str = "") -> str:
    """The text of a gateway.toml; `mqtt` are further lines of its table, `top` of the top level."""
    head = f'site = "home"\ngateway = "gw1"\n{top}\n[mqtt]\nurl = "{url}"\n{mqtt}\n'
    return "\n".join([head, f'[models]\npath = "{store}"', more, *routes])


@dataclass
class Site:
    """What a test needs of a running site; `device` is an MQTT 5 client, `sent` what it sent through `send`."""

    broker: Broker
    gateway: Gateway
    ear: Ear
    device: Device
    sent: int = 0

    def send(self, stream: str, payload: bytes, kind: str = "frame", **options: Any) -> MQTTMessageInfo:
        self.sent += 1
        return self.device.send(topic(stream, kind), payload, **options)

    def ask(self, stream: str, payload: bytes, kind: str = "frame", **options: Any) -> dict[str, Any]:
        """Send one frame on a stream and wait for its result."""
        before = len(self.ear.results(stream))
        self.send(stream, payload, kind, **options)
        return self.ear.result(stream, before + 1)

    def wait_lost(self) -> None:
        """Wait until everybody knows that the broker is gone."""
        self.gateway.wait_for(lambda: self.gateway.get("/readyz")[0] == 503, "does not notice")
        self.ear.wait_lost()
        self.device.wait_lost()

    def wait_connected(self) -> None:
        """Wait until everybody is connected again."""
        self.gateway.wait_ready()
        self.ear.wait_connected()
        self.device.wait_connected()

    def page(self) -> dict[str, Any]:
        """The status page, held against its schema and its own sums."""
        code, body = self.gateway.get("/v1/status")
        assert code == 200, body
        page: dict[str, Any] = validate("status-page", body)
        for name, ledger in [("all", page["ledger"]), *page["streams"].items()]:
            check_sum(name, ledger)
        return page

    def counts(self, stream: str) -> dict[str, Any]:
        """The ledger of one stream; zeros before its first frame."""
        empty = {**dict.fromkeys(BUCKETS, 0), "received": 0, "reasons": {}, "missing_upstream": 0}
        return {**empty, **self.page()["streams"].get(stream, {})}

    def check_books(self, more: int = 0, timeout_s: float = 20.0) -> dict[str, Any]:
        """What was sent, and `more` by others, has its fate, per stream and in total; returns the total."""
        sent = self.sent + more
        self.gateway.wait_settled(sent, timeout_s)
        total: dict[str, Any] = self.page()["ledger"]
        assert total["received"] == sent, total
        return total


def check_sum(name: str, ledger: dict[str, Any]) -> None:
    """The sum of contracts 4."""
    parts = {bucket: ledger.get(bucket, 0) for bucket in BUCKETS}
    assert ledger["received"] == sum(parts.values()), f"{name}: {ledger}"
    for bucket, reasons in ledger.get("reasons", {}).items():
        assert sum(reasons.values()) <= parts[bucket], f"{name}: {ledger}"


@contextmanager
def site(
    folder: Path,
    store: Path,
    *routes: str,
    mqtt: str = "",
    top: str = "",
    more: str = "",
    ears: tuple[str, ...] = (),
    broker_config: str = ROOMY,
) -> Iterator[Site]:
    """Start all of it, and wait until the gateway is ready."""
    with mosquitto(broker_config) as broker:
        text = config(broker.url, store, *routes, mqtt=mqtt, top=top, more=more)
        with Ear(broker, *ears) as ear, Device(broker) as device, gateway(text, folder) as process:
            process.wait_ready()
            yield Site(broker, process, ear, device)
