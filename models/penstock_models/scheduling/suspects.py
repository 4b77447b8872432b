"""Requests of a batch that failed as a whole: each is run alone, so that only the guilty one fails.

The first time alone they are given up soon; one that fails again then is tried a last time, behind the others. A
request's flow keeps its order: nothing of it runs before the request has its fate.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from penstock_models.scheduling.request import NO_DEADLINE, Flow, Request
from penstock_models.scheduling.runs import VersionRun


class Suspect(NamedTuple):
    """One that is to run alone. `last_try`: if it fails, it is the guilty one."""

    run: VersionRun
    request: Request
    last_try: bool = False


class Suspects:
    """Those that wait to be tried, one at a time: `trying` while one runs."""

    def __init__(self) -> None:
        self.trying = False
        self._line: deque[Suspect] = deque()

    def __len__(self) -> int:
        return len(self._line)

    def add(self, run: VersionRun, requests: list[Request], alone: bool) -> None:
        """Note the requests of a run that failed as a whole; `alone`: it was one suspect's first try."""
        follows = any(suspect.request.flow is requests[0].flow for suspect in self._line)
        if alone and follows:
            self._line.appendleft(Suspect(run, requests[0], last_try=True))
        else:
            self._line.extend(Suspect(run, request, last_try=alone) for request in requests)

    def next(self) -> Suspect | None:
        """The next one whose version serves."""
        for _ in range(len(self._line)):
            if self._line[0].run.serving:
                return self._line.popleft()
            self._line.rotate(-1)
        return None

    def expire(self, now: float) -> list[Suspect]:
        """Take out those that can no longer be answered in time, whether their version serves or not."""
        late = [suspect for suspect in self._line if suspect.request.deadline < now]
        if late:
            self._line = deque(suspect for suspect in self._line if suspect.request.deadline >= now)
        return late

    def next_deadline(self) -> float:
        return min((suspect.request.deadline for suspect in self._line), default=NO_DEADLINE)

    def take_from(self, run: VersionRun) -> list[Suspect]:
        """Take out those of a version that goes."""
        its = [suspect for suspect in self._line if suspect.run is run]
        self._line = deque(suspect for suspect in self._line if suspect.run is not run)
        return its

    def flows(self) -> set[Flow]:
        return {suspect.request.flow for suspect in self._line}

    def drain(self) -> list[Suspect]:
        line = list(self._line)
        self._line.clear()
        return line
