"""A batch that runs, and what it means when it fails as a whole. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from penstock_models.items import Outcome, Refusal
from penstock_models.scheduling.runs import VersionRun
from penstock_models.scheduling.suspects import Suspect


class Batch(NamedTuple):
    """Requests that run, since `began` (the loop's clock). `suspect` is the one that runs alone."""

    run: VersionRun
    requests: list[Any]
    began: float
    predicted_s: float
    suspect: Suspect | None

    @property
    def last_try(self) -> bool:
        """Whether nobody else is to be spared, so that it may take its time."""
        return self.suspect.failed is not None if self.suspect is not None else len(self.requests) == 1

    def suspects(self, outcomes: Sequence[Outcome]) -> list[Suspect]:
        """Those that failed as a whole and are to be tried alone; none where it is clear who is guilty.

        Of a process that died under one request that request may be innocent, too.
        """
        failed = [(r, o) for r, o in zip(self.requests, outcomes) if isinstance(o, Refusal) and o.suspect]
        hung = any(outcome.reason == "model_timeout" for _, outcome in failed)
        if self.last_try and (self.suspect is not None or hung):
            return []
        alone = len(self.requests) == 1
        return [Suspect(self.run, request, outcome if alone else None) for request, outcome in failed]
