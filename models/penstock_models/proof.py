"""What a loaded version must show before it serves, and again when asked: its golden answers, alone and in batches.

A version is warm when every size of batch that it will be given has run: the first run of a size is where a runtime
allocates, and where an accelerator compiles. Where a batch answers something else than its items alone, the version takes
no batch of that size.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import msgspec

from penstock_models import golden
from penstock_models.bundle import Bundle
from penstock_models.engine import Engine
from penstock_models.items import Item, Outcome
from penstock_models.runtimes.session import RunError

LONGEST_S = 0.035
"""A batch that would take longer is not warmed up, and not made: more than the scheduler gives at a time."""

WARM_UP_S = 1.0
"""No further size is begun after this."""


class Proof:
    """The tests of one version.

    Args:
        run: runs a batch the whole way, as a servable does.
        forget: drops what a stateful version carries for a stream.
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: Engine,
        run: Callable[[Sequence[Item]], list[Outcome]],
        forget: Callable[[str], None],
    ) -> None:
        self._bundle = bundle
        self._engine = engine
        self._run = run
        self._forget = forget
        self._samples = bundle.manifest.golden
        self._lowest = golden.lowest_score(bundle.manifest)
        self._first: Item | None = None

    def golden(self, advance: Callable[[int, int], None] | None = None) -> list[str]:
        """Run the golden samples and say what is wrong, one line a problem; empty when all is right.

        Args:
            advance: called after each with how many of how many are done.
        """
        problems: list[str] = []
        for index in range(len(self._samples)):
            problems += self._differences(range(index, index + 1))
            if advance:
                advance(index + 1, len(self._samples))
        return problems

    def probe(self) -> bool:
        """Run the first golden sample, or zeros where the bundle has none, and say whether the answer was right."""
        return self._right(1)

    def warm(self) -> dict[int, float]:
        """Run every size of batch; milliseconds of each, by the number of items. Empty where the version takes no zeros
        and has no golden samples."""
        took: dict[int, float] = {}
        until = time.perf_counter() + WARM_UP_S
        for size in _sizes(1 if self._engine.fixed else self._engine.max_batch):
            longer = took and took[max(took)] / max(took) * size > LONGEST_S * 1e3
            if longer or (took and time.perf_counter() > until) or not self._right(size):
                break
            took[size] = self._timed_ms(size)  # its second run
        if not self._engine.fixed:
            self._engine.limit(max(took, default=1))
        return took

    def _right(self, size: int) -> bool:
        if self._samples:
            return not self._differences(range(size))
        try:
            self._engine.trial(size)
        except RunError:
            return False
        return True

    def _timed_ms(self, size: int) -> float:
        items = self._items(range(size))
        began = time.perf_counter()
        if items:
            self._run(items)
        else:
            self._engine.trial(size)
        took = time.perf_counter() - began
        for item in items:
            self._forget(item.stream)
        return took * 1e3

    def _differences(self, indices: range) -> list[str]:
        """What is wrong with the answers of one batch: the samples with these numbers, counted round and round."""
        items = self._items(indices)
        outcomes = self._run(items)
        for item in items:
            self._forget(item.stream)
        samples = [self._samples[index % len(self._samples)] for index in indices]
        found = (golden.difference(s, o, self._lowest) for s, o in zip(samples, outcomes, strict=True))
        return [problem for problem in found if problem]

    def _items(self, indices: range) -> list[Item]:
        """Each a stream of its own, so that carried state starts fresh."""
        count = len(self._samples)
        numbers = {index % count for index in indices} if count else set()
        plain = {number: self._item(number) for number in numbers}
        items = [
            msgspec.structs.replace(plain[index % count], stream=f"golden/{index}")
            for index in (indices if count else ())
        ]
        for item in items:
            self._forget(item.stream)
        return items

    def _item(self, number: int) -> Item:
        """One sample as an item. The first is kept: a probe needs no disk, whatever became of the file since."""
        if number == 0 and self._first is not None:
            return self._first
        sample = self._samples[number]
        item = golden.item(sample, self._bundle.read(sample.file))
        if number == 0:
            self._first = item
        return item


def _sizes(largest: int) -> Iterator[int]:
    """1, 2, 4 … and the largest."""
    size = 1
    while size < largest:
        yield size
        size *= 2
    yield largest
