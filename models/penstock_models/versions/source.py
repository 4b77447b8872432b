"""Sources of versions: a model store that is looked at again and again, and a list in code.

Owns when what lies somewhere counts as arrived (contracts 6): a bundle once its manifest verifies and its files have
their sizes; a bare model file once nothing of its folder changed for 5 s. A folder's mere existence never counts. Only
what changed since the last look is opened. Contents are verified when a version is staged.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from penstock_models.errors import UsageError
from penstock_models.store import Place, Version, look, names_version, places
from penstock_models.versions.offers import FRESH_S, Offer, Offers, Problem, stamp

SETTLE_S = 5.0


@dataclass
class _Seen:
    """One entry as of the last look; `since` (monotonic) is when its stamp was first seen."""

    stamp: str
    changed: float
    since: float
    looked: float
    version: Version


class ListSource:
    """Versions named in code: bundles, or MODEL/VERSION folders."""

    def __init__(self, paths: Sequence[Path] = ()) -> None:
        self._known: dict[Path, _Seen] = {}
        self._offered: dict[tuple[str, int], Offer] = {}
        self.set(paths)

    def set(self, paths: Sequence[Path]) -> None:
        """State anew, and in full, what is offered."""
        self._places = [Place(p, p.parent.name, int(p.name)) if names_version(p) else Place(p) for p in paths]

    def scan(self, now: float, wall: float) -> Offers:
        return self._scan(self._places, now, wall)

    def _scan(self, found: Iterable[Place], now: float, wall: float) -> Offers:
        problems: list[Problem] = []
        offers: list[Offer] = []
        known: dict[Path, _Seen] = {}
        for place in found:
            seen = self._look(place, now)
            if seen is None:
                continue  # vanished since it was listed
            known[place.path] = seen
            version = seen.version
            trouble = version.error or _unsettled(seen, now, wall)
            if trouble:
                problems.append(_problem(version.name, version.version, trouble))
            else:
                offers.append(Offer(version.name, version.version, version.path, seen.stamp, version.digest))
        self._known = known
        chosen = list(self._without_twins(offers, problems))
        self._offered = {(offer.name, offer.version): offer for offer in chosen}
        return Offers(tuple(chosen), tuple(problems))

    def _look(self, place: Place, now: float) -> _Seen | None:
        """The entry, opened only where it changed since the last look; None where it is gone."""
        try:
            text, changed = stamp(place.path)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and not os.path.exists(place.path):  # noqa: PTH110 - never raises
                return None
            version = look(place)
            # What opens it may not come across it: a folder that may not be listed, a file that came and went.
            said = version.error or f"cannot read {place.path}: {error.strerror}"
            return _Seen("", 0.0, now, now, version._replace(error=said))
        before = self._known.get(place.path)
        if before is None or before.stamp != text:
            return _Seen(text, changed, now, now, look(place))
        if before.looked - before.since < FRESH_S:
            before.looked, before.version = now, look(place)
        return before

    def _without_twins(self, offers: list[Offer], problems: list[Problem]) -> Iterator[Offer]:
        """One offer a version. Of twins with other contents the one that was offered before stays; else none is."""
        offers.sort(key=lambda o: (o.name, o.version, str(o.path)))
        for (name, version), group in groupby(offers, key=lambda o: (o.name, o.version)):
            twins = list(group)
            if len(twins) == 1:
                yield twins[0]
                continue
            before = self._offered.get((name, version))
            stays = [t for t in twins if before and (t.path, t.stamp) == (before.path, before.stamp)]
            same = len({t.digest or t.stamp for t in twins}) == 1
            used = stays or (twins[:1] if same else [])
            end = f"; {used[0].path} is used" if used else "; remove one"
            text = f"{name}:{version} lies in {twins[0].path} and in {twins[1].path}{end}"
            problems.append(_problem(name, version, text))
            yield from used


class StoreSource(ListSource):
    """A model store (contracts 6). One that cannot be read withdraws nothing: what it offered stays."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def scan(self, now: float, wall: float) -> Offers:
        try:
            found = places(self._path)
        except UsageError as error:
            return Offers(tuple(self._offered.values()), (_problem("", 0, str(error)),))
        return self._scan(found, now, wall)


def _unsettled(seen: _Seen, now: float, wall: float) -> str:
    """Why a bare model does not count yet; "" where it does. What has a manifest needs no waiting."""
    if seen.version.digest or now - seen.since >= SETTLE_S or wall - seen.changed >= SETTLE_S:
        return ""
    return f"{seen.version.path}: waits until nothing changed for {SETTLE_S:g} s"


def _problem(name: str, version: int, text: str) -> Problem:
    """A file's name may hold bytes that are no text; what is said of it goes into JSON."""
    return Problem(_text(name), version, _text(text))


def _text(name: str) -> str:
    return name.encode("utf-8", "replace").decode()
