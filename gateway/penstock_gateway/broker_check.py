"""Whether a broker can keep the gateway's promises: what CONNACK shows, and what has to be tried out.

`warnings` is pure and runs at every start. The probes connect as the gateway would, under client ids of their own, and
leave nothing behind; `gateway check --broker` runs them.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec

from penstock_gateway.mqtt import Granted, LinkOptions, Message, OnMessages, Publish
from penstock_gateway.mqtt.link import MqttLink
from penstock_models.errors import PenstockError

PACKET_ROOM = 64 * 1024
"""What topic and properties may add to a frame; contracts 5."""

_SMALL_WINDOW = 10
_QUIET_S = 2.0
_PROBE_EXPIRY_S = 300
_PUBLISH_S = 60.0
_ANSWER_S = 5.0
_PROBE_LIFE_S = 10
"""A probe that the broker keeps for an absent gateway is gone before that is back."""

_MOST_PROBED = 1_000_000


class Needs(msgspec.Struct, frozen=True):
    """What a connection's promise takes. `session_expiry_s` 0: a clean session, of which nothing is asked."""

    max_frame_bytes: int
    session_expiry_s: int = 0
    qos: int = 1
    session_expected: bool = False
    """Whether this is a later connection, which must find its session again."""


def warnings(granted: Granted, needs: Needs) -> list[str]:
    """What the broker granted too little of, as `name: what it means`, in a fixed order; empty when all is well."""
    found = [
        _expiry(granted, needs),
        "session_not_kept: the broker forgot the session; QoS 1 messages since the last connection are lost"
        if needs.session_expiry_s and needs.session_expected and not granted.session_present
        else "",
        f"qos_capped: the broker takes QoS {granted.maximum_qos}, and QoS {needs.qos} is promised"
        if granted.maximum_qos is not None and granted.maximum_qos < needs.qos
        else "",
        _packet_size(granted, needs),
        f"receive_maximum_small: the broker lets only {granted.receive_maximum} QoS 1 results be under way"
        if granted.receive_maximum is not None and granted.receive_maximum < _SMALL_WINDOW
        else "",
        f"subscription_refused: {', '.join(granted.refused)}; nothing will arrive there"
        if granted.refused
        else "",
        "limits_unknown: the broker speaks MQTT 3.1.1, which tells no limit; see its own configuration"
        if granted.protocol != 5
        else "",
    ]
    return [warning for warning in found if warning]


def _expiry(granted: Granted, needs: Needs) -> str:
    kept_s = granted.session_expiry_s
    if kept_s is None or kept_s >= needs.session_expiry_s:
        return ""
    return (
        f"session_expiry_lowered: the broker keeps a session for {kept_s} s, asked for were {needs.session_expiry_s} s; "
        "a longer outage loses messages"
    )


def _packet_size(granted: Granted, needs: Needs) -> str:
    most = granted.maximum_packet_size
    wanted = needs.max_frame_bytes + PACKET_ROOM
    if most is None or most >= wanted:
        return ""
    return (
        f"packet_size_small: the broker takes packets of {most} bytes, max_frame_bytes needs {wanted}; "
        "it refuses or drops larger frames itself"
    )


async def ask(options: LinkOptions) -> Granted:
    """Connect and subscribe once as these options would, under a client id of its own, and say what was granted.

    Raises:
        PenstockError: the broker cannot be reached, or refuses the connection.
    """
    filters = {_in_own_group(text): (text, qos) for text, qos in options.subscriptions}
    asked = _probe_options(
        options,
        session_expiry_s=options.session_expiry_s,
        receive_maximum=options.receive_maximum,
        subscriptions=tuple((text, qos) for text, (_, qos) in filters.items()),
    )
    async with _running(MqttLink(asked), _ignore) as granted:
        refused = tuple(filters[text][0] for text in granted.refused)
    if asked.session_expiry_s:
        await _forget(asked)
    return msgspec.structs.replace(granted, refused=refused)


def _in_own_group(text: str) -> str:
    """The filter of a shared subscription, in a group of its own: in the gateway's it would take frames away."""
    if not text.startswith("$share/"):
        return text
    return f"$share/penstock-probe-{secrets.token_hex(4)}/{text.split('/', 2)[2]}"


async def probe_queue(options: LinkOptions, n: int, topic: str) -> int:
    """Measure how many of `n` QoS 1 messages the broker queues for a subscriber that is away.

    Publishes messages of eight bytes to `topic`, where nobody else should listen and which the broker's ACLs must
    allow. A result of `n` means that the limit lies higher. A stock Mosquitto queues 1,000.

    Raises:
        PenstockError: the broker cannot be reached, or refuses the subscription or the messages.
    """
    if not 0 < n <= _MOST_PROBED:
        raise PenstockError(f"expected to probe the queue with 1 to {_MOST_PROBED} messages, got {n}")
    away = _probe_options(options, session_expiry_s=_PROBE_EXPIRY_S, subscriptions=((topic, 1),))
    try:
        async with _linked(away, _ignore):
            pass  # the session stays behind, with its subscription
        await _publish_all(options, [Publish(topic, i.to_bytes(8, "big"), qos=1) for i in range(n)])
        return await _collect(away, n)
    finally:
        await _forget(away)


async def probe_foreign_publish(options: LinkOptions, topics: Sequence[str]) -> list[str]:
    """Find those of some devices' topics to which somebody who is not the device can publish.

    It tries as the gateway, and without a name. On MQTT 5 the broker's answer says whether it took the message; on
    3.1.1, which has no word for no, the gateway must be allowed to read the topic, to see it come.

    Raises:
        PenstockError: the broker cannot be reached, or refuses on 3.1.1 the gateway's subscription.
    """
    found = {topic for topic in topics if await _takes(options, options, topic)}
    nobody = msgspec.structs.replace(options, username=None, password=None, cert=None, key=None)
    if nobody != options:
        with contextlib.suppress(PenstockError):  # a stranger who is not let in publishes nothing
            for topic in topics:
                if await _takes(nobody, options, topic):
                    found.add(topic)
    return [topic for topic in topics if topic in found]


async def _takes(publisher: LinkOptions, reader: LinkOptions, topic: str) -> bool:
    """Whether the broker takes a message of this publisher."""
    mark = secrets.token_bytes(16)
    message = Publish(topic, mark, qos=1, expiry_s=_PROBE_LIFE_S)
    link = MqttLink(_probe_options(publisher))
    async with _running(link, _ignore) as granted:
        if granted.protocol == 5 and granted.maximum_qos != 0:
            link.publish(message)
            return await link.flush(_ANSWER_S) and not link.refused
        return await _comes(link, reader, message)


async def _comes(link: MqttLink, reader: LinkOptions, message: Publish) -> bool:
    seen = asyncio.Event()

    def look(messages: Sequence[Message]) -> None:
        if any(came.payload == message.payload for came in messages):
            seen.set()

    async with _linked(_probe_options(reader, subscriptions=((message.topic, 0),)), look):
        link.publish(message)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(seen.wait(), _QUIET_S)
    return seen.is_set()


async def _forget(options: LinkOptions) -> None:
    """End the session that these options left: a clean one under the same client id takes its place."""
    async with _linked(msgspec.structs.replace(options, session_expiry_s=0, subscriptions=()), _ignore):
        pass


async def _publish_all(options: LinkOptions, messages: list[Publish]) -> None:
    async with _linked(_probe_options(options, outbox=len(messages), outbox_bytes=1 << 30), _ignore) as link:
        for message in messages:
            link.publish(message)
        if not await link.flush(_PUBLISH_S):
            raise PenstockError(f"the broker took fewer than {len(messages)} messages in {_PUBLISH_S:g} s")
        if link.refused:
            raise PenstockError(
                f"the broker refused to take messages on {messages[0].topic}: {dict(link.refused)}"
            )


async def _collect(options: LinkOptions, n: int) -> int:
    """Count the different messages that come until all are there or none came for a while."""
    got: set[bytes] = set()
    more = asyncio.Event()

    def take(messages: Sequence[Message]) -> None:
        for message in messages:
            got.add(message.payload)
            link.ack(message.ack)
        more.set()

    link = MqttLink(options)
    async with _running(link, take):
        while len(got) < n:
            more.clear()
            try:
                await asyncio.wait_for(more.wait(), _QUIET_S)
            except TimeoutError:
                break
    return len(got)


def _probe_options(options: LinkOptions, **changes: object) -> LinkOptions:
    base = msgspec.structs.replace(
        options,
        client_id=f"penstock-probe-{secrets.token_hex(6)}",
        will=None,
        session_expiry_s=0,
        subscriptions=(),
        receive_maximum=65_535,
    )
    return msgspec.structs.replace(base, **changes)


def _ignore(messages: Sequence[Message]) -> None:
    """A link that only publishes gets nothing."""


@asynccontextmanager
async def _linked(options: LinkOptions, on_messages: OnMessages) -> AsyncIterator[MqttLink]:
    link = MqttLink(options)
    async with _running(link, on_messages) as granted:
        if granted.refused:
            raise PenstockError(
                f"the broker refused to subscribe {options.username!r} to {granted.refused[0]}"
            )
        yield link


class _FirstAnswer:
    """Waits for the first `up`; after three failed attempts (two may be the search for the version) it gives up."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[Granted] = asyncio.get_running_loop().create_future()
        self._attempts = 3

    def up(self, granted: Granted) -> None:
        if not self.answer.done():
            self.answer.set_result(granted)

    def down(self, reason: str) -> None:
        self._attempts -= 1
        if not self._attempts and not self.answer.done():
            self.answer.set_exception(PenstockError(reason))


@asynccontextmanager
async def _running(link: MqttLink, on_messages: OnMessages) -> AsyncIterator[Granted]:
    """Run a link that must come up."""
    first = _FirstAnswer()
    task = asyncio.create_task(link.run(on_messages, first), name="broker-check")
    try:
        await asyncio.wait((first.answer, task), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        yield first.answer.result()
    finally:
        task.cancel()
        await asyncio.wait((task,))
