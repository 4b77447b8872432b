"""A broker by what it publishes of itself under `$SYS`, as Mosquitto and most others do."""

from __future__ import annotations

from collections.abc import Sequence

from penstock_gateway.mqtt import LinkOptions, Message
from penstock_sim.load.connection import Connection, ConnectionLost, connect
from penstock_sim.run.sampler import NetworkRate, NetworkSample

_RECEIVED, _SENT = "$SYS/broker/bytes/received", "$SYS/broker/bytes/sent"


class BrokerSampler:
    """Listens on a connection of its own; a broker that tells nothing, or goes away, gives no samples."""

    def __init__(self) -> None:
        self._totals: dict[str, float] = {}
        self._rate = NetworkRate()
        self._at_s = 0.0
        self._connection: Connection | None = None

    async def listen(self, options: LinkOptions, protocol: int) -> None:
        """Begin; a refusal is no failure of a run."""
        try:
            self._connection = await connect(options, protocol, self._take)
            await self._connection.subscribe([("$SYS/broker/bytes/#", 0)])
        except ConnectionLost:
            self.close()

    def sample(self, now_s: float) -> NetworkSample | None:
        """None where nothing new was told."""
        totals, self._totals = self._totals, {}
        if not totals:
            return None
        return self._rate.of(totals.get(_RECEIVED), totals.get(_SENT), now_s)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def _take(self, messages: Sequence[Message]) -> None:
        for message in messages:
            try:
                self._totals[message.topic] = float(message.payload)
            except ValueError:
                continue
