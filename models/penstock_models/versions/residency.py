"""Which versions make room for another, where there are more models than memory. Pure.

The least recently used goes first. Never one that is in use, pinned (a label points to it, or it is the candidate's own
model's), was used since the candidate was wanted, or came only just now: else two models would chase each other out.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

SETTLED_S = 10.0


class Resident(msgspec.Struct, frozen=True):
    """A version in memory. `bytes` is measured; `loaded_at` and `last_used` are monotonic seconds."""

    name: str
    version: int
    bytes: int
    loaded_at: float
    last_used: float
    running: bool = False
    pinned: bool = False


def evictable(residents: Sequence[Resident], wanted_at: float, now: float) -> list[Resident]:
    """Those that may go for a candidate that was wanted at `wanted_at`, the least recently used first."""
    able = [
        r
        for r in residents
        if not r.running and not r.pinned and r.last_used < wanted_at and now - r.loaded_at >= SETTLED_S
    ]
    return sorted(able, key=lambda r: (r.last_used, r.name, r.version))


def victims(able: Sequence[Resident], missing_bytes: int) -> list[Resident] | None:
    """The first of `able` that give back enough together, less those that are not needed for it; None if all do not."""
    chosen: list[Resident] = []
    for resident in able:
        if sum(r.bytes for r in chosen) >= missing_bytes:
            break
        chosen.append(resident)
    spare = sum(r.bytes for r in chosen) - missing_bytes
    if spare < 0:
        return None
    for resident in reversed(chosen[:]):
        if resident.bytes <= spare:
            chosen.remove(resident)
            spare -= resident.bytes
    return chosen
