"""When a frame must be answered, and whether it is fresh. Pure rules (contracts 2, 3, 5)."""

from __future__ import annotations

from typing import NamedTuple

from penstock_models.scheduling.request import NO_DEADLINE

EARLIEST_TS = 1_420_070_400_000
"""2015-01-01: a capture time before it is a clock that was never set."""

FUTURE_MS = 60_000
"""How far a device's clock may run ahead of ours before its capture times cannot be true."""


class Timing(NamedTuple):
    """`deadline` in seconds of the monotonic clock. At most one of `expired` and `historical` is set."""

    deadline: float
    expired: bool
    historical: bool
    ts_suspect: bool


def judge(
    *,
    mode: str,
    deadline_ms: int,
    max_age_ms: int,
    ts: int | None,
    dl: int | None,
    expiry_s: int | None,
    arrived: float,
    arrived_ms: int,
) -> Timing:
    """Decide the times of a frame that just arrived.

    The deadline is the least of the route's, the frame's `dl` and the message's remaining expiry. A frame that is
    older than `max_age_ms` is expired on a `latest` route and historical (no deadline) on an `every` route; a capture
    time that cannot be true tells no age.
    """
    suspect = ts is not None and not EARLIEST_TS <= ts <= arrived_ms + FUTURE_MS
    old = ts is not None and not suspect and arrived_ms - ts > max_age_ms
    if old and mode == "every":
        return Timing(NO_DEADLINE, expired=False, historical=True, ts_suspect=False)
    budget_ms = deadline_ms
    if dl is not None:
        budget_ms = min(budget_ms, dl)
    if expiry_s is not None:
        budget_ms = min(budget_ms, expiry_s * 1000)
    return Timing(arrived + budget_ms / 1e3, expired=old, historical=False, ts_suspect=suspect)
