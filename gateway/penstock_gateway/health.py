"""Whether the gateway works: a probe that really runs the models, and the state that it publishes.

The probe runs one golden sample of each model through the executor, every `PERIOD_S`. An event loop or an executor
that hangs answers no probe, and that is what `/healthz` then says.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from penstock_gateway.logs import Log
from penstock_models.items import Executor, ServableInfo

PERIOD_S = 10.0
FRESH_S = 30.0

log = Log(__name__)


class Health:
    """The probe's verdicts.

    Args:
        on_change: called after a probe that found `degraded` changed.
    """

    def __init__(
        self, executor: Executor, models: Callable[[], Sequence[ServableInfo]], on_change: Callable[[], None]
    ) -> None:
        self._executor = executor
        self._models = models
        self._on_change = on_change
        self._answered = time.monotonic()
        self.failing: frozenset[str] = frozenset()

    @property
    def degraded(self) -> list[str]:
        """Why answers are not what they should be: models that fail their probe, threads that hang."""
        return sorted({*self.failing, *self._executor.degraded})

    def problems(self) -> list[str]:
        """Why the gateway is not healthy; empty when it is."""
        age = time.monotonic() - self._answered
        stale = [f"no probe was answered for {age:.0f} s"] if age > FRESH_S else []
        return stale + sorted(self.failing)

    async def run(self) -> None:
        """Probe until cancelled."""
        told: list[str] = []
        while True:
            wrong = await self._wrong()
            self.failing = frozenset(f"model {info.name} gives a wrong answer to its probe" for info in wrong)
            self._answered = time.monotonic()
            if self.degraded != told:
                told = self.degraded
                log.warning("probe", degraded=told)
                self._on_change()
            await asyncio.sleep(PERIOD_S)

    async def _wrong(self) -> list[ServableInfo]:
        return [info for info in self._models() if not await self._executor.probe(info.digest)]
