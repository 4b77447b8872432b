"""What is under a scheduler: inference threads whose batches take what was measured, and the disk of the journal.

Work of the event loop and of other processes on the same cores makes running batches longer, where no core is free for it.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from penstock_models.items import Answer, Item, Outcome
from penstock_sim.plan.curve import Curve, at
from penstock_sim.plan.kernel import Kernel, Process
from penstock_sim.plan.profile import ModelProfile, Profile

LATELY_S = 0.25
"""What was busy counts for so long, fading."""

COLD_S = 0.001
"""A slot that was idle for longer begins cold."""

Z99 = 2.3263
"""The standard normal's quantile 0.99."""

_ANSWER = Answer()


class _Ends:
    """A batch that runs: the future that the scheduler is given. `mark` is what was stolen when its end was set."""

    __slots__ = ("_act", "mark", "outcomes")

    def __init__(self, outcomes: list[Outcome], mark: float) -> None:
        self.outcomes, self.mark = outcomes, mark
        self._act: Callable[[Any], None] | None = None

    def add_done_callback(self, act: Callable[[Any], None]) -> None:
        self._act = act

    def result(self) -> list[Outcome]:
        return self.outcomes

    def cancel(self) -> None:
        self._act = None

    def end(self) -> None:
        if self._act is not None:
            self._act(self)


class Slots:
    """The simulated executor: batches take times drawn from the profile, and longer where their core is taken from them."""

    degraded = ()

    def __init__(self, kernel: Kernel, process: Process, profile: Profile, slots: int, seed: int) -> None:
        self.slots, self.cores = slots, profile.cores
        self.busy = 0
        self.busy_s = 0.0
        self._kernel, self._process, self._hop_s = kernel, process, profile.facts.hop_ms / 1e3
        self._models: dict[str, ModelProfile] = {}
        self._dice = random.Random(seed)
        self._stolen = 0.0
        self._lately, self._counted = 0.0, 0.0  # the share that was busy, as of when it was counted
        self._idle_since = deque([0.0] * slots)  # of the slots that are free; the longest idle one goes first
        self._curves: dict[tuple[str, int, int, bool], Curve] = {}
        self._answers: dict[int, list[Outcome]] = {}

    def add(self, model: ModelProfile) -> None:
        self._models[model.name] = model

    def run(self, digest: str, items: Sequence[Item], timeout_s: float) -> Any:
        """Begin a batch of the model that is called as its digest."""
        now, n = self._process.now, len(items)
        idle = now - self._idle_since.popleft() > COLD_S
        self._count()
        self.busy += 1
        key = digest, n, self.busy, idle
        curve = self._curves.get(key)
        if curve is None:
            curve = self._curves[key] = self._curve(*key)
        took = at(curve, self._dice.random()) + self._hop_s
        ends = _Ends(self._outcomes(n), self._stolen)
        self.busy_s += took
        self._kernel.at(now + took, self._process, self._end, ends, now + took)
        return ends

    def idle(self) -> float:
        """The share of the slots that was idle lately."""
        self._count()
        return 1.0 - self._lately

    def steal(self, seconds: float) -> None:
        """Take processor time for something else: from the batches that run, where no core is free."""
        if self.busy >= self.cores and self.busy:
            self._stolen += seconds / self.busy
            self.busy_s += seconds

    def _end(self, ends: _Ends, planned: float) -> None:
        """A batch is through, unless time was stolen from it meanwhile."""
        debt = self._stolen - ends.mark
        if debt > 0.0:
            ends.mark = self._stolen
            self._kernel.at(planned + debt, self._process, self._end, ends, planned + debt)
            return
        self._count()
        self.busy -= 1
        self._idle_since.append(planned)
        ends.end()

    def _count(self) -> None:
        """Let what was busy lately move towards what was busy since it was counted last."""
        now, share = self._process.now, self.busy / self.slots
        self._lately = share + (self._lately - share) * math.exp((self._counted - now) / LATELY_S)
        self._counted = now

    def _curve(self, name: str, n: int, busy: int, idle: bool) -> Curve:
        """The measured one; where more run than were measured, they share the cores."""
        model = self._models[name]
        measured = min(busy, model.busiest)
        longer = max(1.0, busy / self.cores) / max(1.0, measured / self.cores)
        return tuple(seconds * longer for seconds in model.curve(n, measured, idle))

    def _outcomes(self, n: int) -> list[Outcome]:
        found = self._answers.get(n)
        if found is None:
            found = self._answers[n] = [_ANSWER] * n
        return found


class Delays:
    """Times of a disk or of a way: log-normal, as both do other work now and then.

    Args:
        middle_ms, p99_ms: their median and what 99 of 100 take at most, 0 for the same.
    """

    def __init__(self, middle_ms: float, p99_ms: float, seed: str) -> None:
        self._middle_s = middle_ms / 1e3
        self._sigma = math.log(p99_ms / middle_ms) / Z99 if p99_ms > middle_ms > 0 else 0.0
        self._dice = random.Random(seed)

    def take(self) -> float:
        """The seconds of the next one."""
        if not self._sigma:
            return self._middle_s
        return self._middle_s * math.exp(self._dice.gauss(0.0, self._sigma))
