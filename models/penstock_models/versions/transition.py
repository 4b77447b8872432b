"""The next step of one model, from the states of its versions. Pure.

TensorFlow Serving's two policies. `availability`: the highest aspired version is loaded first, and one that is no longer
aspired goes only when nothing is aspired, an aspired one is available, or another un-aspired one still is.
`resource`: every un-aspired version goes first, then the aspired one is loaded, for boxes that cannot hold both. Two
things are added: a version is prepared (copied, verified, measured) before anything goes for its sake, so that a broken one
costs nothing; and a version that served before a restart comes before all others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import msgspec

Transition = Literal["availability", "resource"]

State = Literal["new", "preparing", "loading", "available", "unloading", "parked", "failed"]
"""`new`: waits for its turn; `parked`: no room, loaded on demand; `failed`: tried, perhaps to be tried again."""

WAITING: tuple[State, ...] = ("new", "parked", "failed")


class Standing(msgspec.Struct, frozen=True):
    """One version. `due` is when it may be tried (seconds; infinity for never), for `new`, `parked` and `failed`.

    `prepared` says that its copy is staged and verified; `first` that it served before a restart.
    """

    version: int
    state: State
    aspired: bool
    prepared: bool = False
    due: float = 0.0
    first: bool = False


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


def next_action(standings: Sequence[Standing], transition: Transition, now: float, *, busy: bool) -> Action:
    """What to do with the versions of one model.

    Args:
        busy: another version, of whatever model, is being prepared or loaded: only one is at a time.
    """
    leaving = _to_unload(standings, transition, now)
    if leaving is not None:
        return Unload(leaving.version)
    waiting = [s for s in standings if s.aspired and s.state in WAITING]
    due = [s for s in waiting if s.due <= now]
    if due and not busy:
        candidate = max(due, key=lambda s: (s.first, s.version))
        if not candidate.prepared:
            return Prepare(candidate.version)
        if transition == "availability" or not any(_holds_memory(s) for s in standings if not s.aspired):
            return Load(candidate.version)
    return Wait(min((s.due for s in waiting if s.due > now), default=math.inf))


def _to_unload(standings: Sequence[Standing], transition: Transition, now: float) -> Standing | None:
    """The lowest un-aspired version that may go now."""
    leaving = sorted(
        (s for s in standings if s.state == "available" and not s.aspired), key=lambda s: s.version
    )
    if not leaving:
        return None
    aspired = [s for s in standings if s.aspired]
    served = any(s.state == "available" for s in aspired)
    if not aspired or served:
        return leaving[0]
    if transition == "availability":
        return leaving[0] if len(leaving) > 1 else None
    ready = any(s.prepared and s.due <= now for s in aspired if s.state in WAITING)
    return leaving[0] if ready else None


def _holds_memory(standing: Standing) -> bool:
    return standing.state in ("loading", "available", "unloading")
