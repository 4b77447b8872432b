"""A scheduler with what stands between it and the owner of its requests: chains of models, and shadows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from penstock_models.items import Executor, Outcome
from penstock_models.scheduling.chain import Chains
from penstock_models.scheduling.runs import VersionRun
from penstock_models.scheduling.scheduler import Fate, Scheduler
from penstock_models.scheduling.shadow import ShadowOf, Shadows


class Owner(Protocol):
    """What becomes of requests. Both may be called from within `Scheduler.submit`."""

    def outcomes(self, run: VersionRun, requests: list[Any], outcomes: Sequence[Outcome]) -> None:
        """A batch of a version was answered."""

    def settled(self, requests: list[Any], fate: Fate) -> None:
        """These were not run."""


class Front:
    """Hands what the scheduler tells to the owner, who comes later than the models."""

    def __init__(self, executor: Executor, slots: int, shadow_of: ShadowOf) -> None:
        self._owner: Owner | None = None
        chains = Chains(self._outcomes, self._settled)
        self.shadows = Shadows(chains.outcomes, chains.settled, shadow_of)
        self.scheduler = Scheduler(executor, slots, self.shadows.outcomes, self.shadows.settled)
        chains.scheduler = self.shadows.scheduler = self.scheduler

    def own(self, owner: Owner) -> None:
        """From now on requests are this owner's."""
        self._owner = owner

    def _outcomes(self, run: VersionRun, requests: list[Any], outcomes: Sequence[Outcome]) -> None:
        assert self._owner is not None  # who submits is the owner
        self._owner.outcomes(run, requests, outcomes)

    def _settled(self, requests: list[Any], fate: Fate) -> None:
        assert self._owner is not None
        self._owner.settled(requests, fate)
