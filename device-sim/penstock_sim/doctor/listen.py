"""The doctor's ears: one MQTT connection for a device's own topics, one for those with its name that miss the grammar.

Two, since the filters of the second match the first's topics too, and brokers differ in whether they send such a message
once or twice.

With MQTT 5 it asks for the retain flag as it was published (`retain as published`), which a broker otherwise clears for
who was subscribed before; 3.1.1 shows retained messages only to a new subscription, so there it subscribes once more
before the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Sequence

import msgspec

from penstock_gateway.mqtt import LinkOptions, Message, tls
from penstock_gateway.mqtt.decode import Suback
from penstock_gateway.mqtt.reasons import wants_another_version
from penstock_gateway.mqtt.wire import text, varint
from penstock_models.errors import PenstockError
from penstock_sim.doctor.broker_log import BrokerLog, connections
from penstock_sim.doctor.examination import Examination, Report
from penstock_sim.doctor.places import Places
from penstock_sim.doctor.reach import Reach
from penstock_sim.doctor.streams import USUAL, Rules
from penstock_sim.load.connection import Connection, ConnectionLost, OnMessages, Refused

_CONNECT_S = 5.0
_TICK_S = 0.25
_REPLAY_S = 1.0
"""How long before the end 3.1.1 is asked for the retained messages again."""
_RETAIN_AS_PUBLISHED = 0x08
_SYSTEM = "$SYS/broker/publish/messages/dropped"
OnProgress = Callable[[float, int, int], None]
"""Called with the seconds so far, the frames and the findings."""


class Ear(Connection):
    """A connection that hears. Made by `listen_to`."""

    async def hear(self, filters: Sequence[str]) -> list[str]:
        """Subscribe at QoS 1, retained messages included; returns the filters that were refused."""
        self._answer = asyncio.get_running_loop().create_future()
        v5 = self.protocol == 5
        body = b"\0\1" + (b"\0" if v5 else b"")
        for name in filters:
            body += text(name) + bytes((1 | (_RETAIN_AS_PUBLISHED if v5 else 0),))
        self.write([b"\x82" + varint(len(body)) + body])
        try:
            async with asyncio.timeout(_CONNECT_S):
                answer = await self._answer
        except TimeoutError:
            raise ConnectionLost(f"the broker did not answer SUBSCRIBE within {_CONNECT_S:g} s") from None
        reasons = answer.reasons if isinstance(answer, Suback) else b""
        return [name for name, reason in zip(filters, reasons) if reason >= 0x80]


async def listen_to(options: LinkOptions, on_messages: OnMessages) -> Ear:
    """Connect with MQTT 5, or 3.1.1 where the broker knows no other.

    Raises:
        PenstockError: nobody listens there, the broker refuses, or does not answer within 5 s.
    """
    where = f"expected an MQTT broker at {options.host}:{options.port}"
    try:
        try:
            if options.protocol == 5:
                return await _connect(options, 5, on_messages)
        except Refused as refused:
            if not wants_another_version(refused.reason):
                raise
        except (ConnectionLost, TimeoutError):
            pass  # some old brokers hang up on MQTT 5, others are silent
        return await _connect(options, 4, on_messages)
    except TimeoutError:
        raise PenstockError(f"{where}: no answer within {_CONNECT_S:g} s") from None
    except (OSError, ConnectionLost) as error:
        raise PenstockError(f"{where}: {error}") from None


async def _connect(options: LinkOptions, protocol: int, on_messages: OnMessages) -> Ear:
    ear = Ear(protocol, on_messages)
    try:
        async with asyncio.timeout(_CONNECT_S):
            loop = asyncio.get_running_loop()
            await loop.create_connection(lambda: ear, options.host, options.port, ssl=tls.context(options))
            await ear.handshake(options)
    except BaseException:
        ear.close()
        raise
    return ear


class Watch(msgspec.Struct, frozen=True, kw_only=True):
    """What to watch, and for how long. `log` is the broker's, with `client_id` the device's in it."""

    device: str
    reach: Reach
    seconds: float
    filters: Sequence[str] = ()
    rules: Rules = USUAL
    log: BrokerLog | None = None
    client_id: str = ""


async def watch(wanted: Watch, stop: asyncio.Event, on_progress: OnProgress) -> Report:
    """Listen for `seconds`, or until `stop` is set or the broker is gone, and report.

    Raises:
        UsageError: a name, filter or file is wrong.
        PenstockError: the broker is not there, refuses us, or refuses the subscription.
    """
    reach = wanted.reach
    places = Places(wanted.device, reach.site, reach.root, wanted.filters)
    options = reach.options(f"penstock-doctor-{secrets.token_hex(4)}")
    epoch_s = time.time()
    exam = Examination(
        wanted.device, reach.site, places, time.monotonic(), wanted.rules, wanted.log is not None
    )

    def take(messages: Sequence[Message]) -> None:
        exam.take(messages, time.monotonic(), time.time_ns() // 1_000_000)

    def take_strays(messages: Sequence[Message]) -> None:
        take([m for m in messages if not places.is_wanted(m.topic)])

    async with contextlib.AsyncExitStack() as ears:
        near = await listen_to(options, take)
        ears.callback(near.close)
        await _subscribe(near, places)
        wide, notes = await _beside(near, options, places, take_strays)
        if wide is not None:
            ears.callback(wide.close)
            wide.on_lost = lambda reason: notes.append(
                f"topics beside the device's own were seen in part: {reason}"
            )
        notes += await _listen(near, places, exam, wanted.seconds, stop, on_progress)
    if wanted.log is not None:
        log = await asyncio.to_thread(wanted.log.read)
        exam.connections(connections(log, wanted.device, wanted.client_id), epoch_s)
    return exam.report(time.monotonic(), near.protocol, *notes)


async def _subscribe(ear: Ear, places: Places) -> None:
    refused = await ear.hear(places.wanted)
    if refused:
        raise PenstockError(
            f"expected to read {', '.join(refused)}: the broker refused the subscription; allow it to this user"
        )


async def _beside(
    near: Ear, options: LinkOptions, places: Places, on_messages: OnMessages
) -> tuple[Ear | None, list[str]]:
    """A second connection, for what misses the grammar and for the broker's own counters; without it there is a note."""
    beside = msgspec.structs.replace(options, client_id=f"{options.client_id}-wide", protocol=near.protocol)
    try:
        ear = await listen_to(beside, on_messages)
    except PenstockError as error:
        return None, [f"topics beside the device's own were not seen: {error}"]
    try:
        refused = await ear.hear([*places.strays, _SYSTEM])
    except ConnectionLost as error:  # some brokers hang up on who asks for too much
        ear.close()
        return None, [f"topics beside the device's own were not seen: {error}"]
    words = "topics beside the device's own may not have been seen: the broker refused a wider subscription"
    return ear, [words] if refused else []


async def _listen(
    ear: Ear,
    places: Places,
    exam: Examination,
    seconds: float,
    stop: asyncio.Event,
    on_progress: OnProgress,
) -> list[str]:
    """Until the time is over; returns why it was over before."""
    lost: list[str] = []

    def on_lost(reason: str) -> None:
        lost.append(reason)
        stop.set()

    ear.on_lost = on_lost
    ear.check()
    begin = time.monotonic()
    again = ear.protocol == 4
    while (passed := time.monotonic() - begin) < seconds and not stop.is_set():
        exam.tick(time.monotonic())
        on_progress(passed, exam.frames, exam.findings)
        if again and passed >= seconds - _REPLAY_S:
            await ear.hear(places.wanted)
            again = False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(_TICK_S, seconds - passed)):
                await stop.wait()
    if lost:
        return [f"the watch ended after {time.monotonic() - begin:.0f} s: {lost[0]}"]
    return []
