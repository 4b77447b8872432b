"""An executor with verbs in place of threads and models: batches run until they are told to end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from penstock_models.items import Anomaly, Answer, Item, Outcome, ServableInfo

ANSWER = Answer(anomaly=Anomaly(0.5))


class FakeExecutor:
    """Holds its batches until `finish`. `answer` makes an item's outcome; where it raises, the run does.

    While it is `deaf` nothing ends.
    """

    def __init__(self) -> None:
        self.degraded: tuple[str, ...] = ()
        self.running: list[tuple[list[Item], asyncio.Future[list[Outcome]]]] = []
        self.right = True
        self.deaf = False

    def run(self, digest: str, items: Sequence[Item], timeout_s: float) -> asyncio.Future[list[Outcome]]:
        done: asyncio.Future[list[Outcome]] = asyncio.get_running_loop().create_future()
        entry = (list(items), done)
        self.running.append(entry)
        done.add_done_callback(lambda _: self.running.remove(entry))
        return done

    async def finish(
        self, answer: Callable[[Item], Outcome] = lambda _: ANSWER, count: int = 1 << 30
    ) -> None:
        """Let so many of the running batches end, and the gateway take note."""
        await turns()
        for items, done in self.running[:count]:
            if self.deaf or done.done():
                continue
            try:
                done.set_result([answer(item) for item in items])
            except RuntimeError as error:
                done.set_exception(error)
        await turns()

    async def probe(self, digest: str) -> bool:
        return self.right

    async def close(self) -> None:
        """Nothing to free."""


async def turns(count: int = 4) -> None:
    """Let the loop do what is ready."""
    for _ in range(count):
        await asyncio.sleep(0)


def servable(
    name: str = "m", *, max_batch: int = 4, p50_ms: float = 0.01, stateful: bool = False
) -> ServableInfo:
    """What a warm-up says of a model that takes so long an item."""
    batch_ms = {2**n: p50_ms * 2**n for n in range(7)}
    return ServableInfo(
        name, 1, f"sha256:{name}", "fake:cpu", "anomaly", max_batch, stateful, p50_ms, 0, batch_ms=batch_ms
    )
