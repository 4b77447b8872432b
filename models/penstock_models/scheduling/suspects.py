"""Requests of a batch that failed as a whole: each is run alone, so that only the guilty one fails.

The first time alone they are given up soon; one that fails again then is tried a last time, behind the others. A
request's flow keeps its order: nothing of it runs before the request has its fate.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from penstock_models.items import Refusal
from penstock_models.scheduling.request import NO_DEADLINE, Flow, Request
from penstock_models.scheduling.runs import VersionRun


class Suspect(NamedTuple):
    """One that is to run alone. `failed` is how it failed alone before: should it do so again, it is the guilty one."""

    run: VersionRun
    request: Request
    failed: Refusal | None = None


class Suspects:
    """Those that wait to be tried, one at a time: `trying` is the one that runs."""

    def __init__(self) -> None:
        self.trying: Suspect | None = None
        self._line: deque[Suspect] = deque()

    def __bool__(self) -> bool:
        """Somebody waits, or runs."""
        return self.trying is not None or bool(self._line)

    def add(self, suspects: list[Suspect]) -> None:
        """Let them wait; one that failed alone behind the others, but for those of its own flow."""
        for suspect in suspects:
            if suspect.failed is not None and suspect.request.flow in self.flows():
                self._line.appendleft(suspect)
            else:
                self._line.append(suspect)

    def next(self) -> Suspect | None:
        """The next one to be tried, whose version serves; None while another one is."""
        if self.trying is None:
            for suspect in self._line:
                if suspect.run.serving:
                    (self.trying,) = self._take([suspect])
                    return suspect
        return None

    def expire(self, now: float) -> list[Suspect]:
        """Take out those that can no longer be answered in time, whether their version serves or not."""
        return self._take([suspect for suspect in self._line if suspect.request.deadline <= now])

    def next_deadline(self) -> float:
        """The earliest deadline of one that waits; NO_DEADLINE where none does."""
        return min((suspect.request.deadline for suspect in self._line), default=NO_DEADLINE)

    def move(self, run: VersionRun) -> list[Suspect]:
        """Give those of a version that goes to those that their flows have now, and that know nothing against them yet.

        Returns:
            Those that have no other version; they are taken out.
        """
        stranded = []
        for index, suspect in enumerate(self._line):
            if suspect.run is run:
                other = suspect.request.flow.chosen()
                if other is None or other is run:
                    stranded.append(suspect)
                else:
                    self._line[index] = Suspect(other, suspect.request)
        return self._take(stranded)

    def flows(self) -> set[Flow]:
        """Those whose order depends on one that waits, or runs."""
        running = [self.trying] if self.trying is not None else []
        return {suspect.request.flow for suspect in [*running, *self._line]}

    def drain(self) -> list[Suspect]:
        """Take out all that wait."""
        return self._take([*self._line])

    def _take(self, suspects: list[Suspect]) -> list[Suspect]:
        for suspect in suspects:
            self._line.remove(suspect)
        return suspects
