"""Independent MQTT clients for the system tests: a device that sends, an ear that hears, and the Mosquitto tools.

None of them is the gateway's own link: paho and Mosquitto's programs speak to the broker as a customer's would. The
ear holds every message of ours against its schema.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import numpy as np
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


@dataclass
class Steady:
    """A stream that never misses its beat: an open loop on a thread, frame n at its intended time.

    It ends with `stop`, or after `count` frames.
    """

    device: Device
    topic: str
    rate: float
    make: Callable[[int], bytes]
    qos: int = 1
    content_type: str = ""
    user: Callable[[int], dict[str, object]] = lambda n: {}
    count: int = 1 << 53
    sent: int = 0
    began: float = 0.0
    _end: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    @property
    def stream(self) -> str:
        return "/".join(self.topic.split("/")[4:6])

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name=f"steady {self.topic}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._end.set()
        if self._thread is not None:
            self._thread.join()

    def join(self) -> None:
        """Wait until all `count` frames are sent."""
        assert self._thread is not None
        self._thread.join()

    def _wait_s(self) -> float:
        return max(0.0, self.began + self.sent / self.rate - time.monotonic())

    def _run(self) -> None:
        self.began = time.monotonic()
        while self.sent < self.count and not self._end.wait(self._wait_s()):
            n = self.sent
            self.device.send(
                self.topic, self.make(n), self.qos, content_type=self.content_type, user=self.user(n)
            )
            self.sent += 1

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def check_kept(self, ear: Ear, *, least: float = 0.98) -> float:
        """Every frame was answered `ok`, at the nominal rate; returns the rate as a share of it.

        The rate is the slope of the answers' times: what one late answer at either end says is not a rate.
        """
        ear.result(self.stream, self.sent)
        ending = f"/{self.stream}/result"
        heard = [h for h in ear.heard("result") if h.topic.endswith(ending)]
        wrong = [h.body for h in heard if h.body["status"] != "ok"]
        assert not wrong and len(heard) == self.sent, f"{len(heard)} of {self.sent}; {wrong[:3]}"
        seconds = np.polyfit(range(len(heard)), [h.at for h in heard], 1)[0]
        share = float(1 / seconds / self.rate)
        assert share >= least, f"{self.stream}: {share:.3f} of its {self.rate}/s"
        return share


def mosquitto_pub(broker: Broker, topic: str, path: Path, *, version: str, qos: int = 0) -> None:
    """Publish a file as the manual says: `mosquitto_pub -t TOPIC -f FILE`."""
    command = ["mosquitto_pub", "-h", broker.host, "-p", str(broker.port), "-V", version]
    subprocess.run([*command, "-q", str(qos), "-t", topic, "-f", str(path)], check=True, timeout=WAIT_S)


@contextmanager
def mosquitto_sub(broker: Broker, topic: str, *, version: str) -> Iterator[Callable[[], bytes]]:
    """`mosquitto_sub -C 1`, subscribed already; call what it gives for the one payload."""
    # It says on a pipe what it says, not what fills a buffer: without `-oL` the SUBACK would be seen at its end.
    command = [
        "stdbuf",
        "-oL",
        "mosquitto_sub",
        "-d",
        "-h",
        broker.host,
        "-p",
        str(broker.port),
        "-V",
        version,
    ]
    command += ["-q", "1", "-C", "1", "-W", str(int(WAIT_S)), "-F", "payload %p", "-t", topic]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, b"")
        assert any(b"SUBACK" in line for line in lines), "mosquitto_sub ended"

        def payload() -> bytes:
            said = next((line for line in lines if line.startswith(b"payload ")), b"")
            assert said, f"mosquitto_sub heard nothing on {topic} in {WAIT_S} s"
            return said.removeprefix(b"payload ").rstrip(b"\n")

        try:
            yield payload
        finally:
            process.kill()


def envelope(data: object, **keys: object) -> bytes:
    """A JSON envelope."""
    return json.dumps({"data": data, **keys}).encode()
