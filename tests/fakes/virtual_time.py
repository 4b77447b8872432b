"""An event loop whose clock jumps to the next timer instead of waiting for it, and an executor that takes its time there.

A minute of a simulated gateway passes in a second, the same way every time.
"""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, ParamSpec, TypeVar

from penstock_models.items import Item, Outcome, ServableInfo
from tests.fakes.executor import ANSWER, FakeExecutor

P = ParamSpec("P")
T = TypeVar("T")


class VirtualLoop(asyncio.SelectorEventLoop):
    """`time()` stands still while something is ready, and jumps when nothing is."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        selector: Any = self._selector  # type: ignore[attr-defined]
        really = selector.select

        def select(timeout: float | None = None) -> Any:
            if timeout:
                self._now += timeout
            return really(0)

        selector.select = select

    def time(self) -> float:
        return self._now


def simulate(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)


def in_virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """A test whose waits take no time, and last exactly as long as they say."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        simulate(test(*args, **kwargs))

    return run


class TimedExecutor(FakeExecutor):
    """Batches of n items end after `seconds(digest, n)`, a little more or less; as many at once as are given."""

    def __init__(self, seconds: Callable[[str, int], float], noise: float = 0.05, seed: int = 1) -> None:
        super().__init__()
        self.seconds = seconds
        self._noise = noise
        self._chance = random.Random(seed)

    def run(self, digest: str, items: Sequence[Item], timeout_s: float) -> asyncio.Future[list[Outcome]]:
        loop = asyncio.get_running_loop()
        took = self.seconds(digest, len(items)) * self._chance.lognormvariate(0, self._noise)
        done: asyncio.Future[list[Outcome]] = loop.create_future()
        loop.call_later(took, self._end, done, len(items))
        return done

    @staticmethod
    def _end(done: asyncio.Future[list[Outcome]], n: int) -> None:
        if not done.done():
            done.set_result([ANSWER] * n)


def timed(name: str, item_ms: float, fixed_ms: float = 0.0) -> ServableInfo:
    """What a warm-up says of a model that takes α·n + β."""
    batch_ms = {n: item_ms * n + fixed_ms for n in (1, 2, 4, 8)}
    return ServableInfo(
        name, 1, f"sha256:{name}", "fake:cpu", "anomaly", 64, False, batch_ms[1], 0, batch_ms=batch_ms
    )
