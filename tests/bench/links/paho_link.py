"""The seam on paho-mqtt: its network loop in a thread, acknowledgements by hand.

What it cannot do: keep pinging while it does not read (`pause` blocks its thread, so a pause longer than the keepalive
costs the connection); honour the broker's Receive Maximum beyond a fixed window; count overruns; jitter its back-off;
fall back to 3.1.1 by itself.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from functools import lru_cache
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as UntypedProperties
from paho.mqtt.subscribeoptions import SubscribeOptions

from penstock_gateway.mqtt import (
    Granted,
    LinkOptions,
    LinkState,
    Message,
    OnAcked,
    OnMessages,
    Publish,
    Traffic,
)
from penstock_gateway.mqtt.acks import AckWindow
from tests.bench.links.crossing import Crossing

Properties: Any = UntypedProperties  # without types of its own


class PahoLink:
    """`Link` on paho-mqtt 2."""

    overruns = dropped = 0
    refused_topic = ""

    def __init__(self, options: LinkOptions) -> None:
        self._options = options
        self.refused: Counter[str] = Counter()
        self.traffic = Traffic()
        self._v5 = options.protocol == 5
        self._gate = threading.Event()
        self._gate.set()
        self._acks = AckWindow()
        self._waiting: dict[int, OnAcked | None] = {}
        self._some_done = asyncio.Event()
        self._client = self._make()
        self._granted = Granted(protocol=options.protocol, session_present=False)

    def _make(self) -> paho.Client:
        options = self._options
        clean = options.session_expiry_s == 0
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            options.client_id,
            clean_session=None if self._v5 else clean,
            protocol=paho.MQTTv5 if self._v5 else paho.MQTTv311,
            manual_ack=True,
        )
        if options.username is not None:
            client.username_pw_set(options.username, options.password)
        if options.tls:
            client.tls_set(options.ca, options.cert, options.key)
        if options.will is not None:
            will = options.will
            client.will_set(will.topic, will.payload, will.qos, will.retain)
        client.max_inflight_messages_set(1000)
        client.max_queued_messages_set(options.outbox)
        client.reconnect_delay_set(1, max(1, round(options.reconnect_max_s)))
        client.on_connect = self._connected
        client.on_subscribe = self._subscribed
        client.on_disconnect = self._disconnected
        client.on_message = self._arrived
        client.on_publish = self._published
        return client

    async def run(self, on_messages: OnMessages, state: LinkState) -> None:
        loop = asyncio.get_running_loop()
        self._inbox: Crossing[paho.MQTTMessage] = Crossing(loop, lambda found: self._take(found, on_messages))
        self._done: Crossing[int] = Crossing(loop, self._finish)
        self._news: Crossing[Granted | str] = Crossing(loop, lambda news: _tell(news, state))
        properties = self._connect_properties() if self._v5 else None
        clean: Any = self._options.session_expiry_s == 0 if self._v5 else paho.MQTT_CLEAN_START_FIRST_ONLY
        self._client.connect_async(
            self._options.host,
            self._options.port,
            self._options.keepalive_s,
            clean_start=clean,
            properties=properties,
        )
        self._client.loop_start()
        try:
            await asyncio.Event().wait()
        finally:
            self._gate.set()
            self._client.disconnect()
            await asyncio.to_thread(self._client.loop_stop)

    def _connect_properties(self) -> Properties:
        found = Properties(PacketTypes.CONNECT)
        if self._options.session_expiry_s:
            found.SessionExpiryInterval = self._options.session_expiry_s
        if self._options.receive_maximum < 65_535:
            found.ReceiveMaximum = self._options.receive_maximum
        return found

    # In paho's thread: hand over, and no more.

    def _connected(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self._news.put(f"the broker refused: {reason}")
            return
        self._granted = Granted(protocol=5 if self._v5 else 4, session_present=flags.session_present)
        if self._options.subscriptions:
            client.subscribe(list(self._options.subscriptions) if not self._v5 else self._v5_filters())
        else:
            self._news.put(self._granted)

    def _v5_filters(self) -> list[tuple[str, SubscribeOptions]]:
        return [
            (name, SubscribeOptions(qos=qos, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND))
            for name, qos in self._options.subscriptions
        ]

    def _subscribed(self, client: Any, userdata: Any, mid: int, reasons: Any, properties: Any) -> None:
        self._news.put(self._granted)

    def _disconnected(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        self._news.put(str(reason))

    def _arrived(self, client: Any, userdata: Any, message: paho.MQTTMessage) -> None:
        self._gate.wait()
        self._inbox.put(message)

    def _published(self, client: Any, userdata: Any, mid: int, reason: Any, properties: Any) -> None:
        self._done.put(mid)

    # On the event loop.

    def _take(self, found: list[paho.MQTTMessage], on_messages: OnMessages) -> None:
        arrive = self._acks.arrive
        on_messages([_message(m, arrive(m.mid) if m.qos else 0) for m in found])

    def _finish(self, mids: list[int]) -> None:
        for mid in mids:
            on_acked = self._waiting.pop(mid, None)
            if on_acked is not None:
                on_acked()
        self._some_done.set()

    def publish(self, message: Publish, on_acked: OnAcked | None = None) -> bool:
        properties = _publish_properties(message) if self._v5 else None
        info = self._client.publish(
            message.topic, message.payload, message.qos, message.retain, properties=properties
        )
        if info.rc == paho.MQTT_ERR_QUEUE_SIZE:
            return False
        self._waiting[info.mid] = on_acked
        if info.rc != paho.MQTT_ERR_SUCCESS and not message.qos:
            self._done.put(info.mid)
        return True

    def ack(self, handle: int) -> None:
        self._acks.allow(handle)
        for packet_id in self._acks.take():
            self._client.ack(packet_id, 1)

    def pause(self) -> None:
        self._gate.clear()

    def resume(self) -> None:
        self._gate.set()

    async def flush(self, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                while self._waiting:
                    self._some_done.clear()
                    await self._some_done.wait()
        except TimeoutError:
            return False
        return True


def _tell(news: list[Granted | str], state: LinkState) -> None:
    for item in news:
        if isinstance(item, Granted):
            state.up(item)
        else:
            state.down(item)


def _message(found: Any, handle: int) -> Message:
    given = found.properties
    if given is None or given.isEmpty():
        return Message(found.topic, found.payload, found.qos, found.retain, found.dup, handle, found.mid)
    return Message(
        found.topic,
        found.payload,
        found.qos,
        found.retain,
        found.dup,
        handle,
        found.mid,
        getattr(given, "ContentType", ""),
        getattr(given, "MessageExpiryInterval", None),
        getattr(given, "ResponseTopic", ""),
        getattr(given, "CorrelationData", b""),
        tuple(getattr(given, "UserProperty", ())),
    )


@lru_cache(maxsize=256)
def _content_type(value: str) -> Properties | None:
    if not value:
        return None
    found = Properties(PacketTypes.PUBLISH)
    found.ContentType = value
    return found


def _publish_properties(message: Publish) -> Properties | None:
    if not (message.user or message.correlation or message.expiry_s is not None):
        return _content_type(message.content_type)
    found = Properties(PacketTypes.PUBLISH)
    if message.content_type:
        found.ContentType = message.content_type
    if message.expiry_s is not None:
        found.MessageExpiryInterval = message.expiry_s
    if message.correlation:
        found.CorrelationData = message.correlation
    if message.user:
        found.UserProperty = list(message.user)
    return found
