"""The seconds and the books of several workers, made one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from hdrh.histogram import HdrHistogram

from penstock_sim.measure.window import MixSecond, new_histogram
from penstock_sim.run import wire


class Seconds:
    """Gathers the same second of all workers; hands each on when it is whole."""

    def __init__(self, count: int, each: Callable[[wire.Second], Awaitable[None]]) -> None:
        self._count, self._each = count, each
        self._found: dict[int, list[wire.Second]] = {}

    async def take(self, second: wire.Second) -> None:
        found = self._found.setdefault(second.number, [])
        found.append(second)
        if len(found) == self._count:
            await self._each(seconds(self._found.pop(second.number)))

    async def rest(self) -> None:
        """Hand on the last ones, which some workers were done before."""
        for number in sorted(self._found):
            await self._each(seconds(self._found.pop(number)))


def seconds(found: Sequence[wire.Second]) -> wire.Second:
    """The same second of all workers."""
    mixes = {name: mix([one.mixes[name] for one in found]) for name in found[0].mixes}
    lags = [one.lag_p99_ms for one in found if one.lag_p99_ms is not None]
    return wire.Second(
        found[0].number,
        mixes,
        sum(one.connected for one in found),
        sum(one.held for one in found),
        sum(one.unsent for one in found),
        max(lags, default=None),
        sum(one.bytes_received for one in found),
        sum(one.bytes_sent for one in found),
    )


def mix(found: Iterable[MixSecond]) -> MixSecond:
    """Several seconds of a mix as one."""
    sent = answered = late = 0
    fates: Counter[str] = Counter()
    latencies: list[str] = []
    for one in found:
        sent, answered, late = sent + one.sent, answered + one.answered, late + one.late
        fates.update(one.fates)
        latencies += [one.latency] if one.latency else []
    latency = latencies[0] if len(latencies) == 1 else _encoded(latencies)
    return MixSecond(sent, answered, late, dict(fates), latency)


def histogram(encoded: Iterable[str]) -> HdrHistogram:
    """Latencies in microseconds, of seconds that have some."""
    total = new_histogram()
    for text in filter(None, encoded):
        total.add(HdrHistogram.decode(text))
    return total


def done(found: Sequence[wire.Done]) -> wire.Done:
    """The books of all workers; what each says of its sending is taken from the worst."""
    streams: dict[str, dict[str, object]] = {}
    for one in found:
        for name, books in one.streams.items():
            streams.setdefault(name, {}).update(books)
    worst = max(found, key=lambda one: one.lag_ms.get("p99") or 0.0)
    return wire.Done(
        streams=streams,  # type: ignore[arg-type]
        unsent=_sum(one.unsent for one in found),
        lag_ms=worst.lag_ms,
        behind=sum(one.behind for one in found),
        sent_lag_ms=max(found, key=lambda one: one.sent_lag_ms.get("p99") or 0.0).sent_lag_ms,
        lost_connections=_sum(one.lost_connections for one in found),
        refused=sum(one.refused for one in found),
        foreign=sum(one.foreign for one in found),
        undecodable=sum(one.undecodable for one in found),
        stopped=any(one.stopped for one in found),
        offset_ms=_offset([one.offset_ms for one in found if one.offset_ms is not None]),
    )


def _offset(bounds: Sequence[tuple[float, float]]) -> tuple[float, float] | None:
    """All hold together, as far as they do."""
    if not bounds:
        return None
    least, most = max(least for least, _ in bounds), min(most for _, most in bounds)
    return (least, most) if least <= most else bounds[-1]


def _encoded(latencies: Sequence[str]) -> str:
    return histogram(latencies).encode().decode() if latencies else ""


def _sum(found: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for one in found:
        total.update(one)
    return dict(total)
