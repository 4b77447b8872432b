"""A QoS 1 flow of numbered windows, and listeners of results and receipts: what a durability test sent and saw.

Both are independent clients (paho-mqtt) in threads of their own, so that nothing of the gateway judges itself. The
publisher keeps the pace of the flow whatever happens behind the broker, as a device does.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections import defaultdict
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

PASSWORD = "not a secret"
INFLIGHT = 500

Key = tuple[str, str, str, int]
"""(device, stream, boot, seq)."""


def _client(port: int, user: str | None, client_id: str, keep_s: int) -> mqtt.Client:
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=mqtt.MQTTv5)
    client.max_inflight_messages_set(INFLIGHT)
    client.max_queued_messages_set(0)
    if user is not None:
        client.username_pw_set(user, PASSWORD)
    expiry = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    expiry.SessionExpiryInterval = keep_s
    client.connect("127.0.0.1", port, clean_start=keep_s == 0, properties=expiry)
    return client


class Flow:
    """Publishes `rate` windows a second over `streams` streams of one device until it is stopped."""

    def __init__(
        self, port: int, device: str, payload: bytes, *, rate: int, streams: int = 5, user: str | None = None
    ) -> None:
        self.boot = f"{device}-boot"
        self.sent: list[Key] = []
        self._device, self._payload, self._rate, self._streams = device, payload, rate, streams
        self._stop = threading.Event()
        self._acked = threading.Semaphore(0)
        self._client = _client(port, user, f"flow-{device}", 0)
        self._client.on_publish = lambda *_: self._acked.release()
        self._client.loop_start()
        self._thread = threading.Thread(target=self._run, name=f"flow {device}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        began = time.monotonic()
        while not self._stop.is_set():
            due = int((time.monotonic() - began) * self._rate)
            while len(self.sent) < due:
                self._send(len(self.sent))
            self._stop.wait(0.005)

    def _send(self, n: int) -> None:
        stream, seq = f"s{n % self._streams}", n // self._streams
        if n >= INFLIGHT:
            assert self._acked.acquire(timeout=30), "the broker acknowledges nothing"
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.UserProperty = [("boot", self.boot), ("seq", str(seq))]
        topic = f"penstock/v1/home/dev/{self._device}/{stream}/data"
        self._client.publish(topic, self._payload, qos=1, properties=properties)
        self.sent.append((self._device, stream, self.boot, seq))

    def stop(self) -> list[Key]:
        """Stop sending, wait until the broker has everything, and return what was sent."""
        self._stop.set()
        self._thread.join(60)
        for _ in range(min(INFLIGHT, len(self.sent))):
            assert self._acked.acquire(timeout=30), "the broker acknowledges nothing"
        self._client.loop_stop()
        self._client.disconnect()
        return self.sent


class Results:
    """Hears every result at QoS 1 in a persistent session."""

    def __init__(self, port: int, user: str | None = None) -> None:
        self.seen: dict[Key, list[dict[str, Any]]] = defaultdict(list)
        self._markers: set[str] = set()
        self._client = _client(port, user, "results-listener", 3600)
        self._client.on_message = lambda _c, _u, message: self._note(message.payload)
        subscribed = threading.Event()
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.loop_start()
        self._client.subscribe("penstock/v1/home/dev/+/+/result", qos=1)
        assert subscribed.wait(10)

    def _note(self, payload: bytes | bytearray) -> None:
        result = json.loads(payload)
        if "marker" in result:
            self._markers.add(result["marker"])
            return
        self.seen[result["device"], result["stream"], result["boot"], result["seq"]].append(result)

    def wait_for(self, count: int, timeout_s: float = 60.0) -> None:
        """Wait until there are results for `count` frames."""
        deadline = time.monotonic() + timeout_s
        while len(self.seen) < count:
            assert time.monotonic() < deadline, f"{len(self.seen)} of {count} frames have a result"
            time.sleep(0.05)

    def catch_up(self, timeout_s: float = 30.0) -> None:
        """Hear everything that the broker has taken so far: a broker's queue for one client is in order."""
        marker = secrets.token_hex(8)
        payload = json.dumps({"marker": marker})
        self._client.publish("penstock/v1/home/dev/listener/marker/result", payload, qos=1)
        deadline = time.monotonic() + timeout_s
        while marker not in self._markers:
            assert time.monotonic() < deadline, "the listener's own marker did not come back"
            time.sleep(0.01)

    def close(self) -> None:
        self._client.loop_stop()
        self._client.disconnect()


class Receipts:
    """What the devices were told: for each (device, stream) the last receipt."""

    def __init__(self, port: int) -> None:
        self.told: dict[tuple[str, str], dict[str, object]] = {}
        self._client = _client(port, None, "receipts-listener", 0)
        self._client.on_message = lambda _c, _u, message: self._note(message.topic, message.payload)
        self._client.loop_start()
        self._client.subscribe("penstock/v1/home/dev/+/+/receipt", qos=1)

    def _note(self, topic: str, payload: bytes | bytearray) -> None:
        _, _, _, _, device, stream, _ = topic.split("/")
        self.told[device, stream] = json.loads(payload)

    def covered(self, device: str) -> set[Key]:
        """The windows that the device need not send again."""
        keys: set[Key] = set()
        for (told, stream), receipt in dict(self.told).items():
            if told != device:
                continue
            through, missing = receipt["through"], receipt["missing"]
            assert isinstance(through, int) and missing == []
            keys |= {(device, stream, str(receipt["boot"]), seq) for seq in range(through + 1)}
        return keys

    def close(self) -> None:
        self._client.loop_stop()
        self._client.disconnect()
