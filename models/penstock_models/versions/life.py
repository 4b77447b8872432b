"""One version of a model, from its first offer until it is forgotten: its state, its tries, its files.

Owns what each event means for the version itself. When it may take its next step is `transition`'s business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from penstock_models.items import ServableInfo
from penstock_models.versions import retry
from penstock_models.versions.memory import Need
from penstock_models.versions.offers import Offer
from penstock_models.versions.retry import Failure
from penstock_models.versions.staging import Staged

PARKED_RETRY_S = 60.0
"""A version without room is looked at again after so long, should nobody ask for it earlier."""

State = Literal["new", "preparing", "loading", "available", "unloading", "parked", "failed"]
"""`new`: waits for its turn; `parked`: no room, loaded on demand; `failed`: tried, perhaps to be tried again."""


@dataclass
class Life:
    """Times are monotonic seconds. `offer` is the source's last word, None where it offers the version no more; `excused`
    says that it is left out only because of a problem. `kept` says that it served before a restart, and was not tried since.

    `due` is when a `new`, `parked` or `failed` one may be tried, infinity for never; `tried` is the stamp of the files that
    the last try was about; `attempts` counts the tries that failed since it served. `making_room` says for whom it is
    unloaded, "" where it is wanted no more.
    """

    name: str
    version: int
    since: float
    offer: Offer | None = None
    staged: Staged | None = None
    need: Need | None = None
    info: ServableInfo | None = None
    state: State = "new"
    aspired: bool = False
    kept: bool = False
    excused: bool = False
    failure: Failure | None = None
    attempts: int = 0
    due: float = 0.0
    tried: str = ""
    load_ms: float = 0.0
    making_room: str = ""

    def __str__(self) -> str:
        return f"{self.name}:{self.version}"

    @property
    def digest(self) -> str:
        if self.staged is not None:
            return self.staged.digest
        return self.offer.digest if self.offer is not None else ""

    @property
    def idle(self) -> bool:
        """Nothing of it is loaded or on its way."""
        return self.state in ("new", "parked", "failed")

    @property
    def busy(self) -> bool:
        """It is being prepared or loaded, or makes room for one that is: no other is started meanwhile."""
        return self.state in ("preparing", "loading") or (
            self.state == "unloading" and self.making_room != ""
        )

    @property
    def ready(self) -> bool:
        """It is copied, verified and measured: it can be loaded."""
        return self.staged is not None and self.need is not None

    @property
    def note(self) -> str:
        """What an operator should know of it; "" for nothing."""
        if self.staged is None or not self._is_outdated():
            return ""
        return (
            f"the files of {self} in the store changed after it was copied; it serves as it was,"
            " give other contents a new version number"
        )

    def offered(self, offer: Offer, now: float) -> None:
        """The source offers it. Other files than those known start it anew, unless they serve: then they stay."""
        before, self.offer = self.offer, offer
        if before is not None and before.stamp == offer.stamp:
            return
        known = self._is_staged(offer) or (self.staged is None and offer.stamp == self.tried)
        if self.idle and not known:
            self.start_anew(now)

    def start_anew(self, now: float) -> None:
        """Forget what was tried: other files, or other wishes."""
        self.staged = self.need = self.failure = None
        self.attempts, self.due, self.tried = 0, now, ""
        self._turn("new", now)

    def preparing(self, now: float) -> None:
        self.tried = self.offer.stamp if self.offer is not None else ""
        self._turn("preparing", now)

    def prepared(self, staged: Staged, need: Need, now: float) -> None:
        """Copied, verified, measured: it waits to be loaded. Not if other files are offered by now."""
        self.staged, self.need, self.due = staged, need, now
        if self._is_outdated():
            self.start_anew(now)
        else:
            self._turn("new", now)

    def loading(self, now: float) -> None:
        self._turn("loading", now)

    def loaded(self, info: ServableInfo, now: float) -> None:
        self.info, self.load_ms = info, (now - self.since) * 1e3
        self.failure, self.kept, self.attempts = None, False, 0
        self._turn("available", now)

    def failed(self, failure: Failure, now: float) -> None:
        """A try went wrong. Files that changed meanwhile are tried at once."""
        self.attempts += 1
        self.failure, self.kept = failure, False
        if self.offer is not None and self._is_outdated() and self.offer.stamp != self.tried:
            self.start_anew(now)
            return
        self.due = retry.retry_at(failure, self.attempts, now, f"{self}:{self.digest}")
        self._turn("failed", now)

    def parked(self, text: str, now: float) -> None:
        """There is no room for it, or another one needed its room."""
        self.failure, self.due = Failure("memory", text, False), now + PARKED_RETRY_S
        self._turn("parked", now)

    def interrupted(self, now: float) -> None:
        """A step was broken off through no fault of its own: it may be taken again."""
        self.due = now
        self._turn("available" if self.info is not None else "new", now)

    def unloading(self, making_room: str, now: float) -> None:
        self.making_room = making_room
        self._turn("unloading", now)

    def unloaded(self, now: float) -> None:
        """It is gone. It may come again: as if it were new, or when it is asked for, if it made room."""
        if self.making_room:
            self.parked(f"memory: made room for {self.making_room}; loaded again when asked for", now)
        else:
            self.start_anew(now)

    def forget_copy(self) -> None:
        """Its staged copy is gone: it is copied and measured again before its next load."""
        self.staged = self.need = None

    def _is_outdated(self) -> bool:
        """Other files are offered than those that were copied."""
        return self.offer is not None and not self._is_staged(self.offer)

    def _is_staged(self, offer: Offer) -> bool:
        """The staged copy is of what is offered: by digest, or where that is not known yet, by the files' stamp."""
        if self.staged is None:
            return False
        return offer.digest == self.staged.digest if offer.digest else offer.stamp == self.staged.stamp

    def _turn(self, state: State, now: float) -> None:
        self.state, self.since = state, now
