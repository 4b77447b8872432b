"""The phases of a scenario: ramp, steady, burst, a day in short, a recorded trace. Pure but for reading the trace."""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from penstock_models.errors import UsageError
from penstock_sim.scenario.load import Load

MAX_SECONDS = 7 * 86_400
MAX_LOAD = 1000
MAX_POINTS = 1_000_000

Seconds = Annotated[float, Meta(gt=0, le=MAX_SECONDS)]
Share = Annotated[float, Meta(ge=0, le=MAX_LOAD)]

_DAY_POINTS = 240

Corner = tuple[float, float]
"""Seconds since the phase's begin, load."""


class Phase(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", kw_only=True):
    """A piece of the load, `load` times what the streams say of their rates. Each kind says its `corners`; paths start at
    `folder`."""


class Steady(Phase, tag="steady", frozen=True, kw_only=True):
    seconds: Seconds
    load: Share = 1.0

    def corners(self, folder: Path) -> Sequence[Corner]:
        return (0.0, self.load), (self.seconds, self.load)


class Ramp(Phase, tag="ramp", rename={"begin": "from", "end": "to"}, frozen=True, kw_only=True):
    """A straight line `from` one load `to` another."""

    seconds: Seconds
    begin: Share = 0.0
    end: Share = 1.0

    def corners(self, folder: Path) -> Sequence[Corner]:
        return (0.0, self.begin), (self.seconds, self.end)


class Burst(Phase, tag="burst", frozen=True, kw_only=True):
    """`load`, and every `every_s` for `for_s` the load `peak`. A pause comes first, and the phase ends with one: only
    bursts that are over before its end take place."""

    seconds: Seconds
    peak: Share
    every_s: Seconds
    for_s: Seconds
    load: Share = 1.0

    def corners(self, folder: Path) -> Sequence[Corner]:
        if self.for_s >= self.every_s:
            raise UsageError(f"expected bursts shorter than every_s = {self.every_s:g}, came {self.for_s:g}")
        bursts = math.ceil(self.seconds / self.every_s) - 1
        if 4 * bursts > MAX_POINTS:
            raise UsageError(f"expected at most {MAX_POINTS // 4} bursts in a phase, came {bursts}")
        found: list[Corner] = [(0.0, self.load)]
        for number in range(1, bursts + 1):
            begin, end = number * self.every_s - self.for_s, number * self.every_s
            found += [(begin, self.load), (begin, self.peak), (end, self.peak), (end, self.load)]
        return [*found, (self.seconds, self.load)]


class Diurnal(Phase, tag="diurnal", frozen=True, kw_only=True):
    """`days` days in `seconds`: from `low` at midnight over `high` at noon back to `low`, as a cosine."""

    seconds: Seconds
    low: Share
    high: Share
    days: Annotated[int, Meta(ge=1, le=366)] = 1

    def corners(self, folder: Path) -> Sequence[Corner]:
        points = _DAY_POINTS * self.days
        middle, swing = (self.low + self.high) / 2, (self.high - self.low) / 2
        return [
            (self.seconds * n / points, middle - swing * math.cos(2 * math.pi * n / _DAY_POINTS))
            for n in range(points + 1)
        ]


class Replay(Phase, tag="replay", frozen=True, kw_only=True):
    """A recorded load: a CSV with the columns `seconds` and `load`. `speed` 60 plays an hour in a minute."""

    file: str
    speed: Annotated[float, Meta(gt=0, le=1e6)] = 1.0
    load: Share = 1.0

    def corners(self, folder: Path) -> Sequence[Corner]:
        path = folder / self.file
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                found = list(self._rows(csv.DictReader(file), path))
        except OSError as error:
            raise UsageError(f"expected a readable trace {path}: {error.strerror}") from None
        except (csv.Error, UnicodeDecodeError) as error:
            raise UsageError(f"expected a trace in CSV and UTF-8 in {path}: {error}") from None
        if not 2 <= len(found) <= MAX_POINTS:
            some = f"more than {MAX_POINTS}" if len(found) > MAX_POINTS else len(found)
            raise UsageError(f"expected a trace of 2 to {MAX_POINTS} rows in {path}, came {some}")
        return [(seconds - found[0][0], load) for seconds, load in found]

    def _rows(self, reader: csv.DictReader[str], path: Path) -> Iterator[Corner]:
        """The corners as they stand, one more than are allowed at most."""
        before = -math.inf
        for row in itertools.islice(reader, MAX_POINTS + 1):
            where = f"{path}:{reader.line_num}"
            try:
                seconds, load = float(row["seconds"]) / self.speed, float(row["load"]) * self.load
            except (KeyError, TypeError, ValueError):
                raise UsageError(f"{where}: expected numbers in the columns seconds and load") from None
            if not (math.isfinite(seconds) and seconds >= before):
                raise UsageError(f"{where}: expected seconds that ascend, came {row['seconds']}")
            if not 0 <= load <= MAX_LOAD:
                raise UsageError(f"{where}: expected a load of 0 to {MAX_LOAD:g}, came {load:g}")
            before = seconds
            yield seconds, load


AnyPhase = Steady | Ramp | Burst | Diurnal | Replay


def joined(phases: Sequence[AnyPhase], folder: Path) -> Load:
    """One load of phases that follow one another; a trace's path starts at `folder`.

    Raises:
        UsageError: a phase that cannot be, or as `load_of`.
    """
    return load_of([phase.corners(folder) for phase in phases])


def load_of(phases: Sequence[Sequence[Corner]]) -> Load:
    """One load of the corners of phases that follow one another.

    Raises:
        UsageError: a load of nothing, of too many corners, or too long.
    """
    times, values, begin = [], [], 0.0
    for corners in phases:
        times += [begin + seconds for seconds, _ in corners]
        values += [load for _, load in corners]
        begin = times[-1]
    if begin > MAX_SECONDS:
        raise UsageError(f"expected a run of at most {MAX_SECONDS} s, came {begin:g}")
    if len(times) > MAX_POINTS:
        raise UsageError(f"expected a load of at most {MAX_POINTS} corners, came {len(times)}")
    return Load(times, values)
