"""Whether a version may be loaded, by what it was measured to need and what the box was measured to have. Pure.

Also whether the memory came back after it was unloaded. Where the figures come from is `box`'s and the loader's business;
who has to go for another is `residency`'s.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from penstock_models.versions.residency import Resident, evictable, victims

RESERVE_BYTES = 32 * 1024**2
"""Left free on the box: frames in flight, the page cache of whatever else runs there."""
RETURNED = 0.8
"""An unloaded version must give back this part of what it took."""
NOTED_BYTES = 8 * 1024**2
"""Below it the figures of a process that does other things meanwhile say nothing."""


class Need(msgspec.Struct, frozen=True):
    """What a version was measured to take: loaded and warm, and at most while it loads."""

    resident_bytes: int
    peak_bytes: int


class Room(msgspec.Struct, frozen=True):
    """What the box has. `limit_bytes` is all that this process's control group or machine has, `available_bytes` what of
    it could be taken now without swapping; `budget_bytes` what models may take in all, None for no other limit."""

    limit_bytes: int
    available_bytes: int
    budget_bytes: int | None = None


class Admit(msgspec.Struct, frozen=True):
    pass


class Evict(msgspec.Struct, frozen=True):
    """Park these, then ask again."""

    victims: tuple[Resident, ...]


class Refuse(msgspec.Struct, frozen=True):
    """No room. `text` says so with the numbers. `hopeless` says that all of the box would not do."""

    text: str
    hopeless: bool = False


Verdict = Admit | Evict | Refuse


def admit(need: Need, room: Room, residents: Sequence[Resident], wanted_at: float, now: float) -> Verdict:
    """Whether a candidate may be loaded now.

    Args:
        wanted_at: when somebody last asked for the candidate's model (monotonic seconds; −infinity for never).
    """
    taken = sum(resident.bytes for resident in residents)
    free = room.available_bytes - RESERVE_BYTES
    if room.budget_bytes is not None:
        free = min(free, room.budget_bytes - taken)
    wanted = max(need.peak_bytes, need.resident_bytes)
    limit = room.limit_bytes - RESERVE_BYTES
    if room.budget_bytes is not None:
        limit = min(limit, room.budget_bytes)
    if wanted > limit:
        text = (
            f"memory: loading takes {_mb(wanted)} (measured), models may take {_mb(limit)} on this box in all"
        )
        return Refuse(text, hopeless=True)
    if wanted <= free:
        return Admit()
    able = evictable(residents, wanted_at, now)
    chosen = victims(able, wanted - free)
    if chosen is not None:
        return Evict(tuple(chosen))
    return Refuse(_refusal(wanted, max(0, free), limit, residents, able))


def _refusal(
    wanted: int, free: int, limit: int, residents: Sequence[Resident], able: Sequence[Resident]
) -> str:
    back = sum(resident.bytes for resident in able)
    taken = sum(resident.bytes for resident in residents)
    return (
        f"memory: loading takes {_mb(wanted)} (measured), {_mb(free)} are free of {_mb(limit)}"
        f" with {len(residents)} versions loaded ({_mb(taken)}), of which {_mb(back)} could make room;"
        ' free some, or let an old version go before the new one comes (transition = "resource")'
    )


class Returned(msgspec.Struct, frozen=True):
    """How much of an unloaded version's memory came back. `fraction` is None where it was too little to measure.

    `alarm` says what is wrong, "" where enough came back.
    """

    name: str
    bytes: int
    fraction: float | None
    alarm: str


def returned(name: str, measured: int, before: int, after: int) -> Returned:
    """Compare the footprint of the process and its children before and after an unload with what the version took.

    Args:
        name: as the alarm names it.
        measured: bytes that the version took.
    """
    back = before - after
    fraction = back / measured if measured >= NOTED_BYTES else None
    alarm = ""
    if fraction is not None and fraction < RETURNED:
        alarm = (
            f"{name}: {_mb(back)} of {_mb(measured)} came back after it was unloaded ({fraction:.0%}, expected"
            f" {RETURNED:.0%}); a process that keeps growing should be restarted"
        )
    return Returned(name, back, fraction, alarm)


def _mb(count: int) -> str:
    return f"{count / 1e6:.0f} MB"
