"""The seam on awscrt's MQTT 5 client: a C core with threads of its own, acknowledgements by hand.

What it cannot do: tell a redelivery (its packets have no DUP flag); stop reading its socket (`pause` only holds back
what was read, in memory; with acknowledgements withheld Receive Maximum bounds it at QoS 1, nothing does at QoS 0);
speak 3.1.1; count overruns.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from awscrt import io, mqtt5  # type: ignore[import-untyped]

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

_QOS = (mqtt5.QoS.AT_MOST_ONCE, mqtt5.QoS.AT_LEAST_ONCE)

Arrival = tuple[Any, Any]
"""A publish packet, and the control of its PUBACK or None."""


class CrtLink:
    """`Link` on awscrt."""

    overruns = dropped = 0
    refused_topic = ""

    def __init__(self, options: LinkOptions) -> None:
        self._options = options
        self.refused: Counter[str] = Counter()
        self.traffic = Traffic()
        self._acks = AckWindow()
        self._controls: dict[int, Any] = {}
        self._last = 0
        self._paused = False
        self._held: list[Message] = []
        self._outstanding = 0
        self._some_done = asyncio.Event()
        self._client: Any = None
        self._on_messages: OnMessages = lambda messages: None

    async def run(self, on_messages: OnMessages, state: LinkState) -> None:
        loop = asyncio.get_running_loop()
        self._on_messages = on_messages
        self._inbox: Crossing[Arrival] = Crossing(loop, self._take)
        self._done: Crossing[OnAcked | None] = Crossing(loop, self._finish)
        news: Crossing[Granted | str] = Crossing(loop, lambda items: _tell(items, state))
        stopped = asyncio.Event()
        self._client = mqtt5.Client(
            self._client_options(news, lambda data: loop.call_soon_threadsafe(stopped.set))
        )
        self._client.start()
        try:
            await asyncio.Event().wait()
        finally:
            self._client.stop(mqtt5.DisconnectPacket())
            await asyncio.wait_for(stopped.wait(), 5)
            self._client = None

    def _client_options(self, news: Crossing[Granted | str], stopped: Callable[[Any], object]) -> Any:
        options = self._options
        clean = options.session_expiry_s == 0
        tls = None
        if options.tls:
            context = io.TlsContextOptions()
            if options.cert and options.key:
                context = io.TlsContextOptions.create_client_with_mtls_from_path(options.cert, options.key)
            if options.ca:
                context.override_default_trust_store_from_path(None, options.ca)
            tls = io.ClientTlsContext(context)

        def failed(data: Any) -> None:
            news.put(str(data.exception))

        def connected(data: Any) -> None:
            self._subscribe(data, news)

        return mqtt5.ClientOptions(
            host_name=options.host,
            port=options.port,
            tls_ctx=tls,
            connect_options=mqtt5.ConnectPacket(
                keep_alive_interval_sec=options.keepalive_s,
                client_id=options.client_id,
                username=options.username,
                password=options.password,
                session_expiry_interval_sec=options.session_expiry_s or None,
                receive_maximum=options.receive_maximum,
                maximum_packet_size=options.max_packet,
            ),
            session_behavior=mqtt5.ClientSessionBehaviorType.CLEAN
            if clean
            else mqtt5.ClientSessionBehaviorType.REJOIN_ALWAYS,
            offline_queue_behavior=mqtt5.ClientOperationQueueBehaviorType.FAIL_QOS0_PUBLISH_ON_DISCONNECT,
            extended_validation_and_flow_control_options=mqtt5.ExtendedValidationAndFlowControlOptions.NONE,
            min_reconnect_delay_ms=round(options.reconnect_min_s * 1000),
            max_reconnect_delay_ms=round(options.reconnect_max_s * 1000),
            ping_timeout_ms=options.keepalive_s * 500,
            on_publish_callback_fn=self._arrived,
            on_lifecycle_event_connection_success_fn=connected,
            on_lifecycle_event_connection_failure_fn=failed,
            on_lifecycle_event_disconnection_fn=failed,
            on_lifecycle_event_stopped_fn=stopped,
            disable_metrics=True,
        )

    # In awscrt's threads: hand over, and no more.

    def _subscribe(self, data: Any, news: Crossing[Granted | str]) -> None:
        settings = data.negotiated_settings
        granted = Granted(
            protocol=5,
            session_present=data.connack_packet.session_present,
            receive_maximum=settings.receive_maximum_from_server,
            session_expiry_s=settings.session_expiry_interval_sec,
        )
        if not self._options.subscriptions:
            news.put(granted)
            return
        filters = [
            mqtt5.Subscription(name, _QOS[qos], retain_handling_type=mqtt5.RetainHandlingType.DONT_SEND)
            for name, qos in self._options.subscriptions
        ]
        asked = self._client.subscribe(mqtt5.SubscribePacket(filters))
        asked.add_done_callback(lambda answer: news.put(granted))

    def _arrived(self, data: Any) -> None:
        acquire = data.acquire_publish_acknowledgement_control
        self._inbox.put((data.publish_packet, acquire() if acquire is not None else None))

    # On the event loop.

    def _take(self, found: list[Arrival]) -> None:
        messages = []
        for packet, control in found:
            handle = 0
            if control is not None:
                self._last += 1
                self._controls[self._last] = control
                handle = self._acks.arrive(self._last)
            messages.append(_message(packet, handle))
        if self._paused:
            self._held += messages
        else:
            self._on_messages(messages)

    def publish(self, message: Publish, on_acked: OnAcked | None = None) -> bool:
        if self._outstanding >= self._options.outbox or self._client is None:
            return False
        self._outstanding += 1
        packet = mqtt5.PublishPacket(
            payload=message.payload,
            qos=_QOS[message.qos],
            retain=message.retain,
            topic=message.topic,
            content_type=message.content_type or None,
            message_expiry_interval_sec=message.expiry_s,
            correlation_data_bytes=message.correlation or None,
            user_properties=[mqtt5.UserProperty(*pair) for pair in message.user] or None,
        )
        future: Future[Any] = self._client.publish(packet)
        done = self._done
        future.add_done_callback(lambda answer: done.put(on_acked))
        return True

    def _finish(self, done: list[OnAcked | None]) -> None:
        self._outstanding -= len(done)
        for on_acked in done:
            if on_acked is not None:
                on_acked()
        self._some_done.set()

    def ack(self, handle: int) -> None:
        self._acks.allow(handle)
        for number in self._acks.take():
            self._client.invoke_publish_acknowledgement(self._controls.pop(number))

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        held, self._held = self._held, []
        if held:
            self._on_messages(held)

    async def flush(self, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                while self._outstanding:
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


def _message(packet: Any, handle: int) -> Message:
    user = packet.user_properties
    return Message(
        packet.topic,
        packet.payload or b"",
        int(packet.qos),
        packet.retain,
        False,
        handle,
        0,  # as hidden as the DUP flag
        packet.content_type or "",
        packet.message_expiry_interval_sec,
        packet.response_topic or "",
        packet.correlation_data_bytes or b"",
        tuple((pair.name, pair.value) for pair in user) if user else (),
    )
