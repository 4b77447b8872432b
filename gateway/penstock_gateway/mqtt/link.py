"""The link that the gateway runs: MQTT 5, or 3.1.1 where the broker knows no other, over asyncio.

It decides when to connect, with which version, and what happens to messages in between; one connection's life is
`connection`'s, the queue `outbox`'s, the order of acknowledgements `acks`'.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections import Counter

from penstock_gateway.backoff import Backoff
from penstock_gateway.mqtt import LinkOptions, LinkState, OnAcked, OnMessages, Publish, Traffic, encode, tls
from penstock_gateway.mqtt.acks import AckWindow
from penstock_gateway.mqtt.connection import Connection
from penstock_gateway.mqtt.outbox import Outbox
from penstock_gateway.mqtt.reasons import wants_another_version
from penstock_models.errors import UsageError

_WRITES_A_TICK = 4
"""Writes of up to 256 KiB before other callbacks have their turn."""

_HANGUPS = 2


class Dialect:
    """Which version to speak next: `protocol` changes once a broker shows that it does not know it.

    It shows that by refusing it, by not answering a CONNECT, or by hanging up on two in a row, without ever having
    taken one. What then works is kept; where the other version fails in its turn, the first is tried again.
    """

    def __init__(self, protocol: int) -> None:
        self.protocol = protocol
        self._hangups = 0
        self._accepted = False

    def accepted(self) -> None:
        self._accepted = True
        self._hangups = 0

    def failed(self, refused: int | None, silent: bool) -> None:
        """A CONNECT that was not taken: refused with a reason, or without a CONNACK."""
        if refused is not None:
            if wants_another_version(refused):
                self._switch()
        elif not self._accepted:
            self._hangups += 1
            if silent or self._hangups >= _HANGUPS:
                self._switch()

    def _switch(self) -> None:
        self.protocol = 4 if self.protocol == 5 else 5
        self._hangups = 0
        self._accepted = False


class MqttLink:
    """A `Link` (see the package) over asyncio.

    Messages of a resumed session may arrive before `LinkState.up`, which waits for the subscriptions' answer; `pause`
    works from there on. `LinkState.down` is called for every connection and every attempt that ended, not for the
    owner's own cancellation. On 3.1.1 a broker replays retained messages (`Message.retain`) at each connect.

    Of the counters `dropped` has messages that do not outlive a connection and had none; `refused` has the broker's
    error (`0x97`), or why a message could not be sent to it (`packet_too_large`, `not_encodable`). All of them had
    their `on_acked`.
    """

    def __init__(self, options: LinkOptions) -> None:
        """Raises UsageError where a file of the TLS options is wrong."""
        tls.context(options)
        self._options = options
        self._outbox = Outbox(options.outbox, options.outbox_bytes)
        self._acks = AckWindow()
        self.traffic = Traffic()
        self._dialect = Dialect(options.protocol)
        self._connection: Connection | None = None
        self._paused = False
        self._scheduled = False
        self._error: Exception | None = None
        self._flushed: asyncio.Event | None = None

    @property
    def overruns(self) -> int:
        return self._acks.overruns

    @property
    def dropped(self) -> int:
        return self._outbox.dropped

    @property
    def refused(self) -> Counter[str]:
        return self._outbox.refused

    @property
    def refused_topic(self) -> str:
        return self._outbox.refused_topic

    async def run(self, on_messages: OnMessages, state: LinkState) -> None:
        """As in the seam. An exception of a callback ends it."""
        backoff = Backoff(self._options.reconnect_min_s, self._options.reconnect_max_s)
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            reason, up = await self._connect_once(on_messages, state)
            if self._error is not None:
                raise self._error
            state.down(reason)
            await asyncio.sleep(backoff.wait_s(loop.time() - began if up else 0.0))

    async def _connect_once(self, on_messages: OnMessages, state: LinkState) -> tuple[str, bool]:
        """(why it ended, whether it was up)."""
        options = self._options
        connection = Connection(
            options, self._dialect.protocol, self._outbox, self._acks, on_messages, self._kick, self.traffic
        )
        self._connection = connection
        try:
            failure = await self._open(connection)
            if failure:
                return failure, False
            granted = await connection.wait_granted()
            if granted is None:
                return await self._attempt_failed(connection), False
            self._dialect.accepted()
            connection.read(not self._paused)
            state.up(granted)
            return await connection.wait_lost(), True
        finally:
            self._send_acks(connection)
            self._connection = None
            await connection.close()

    async def _open(self, connection: Connection) -> str:
        """Open the socket; returns why that failed, "" when it did not."""
        options = self._options
        where = f"{options.host}:{options.port}"
        try:
            context = tls.context(options)
            async with asyncio.timeout(options.connect_timeout_s):
                await asyncio.get_running_loop().create_connection(
                    lambda: connection,
                    options.host,
                    options.port,
                    ssl=context,
                    server_hostname=options.host if context else None,
                    ssl_shutdown_timeout=1.0 if context else None,
                )
        except TimeoutError:
            return f"no connection to {where} within {options.connect_timeout_s:g} s"
        except ConnectionRefusedError as error:  # asyncio's own words for it are "Connect call failed"
            return f"no connection to {where}: {os.strerror(error.errno or errno.ECONNREFUSED)}"
        except (OSError, UsageError) as error:
            return f"no connection to {where}: {error}"
        return ""

    async def _attempt_failed(self, connection: Connection) -> str:
        spoken = connection.protocol
        if connection.refused is not None or not connection.answered:
            self._dialect.failed(connection.refused, connection.silent)
        reason = await connection.wait_lost()
        if self._dialect.protocol != spoken:
            reason += f"; trying MQTT {'5' if self._dialect.protocol == 5 else '3.1.1'}"
        return reason

    def publish(self, message: Publish, on_acked: OnAcked | None = None) -> bool:
        """As in the seam. Without a connection QoS 0, and what is not `kept`, is taken, dropped at once and counted in
        `dropped`."""
        taken = self._outbox.put(message, on_acked)
        if taken and not self._scheduled:
            self._kick()
        return taken

    def ack(self, handle: int) -> None:
        self._acks.allow(handle)
        if not self._scheduled:
            self._kick()

    def pause(self) -> None:
        self._set_reading(False)

    def resume(self) -> None:
        self._set_reading(True)

    def _set_reading(self, wanted: bool) -> None:
        self._paused = not wanted
        if self._connection is not None and self._connection.granted.done():
            self._connection.read(wanted)

    async def flush(self, timeout_s: float) -> bool:
        """As in the seam: everything was written, and every QoS 1 message has its PUBACK."""
        if self._flushed is None:
            self._flushed = asyncio.Event()
        self._flushed.clear()
        self._kick()
        try:
            await asyncio.wait_for(self._flushed.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    def _kick(self) -> None:
        """Write at the end of this turn of the loop, so that what it queues goes out in one piece."""
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._drain)

    def _drain(self) -> None:
        self._scheduled = False
        connection = self._connection
        if connection is not None:
            self._send_acks(connection)
            self._send_messages(connection)
        try:
            for on_acked in self._outbox.take_done():
                on_acked()
        except Exception as error:  # a callback's: `run` raises it
            self._error = error
            if connection is not None:
                connection.fail(error)
        if self._flushed is not None and not len(self._outbox):
            self._flushed.set()

    def _send_acks(self, connection: Connection) -> None:
        packet_ids = self._acks.take()
        if packet_ids:
            connection.write(encode.pubacks(packet_ids))

    def _send_messages(self, connection: Connection) -> None:
        for _ in range(_WRITES_A_TICK):
            if not connection.writable:
                return
            data = self._outbox.take()
            if not data:
                return
            connection.write(data)
        if self._outbox.sendable:
            self._kick()
