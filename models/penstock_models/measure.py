"""How fast a bundle is on this machine, whole items in and answers out, for each batch size.

Owns the figures of `penstock model bench`. One thread calls the servable, as one worker of a gateway does, or several at
once, as a gateway that is busy; decoding, pre-processing, the run and post-processing are all in the time. The report is
also the device's profile, from which `penstock plan` predicts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from penstock_models import probe, samples
from penstock_models.bundle import Bundle
from penstock_models.errors import UsageError
from penstock_models.items import Item, Refusal
from penstock_models.resident import own_resident_bytes
from penstock_models.samples import Sample
from penstock_models.servable import Servable
from penstock_models.slices import LONGEST_S, ask_for_slice
from penstock_models.store import open_version

MAX_BATCH = 32
WARM_UPS = 3
MIN_RUNS = 3
SOLO_S = 0.5

QUANTILES = (0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 1.0)
"""Of which shares a row says what they took at most: `quantiles_ms`."""


class Row(msgspec.Struct, frozen=True):
    """One batch size while `busy` threads run: times of a whole batch in ms, items a second of all threads together.

    `quantiles_ms` are the times at `QUANTILES`, fastest first; where `idle`, each run began after a pause as long as a run,
    as on a machine that is half idle: caches are cold there, and clocks low.
    """

    batch: int
    runs: int
    p50_ms: float
    p95_ms: float
    items_per_s: float
    busy: int = 1
    idle: bool = False
    quantiles_ms: tuple[float, ...] = ()


class BenchReport(msgspec.Struct, frozen=True):
    """`rss_mb` is this process's resident memory at the end, the runtime and its libraries included."""

    name: str
    version: int
    digest: str
    placement: str
    load_ms: float
    rss_mb: float
    rows: tuple[Row, ...]
    v: int = 1


def measure(
    path: Path,
    given: Path | None,
    seconds: float,
    advance: Callable[[float], None],
    batches: Sequence[int] = (),
    threads: int = 1,
) -> BenchReport:
    """Run batches of 1, 2, 4 … for `seconds` each.

    Args:
        given: the input; the first golden sample, else a neutral one, when None.
        advance: called with the fraction of the work done since the last call.
        batches: these sizes in place of those that the model takes in one run; larger ones run in pieces.
        threads: beyond 1 each size is measured by so many threads at once too, and one item at a time with pauses.

    Raises:
        UsageError: there is no input, or the model gives no answer to it.
        BundleError, PlacementError: the bundle cannot be opened or loaded.
    """
    bundle = open_version(path)
    sample = samples.load(given) if given else _own_sample(bundle)
    begun = time.perf_counter()
    servable = Servable.open(bundle)
    load_ms = (time.perf_counter() - begun) * 1e3
    try:
        sizes = sorted(set(batches)) or batch_sizes(servable.info.max_batch)
        cases = _cases(sizes, threads)
        # Items of one stream run in order when a model carries state, so each has a stream of its own.
        items = [
            [samples.item(sample, stream=f"bench-{n}/{i}") for i in range(sizes[-1])] for n in range(threads)
        ]
        rows = tuple(
            _row(
                servable, [mine[:size] for mine in items[:busy]], seconds,
                lambda part: advance(part / len(cases)), idle,
            )
            for size, busy, idle in cases
        )  # fmt: skip
        info = servable.info
        return BenchReport(info.name, info.version, info.digest, info.placement, load_ms, resident_mb(), rows)
    finally:
        servable.close()


def _cases(sizes: Sequence[int], threads: int) -> list[tuple[int, int, bool]]:
    """What is measured: (batch, busy threads, with pauses)."""
    cases = [(size, 1, False) for size in sizes]
    if threads > 1:
        cases += [(sizes[0], 1, True), *((size, threads, False) for size in sizes)]
    return cases


def solo_p95_ms(path: Path) -> float:
    """What 95 of 100 items alone take at most, the whole way, in milliseconds; 0 where there is no input to try.

    Raises:
        BundleError, PlacementError: the bundle cannot be opened or loaded.
    """
    bundle = open_version(path)
    servable = Servable.open(bundle)
    try:
        item = samples.item(_own_sample(bundle), stream="bench/0")
        return _row(servable, [[item]], SOLO_S, lambda part: None).p95_ms
    except UsageError:
        return 0.0
    finally:
        servable.close()


def batch_sizes(largest: int) -> list[int]:
    """1, 2, 4 … up to what the model takes in one run, at most `MAX_BATCH`; 0 is no limit of its own."""
    limit = min(largest or MAX_BATCH, MAX_BATCH)
    return [size for size in (1, 2, 4, 8, 16, 32) if size <= limit] or [1]


def _own_sample(bundle: Bundle) -> Sample:
    if bundle.manifest.golden:
        golden = bundle.manifest.golden[0]
        return Sample(golden.media_type, bundle.read(golden.file))
    neutral = probe.neutral_sample(bundle.manifest)
    if neutral is None:
        raise UsageError(
            f"{bundle.path} has no golden sample to run; give a file with --input"
            " (for a model with several inputs a .json map of their names)"
        )
    return neutral


def _row(
    servable: Servable,
    items: Sequence[list[Item]],
    seconds: float,
    advance: Callable[[float], None],
    idle: bool = False,
) -> Row:
    """Measure one case.

    Args:
        items: a batch for each thread.
    """
    for batch in items:
        _warm_up(servable, batch)
    servable.make_ready(len(items))
    _warm_up(servable, items[0])
    found: list[list[float]] = [[] for _ in items]
    tell = [advance, *([lambda part: None] * (len(items) - 1))]
    threads = [
        threading.Thread(target=_timed, args=(servable, batch, seconds, times, idle, told))
        for batch, times, told in zip(items, found, tell)
    ]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    times = sorted(one for each in found for one in each)
    return Row(
        batch=len(items[0]),
        runs=len(times),
        p50_ms=_quantile(times, 0.50) * 1e3,
        p95_ms=_quantile(times, 0.95) * 1e3,
        items_per_s=len(items[0]) * len(times) / took,
        busy=len(items),
        idle=idle,
        quantiles_ms=tuple(round(_quantile(times, share) * 1e3, 4) for share in QUANTILES),
    )


def _warm_up(servable: Servable, items: list[Item]) -> None:
    for _ in range(WARM_UPS):
        for outcome in servable.run(items):
            if isinstance(outcome, Refusal):
                raise UsageError(
                    f"the model gives no answer to the input: {outcome.reason} {outcome.detail}".rstrip()
                )


def _timed(
    servable: Servable,
    items: list[Item],
    seconds: float,
    times: list[float],
    idle: bool,
    advance: Callable[[float], None],
) -> None:
    """Run one batch again and again in a thread as a gateway's are, and note what each run took."""
    ask_for_slice(LONGEST_S)
    begin = time.perf_counter()
    spent = 0.0
    while spent < seconds or len(times) < MIN_RUNS:
        if idle and times:
            time.sleep(times[-1])
        began = time.perf_counter()
        servable.run(items)
        now = time.perf_counter()
        times.append(now - began)
        before, spent = min(spent, seconds), now - begin
        advance((min(spent, seconds) - before) / seconds)


def _quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest measured time that at least `share` of the runs did not exceed; the times are ascending."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def resident_mb() -> float:
    """Resident memory of this process in MB (10^6 bytes), 0 where /proc is missing."""
    return own_resident_bytes() / 1e6
