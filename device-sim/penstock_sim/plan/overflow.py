"""Where a frame goes, edge or cloud, and whether the budget allows it. Pure: time comes in as an argument.

A seam: the rule is one comparison of predicted finish times, as the gateway's arbiter makes it.
"""

from __future__ import annotations

from typing import Literal

Where = Literal["edge", "cloud", "overflow"]
"""All frames of a route here or there, or here as long as the deadline allows."""

PLACES: tuple[Where, ...] = ("edge", "overflow", "cloud")


class Budget:
    """At most `requests` to the cloud in each `period_s`, counted from the begin; None for no limit."""

    def __init__(self, requests: int | None = None, period_s: float = 3600.0) -> None:
        self.requests, self.period_s = requests, period_s
        self._period, self._used = 0, 0

    def take(self, now: float) -> bool:
        """Use one request, where there is one left."""
        if self.requests is None:
            return True
        if (period := int(now / self.period_s)) != self._period:
            self._period, self._used = period, 0
        if self._used >= self.requests:
            return False
        self._used += 1
        return True


def to_cloud(where: Where, edge_s: float, cloud_s: float, deadline: float) -> bool:
    """Whether a frame should go to the cloud tier.

    Args:
        edge_s, cloud_s: when it would probably be answered there.
        deadline: when it must be, in the same time.
    """
    if where == "overflow":
        return edge_s > deadline and cloud_s < edge_s
    return where == "cloud"
