"""Whether the broker takes what the gateway publishes.

A link counts what its broker refused and goes on; an ACL that denies results would be seen nowhere. This looks at the
counters every `PERIOD_S`: a log line for what is new, and a degraded gateway until nothing was refused for `RECENT_S`.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping

from penstock_gateway.logs import Limiter, Log
from penstock_gateway.mqtt import Link
from penstock_gateway.mqtt.reasons import describe_refused

PERIOD_S = 1.0
RECENT_S = 60.0

_NOT_THE_BROKERS = "not_encodable"
"""A device's own Response Topic may be none: no reason to call the gateway degraded."""

log = Limiter(Log(__name__))


class Refusals:
    """Looks after some links.

    Args:
        links: by the name that they have in the log.
        on_change: called after a look that changed `degraded`.
    """

    def __init__(self, links: Mapping[str, Link], on_change: Callable[[], None]) -> None:
        self._links = links
        self._on_change = on_change
        self._seen = {name: Counter[str]() for name in links}
        self._recent: dict[tuple[str, str], float] = {}

    @property
    def degraded(self) -> list[str]:
        """Why results or commands do not arrive."""
        return sorted(
            f"link {name}: the broker refuses messages: {describe_refused(reason)}"
            for name, reason in self._recent
        )

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(PERIOD_S)
            self.look(time.monotonic())

    def look(self, now: float) -> None:
        """Compare the counters with those of the last time."""
        before = self.degraded
        for name, link in self._links.items():
            new = link.refused - self._seen[name]
            if new:
                self._seen[name] = Counter(link.refused)
                self._tell(name, link, new)
                self._recent.update({(name, reason): now for reason in new if reason != _NOT_THE_BROKERS})
        self._recent = {key: at for key, at in self._recent.items() if now - at < RECENT_S}
        if self.degraded != before:
            self._on_change()

    @staticmethod
    def _tell(name: str, link: Link, new: Counter[str]) -> None:
        log.warning(
            "messages refused",
            link=name,
            reasons=[f"{n}: {describe_refused(reason)}" for reason, n in new.items()],
            last_topic=link.refused_topic,
        )
