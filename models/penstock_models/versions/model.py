"""One model: its versions, its labels, and so its next step. No I/O.

Owns how offers, configuration, labels and the record of an earlier start come together. The manager tells it what
happened, asks it for the next step, and takes the step.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

from msgspec.structs import replace

from penstock_models.errors import ModelRefused, UsageError
from penstock_models.manifest import Manifest
from penstock_models.versions import aspiring, drift, labels, residency, transition
from penstock_models.versions.config import ModelConfig
from penstock_models.versions.life import Life
from penstock_models.versions.offers import Offers
from penstock_models.versions.record import ModelRecord, Moved, Served
from penstock_models.versions.split import Routing
from penstock_models.versions.staging import Staged
from penstock_models.versions.transition import Action

DRIFT = "drift"
PARKED_PAUSE_S = 1.0
"""Frames ask in vain as fast as they come; room is looked for at most so often."""


class Model:
    """`record` is what was set at run time, and what else the next start needs to know: replaced, never changed in place.

    `wanted_at` is when somebody last asked for it in vain (monotonic seconds; −infinity for never). `leaving` says that
    it is wanted no more, `recalled` that the record of an earlier start was heard.
    """

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        self.lives: dict[int, Life] = {}
        self.record = ModelRecord()
        self.wanted_at = -math.inf
        self.leaving = False
        self.recalled = False

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def available(self) -> dict[int, Life]:
        return {v: life for v, life in self.lives.items() if life.state == "available"}

    @property
    def labels(self) -> dict[str, int]:
        """Where the labels point now; one whose version is not available is left out until it is."""
        available = self.available
        return {label: version for label, version in self.record.labels.items() if version in available}

    @property
    def idle(self) -> bool:
        """Nothing of it is loaded or on its way."""
        return all(life.idle for life in self.lives.values())

    @property
    def parked(self) -> bool:
        """Nothing serves, and something waits for room, or to be asked for."""
        return not self.available and any(life.state == "parked" for life in self.lives.values())

    @property
    def coming(self) -> bool:
        """Something is on its way, or would be if somebody asked."""
        states = {life.state for life in self.lives.values() if life.aspired}
        return bool(states & {"new", "preparing", "loading", "parked"})

    def routing(self) -> Routing:
        return Routing(frozenset(self.available), self.labels, dict(self.config.split), self.config.shadow)

    # --- what happened -----------------------------------------------------------------------------------------

    def configure(self, config: ModelConfig, now: float) -> None:
        """Another configuration: a version that is named now need not fit the one that serves."""
        self.config, self.leaving = config, False
        self._pardon(now)
        self.settle()

    def leave(self) -> None:
        """Wanted no more: everything that is loaded goes, and nothing is remembered."""
        self.leaving, self.record = True, ModelRecord()

    def offered(self, offers: Offers, now: float) -> None:
        """The source was looked at."""
        listed = {offer.version: offer for offer in offers.of(self.name)}
        for version, offer in listed.items():
            life = self.lives.setdefault(version, Life(self.name, version, now, due=now))
            life.excused = False
            life.offered(offer, now)
        for version in self.lives.keys() - listed.keys():
            life = self.lives[version]
            life.excused = life.staged is not None and offers.excuses(self.name, version)
            if not life.excused:
                life.offer = None
                if life.idle and not (life.kept and listed):
                    del self.lives[version]

    def recall(self, record: ModelRecord, staged: Iterable[Staged], now: float) -> None:
        """What an earlier start left: its labels, and copies of what it served."""
        self.record, self.recalled = record, True
        for copy in staged:
            self.lives[copy.version] = Life(
                self.name, copy.version, now, staged=copy, kept=True, tried=copy.stamp
            )

    def settle(self) -> None:
        """Move the labels that wait for a version which is available now, and forget the moves that count no more."""
        settled = labels.settle(self.record.labels, self._wanted_labels(), self.available)
        moved = labels.held(self.config.labels, self.record.moved)
        self.record = replace(self.record, labels=settled, moved=moved)

    def move_label(self, label: str, version: int) -> None:
        """Set a label at run time.

        Raises:
            UsageError: the version is not available.
        """
        self._relabel(labels.move(self.record.labels, label, version, self.available, self.name), label)

    def remove_label(self, label: str) -> None:
        """Take a label away at run time.

        Raises:
            UsageError: there is none.
        """
        left = dict(self.record.labels)
        if left.pop(label, None) is None:
            known = ", ".join(left) or "none"
            raise UsageError(f"{self.name}@{label}: no such label; there are {known}")
        self._relabel(left, label)

    def want(self, version: int | None, now: float) -> None:
        """Somebody asks for a version, or for any; the highest that is parked is tried at once, if not just now."""
        self.wanted_at = now
        parked = [life for life in self.lives.values() if life.state == "parked" and life.aspired]
        meant = [life for life in parked if version in (None, life.version)]
        if meant:
            life = max(meant, key=lambda life: life.version)
            life.due = min(life.due, max(now, life.since + PARKED_PAUSE_S))

    def soothe(self, life: Life, now: float) -> None:
        """A version was parked for want of room: while somebody waits for it, what came just now may have to go soon."""
        if now - self.wanted_at <= residency.SETTLED_S:
            life.due = now + PARKED_PAUSE_S

    # --- what follows ------------------------------------------------------------------------------------------

    def next_action(self, now: float, *, busy: bool) -> Action:
        """The next step, after looking at what is aspired now."""
        self._aspire()
        self.settle()
        self._remember()
        return transition.next_action(self.lives.values(), self.config.transition, now, busy=busy)

    def check_drift(self, version: int, manifest: Manifest) -> None:
        """Let a version through that clients of the serving one can live with, or that somebody named.

        Raises:
            ModelRefused: `drift`, with what breaks them.
        """
        others = [life for life in self.available.values() if life.version != version]
        if not others or version in self._named():
            return
        serving = max(others, key=lambda life: life.version)
        broken = drift.breaking(serving.staged.manifest, manifest) if serving.staged else ""
        if broken:
            raise ModelRefused(
                DRIFT,
                f"{self.name}:{version} breaks clients of {serving}: {broken};"
                " name the version (policy list, label or route) to take it all the same",
            )

    def _aspire(self) -> None:
        labelled = self.record.labels.values()
        offered = [
            life
            for life in self.lives.values()
            if life.offer is not None or life.kept or life.excused or life.version in labelled
        ]
        wanted = () if self.leaving else aspiring.aspired(self.config.policy, offered, self._named())
        for version, life in self.lives.items():
            life.aspired = version in wanted
            # Where something better serves by now, a restart need not bring this one back.
            life.kept &= life.aspired

    def _remember(self) -> None:
        """What serves. What was kept from the last start still does, as far as is known."""
        served = tuple(
            Served(life.version, life.staged.digest, life.staged.stamp)
            for _, life in sorted(self.lives.items())
            if life.staged is not None and (life.state == "available" or life.kept)
        )
        # While the last one goes and the next one comes, a kill must not leave the model with nothing.
        if served:
            self.record = replace(self.record, served=served)

    def _named(self) -> frozenset[int]:
        return self.config.explicit().union(self.record.labels.values(), self._wanted_labels().values())

    def _wanted_labels(self) -> dict[str, int]:
        return labels.wanted(self.config.labels, self.record.moved)

    def _relabel(self, changed: dict[str, int], label: str) -> None:
        """Take these labels, of which one was moved or removed at run time."""
        moved = Moved(changed.get(label, 0), self.config.labels.get(label, 0))
        self.record = replace(self.record, labels=changed, moved={**self.record.moved, label: moved})

    def _pardon(self, now: float) -> None:
        """Try again what was refused for its drift only, and is named now."""
        named = self._named()
        for life in self.lives.values():
            if life.failure is not None and life.failure.reason == DRIFT and life.version in named:
                life.start_anew(now)


def used_digests(models: Collection[Model]) -> frozenset[str]:
    """The staged copies that are in use or may be soon; versions that do not need theirs forget it."""
    used: set[str] = set()
    for life in (life for model in models for life in model.lives.values()):
        if life.idle and not life.aspired and not life.kept:
            life.forget_copy()
        elif life.staged is not None:
            used.add(life.staged.digest)
    return frozenset(used)
