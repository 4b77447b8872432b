"""Independent MQTT clients for the system tests: a device that sends, and an ear that hears.

They are not the gateway's own link: paho speaks to the broker as a customer's client would. The ear holds every
message of ours against its schema. `clients_steady` sends to a beat, `clients_mosquitto` are Mosquitto's programs.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import msgspec
from paho.mqtt import client as mqtt
from paho.mqtt.client import MQTTMessage, MQTTMessageInfo
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.fakes.broker import Broker
from tests.fakes.schemas import validate

WAIT_S = 20.0
KINDS = {"result": "result", "receipt": "receipt", "stats": "stats", "status": "gateway-status"}
OURS = (
    "penstock/v1/+/dev/+/+/result",
    "penstock/v1/+/dev/+/+/receipt",
    "penstock/v1/+/gw/+/status",
    "penstock/v1/+/gw/+/stats",
)
"""What a gateway says, by its last level; each has a schema."""

_ids = itertools.count()


class Client:
    """A connected paho client; `protocol` is 4 (3.1.1) or 5."""

    def __init__(self, broker: Broker, protocol: int = 5) -> None:
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"test-{next(_ids)}",
            protocol=MQTTProtocolVersion.MQTTv5 if protocol == 5 else MQTTProtocolVersion.MQTTv311,
        )
        self._client.max_queued_messages_set(0)
        self._client.max_inflight_messages_set(10_000)
        self._connected = threading.Event()
        self._client.on_connect = lambda *_: self._on_connect()
        self._client.on_disconnect = lambda *_: self._connected.clear()
        self._client.reconnect_delay_set(1, 1)
        self._client.connect(broker.host, broker.port, keepalive=30)
        self._client.loop_start()
        self.wait_connected()

    def wait_connected(self) -> None:
        """Wait until it is connected, and subscribed where it hears: after a broker's restart it comes back alone."""
        assert self._connected.wait(WAIT_S), "not connected"

    def wait_lost(self) -> None:
        """Wait until it knows that its broker is gone."""
        deadline = time.monotonic() + WAIT_S
        while self._connected.is_set():
            assert time.monotonic() < deadline, "still connected"
            time.sleep(0.01)

    def _on_connect(self) -> None:
        self._connected.set()

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Device(Client):
    """Sends messages; properties need protocol 5."""

    def send(
        self,
        topic: str,
        payload: bytes,
        qos: int = 1,
        *,
        content_type: str = "",
        user: Mapping[str, object] | None = None,
        response_topic: str = "",
        correlation: bytes = b"",
        expiry_s: int | None = None,
    ) -> MQTTMessageInfo:
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        if content_type:
            properties.ContentType = content_type
        if user:
            properties.UserProperty = [(key, str(value)) for key, value in user.items()]
        if response_topic:
            properties.ResponseTopic = response_topic
        if correlation:
            properties.CorrelationData = correlation
        if expiry_s is not None:
            properties.MessageExpiryInterval = expiry_s
        return self._client.publish(topic, payload, qos, properties=properties)

    def sent(self, info: MQTTMessageInfo) -> None:
        """Wait until the broker has it."""
        info.wait_for_publish(WAIT_S)
        assert info.is_published()


@dataclass(frozen=True)
class Heard:
    """A message as it came; `at` is the monotonic clock's time."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    correlation: bytes
    at: float

    @property
    def kind(self) -> str:
        return self.topic.rpartition("/")[2]

    @property
    def body(self) -> Any:
        return msgspec.json.decode(self.payload)


class Ear(Client):
    """Hears everything that gateways say, and `extra` topics; `check` holds it against the schemas."""

    def __init__(self, broker: Broker, *extra: str, protocol: int = 5) -> None:
        self._heard: list[Heard] = []
        self._changed = threading.Condition()
        self._filters = (*OURS, *extra)
        super().__init__(broker, protocol)

    def _on_connect(self) -> None:
        self._client.on_message = lambda *given: self._take(given[2])
        self._client.on_subscribe = lambda *_: self._connected.set()
        self._client.subscribe([(text, 1) for text in self._filters])

    def _take(self, message: MQTTMessage) -> None:
        correlation = getattr(message.properties, "CorrelationData", b"")
        found = Heard(
            message.topic, bytes(message.payload), message.qos, message.retain, correlation, time.monotonic()
        )
        with self._changed:
            self._heard.append(found)
            self._changed.notify_all()

    def heard(self, kind: str = "", topic: str = "") -> list[Heard]:
        """What came so far, of one kind, on one topic."""
        with self._changed:
            heard = list(self._heard)
        return [h for h in heard if (not kind or h.kind == kind) and (not topic or h.topic == topic)]

    def results(self, stream: str = "") -> list[dict[str, Any]]:
        """The results so far, in order; of one stream ("DEVICE/STREAM")."""
        ending = f"/{stream}/result" if stream else "/result"
        return [h.body for h in self.heard("result") if h.topic.endswith(ending)]

    def wait(self, condition: Callable[[], bool], what: str, timeout_s: float = WAIT_S) -> None:
        """Wait until the condition holds, looking after each message."""
        with self._changed:
            assert self._changed.wait_for(condition, timeout_s), f"{what}: not heard in {timeout_s} s"

    def result(self, stream: str, number: int = 1, timeout_s: float = WAIT_S) -> dict[str, Any]:
        """Wait for the n-th result of a stream."""
        ending = f"/{stream}/result"

        def enough() -> bool:
            return sum(h.topic.endswith(ending) for h in self._heard) >= number

        self.wait(enough, f"result {number} of {stream}", timeout_s)
        return self.results(stream)[number - 1]

    def check(self) -> None:
        """Hold everything of ours that was heard against its schema."""
        for heard in self.heard():
            if heard.topic.startswith("penstock/") and heard.kind in KINDS and heard.payload:
                validate(KINDS[heard.kind], heard.payload)

    def close(self) -> None:
        super().close()
        self.check()


def envelope(data: object, **keys: object) -> bytes:
    """A JSON envelope."""
    return json.dumps({"data": data, **keys}).encode()
