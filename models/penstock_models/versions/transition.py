"""The next step of one model, from the states of its versions. Pure.

TensorFlow Serving's two policies. `availability`: the highest aspired version is loaded first, and one that is no longer
aspired goes only when nothing is aspired, an aspired one is available, or another un-aspired one still is.
`resource`: every un-aspired version goes first, then the aspired one is loaded, for boxes that cannot hold both. Two
things are added: a version is prepared (copied, verified, measured) before anything goes for its sake, so that a broken one
costs nothing; and a version that served before a restart comes before all others. One thing differs: an older version that
a label keeps does not stand in for the one that a newer is to replace, as `MODEL` alone would answer by it meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Literal

import msgspec

from penstock_models.versions.life import Life

Transition = Literal["availability", "resource"]


class Prepare(msgspec.Struct, frozen=True):
    version: int


class Load(msgspec.Struct, frozen=True):
    version: int


class Unload(msgspec.Struct, frozen=True):
    version: int


class Wait(msgspec.Struct, frozen=True):
    """Nothing to do before `until` (infinity: before something happens)."""

    until: float = math.inf


Action = Prepare | Load | Unload | Wait


def next_action(lives: Collection[Life], transition: Transition, now: float, *, busy: bool) -> Action:
    """What to do with the versions of one model.

    Args:
        busy: another version, of whatever model, is being prepared or loaded: only one is at a time.
    """
    leaving = _to_unload(lives, transition, now)
    if leaving is not None:
        return Unload(leaving.version)
    waiting = [life for life in lives if life.aspired and life.idle]
    due = [life for life in waiting if life.due <= now]
    if due and not busy:
        candidate = max(due, key=lambda life: (life.kept, life.version))
        if not candidate.ready:
            return Prepare(candidate.version)
        if transition == "availability" or not any(_holds_memory(life) for life in lives if not life.aspired):
            return Load(candidate.version)
    return Wait(min((life.due for life in waiting if life.due > now), default=math.inf))


def _to_unload(lives: Collection[Life], transition: Transition, now: float) -> Life | None:
    """The lowest un-aspired version that may go now."""
    leaving = [life for life in lives if life.state == "available" and not life.aspired]
    if not leaving:
        return None
    lowest = min(leaving, key=lambda life: life.version)
    aspired = [life for life in lives if life.aspired]
    if not aspired or _replaced(lowest, aspired):
        return lowest
    if transition == "availability":
        return lowest if len(leaving) > 1 else None
    return lowest if any(life.idle and life.ready and life.due <= now for life in aspired) else None


def _replaced(leaving: Life, aspired: Collection[Life]) -> bool:
    """Something aspired serves in its place: of an older one, which a label keeps, only where nothing newer is to come."""
    serving = max((life.version for life in aspired if life.state == "available"), default=0)
    newer = (life for life in aspired if life.version > leaving.version)
    upgrades = any(life.state != "available" and life.due < math.inf for life in newer)
    return serving > leaving.version or (serving > 0 and not upgrades)


def _holds_memory(life: Life) -> bool:
    return life.state in ("loading", "available", "unloading")
