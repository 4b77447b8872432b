"""How fast a bundle is on this machine, whole items in and answers out, for each batch size.

Owns the figures of `penstock model bench`. One thread calls the servable, as one worker of a gateway does; decoding,
pre-processing, the run and post-processing are all in the time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from penstock_models import probe, samples
from penstock_models.bundle import Bundle
from penstock_models.errors import UsageError
from penstock_models.items import Item, Refusal
from penstock_models.resident import own_resident_bytes
from penstock_models.samples import Sample
from penstock_models.servable import Servable
from penstock_models.store import open_version

MAX_BATCH = 32
WARM_UPS = 3
MIN_RUNS = 3
SOLO_S = 0.5


class Row(msgspec.Struct, frozen=True):
    """One batch size: times of a whole batch in ms, items a second."""

    batch: int
    runs: int
    p50_ms: float
    p95_ms: float
    items_per_s: float


class BenchReport(msgspec.Struct, frozen=True):
    """`rss_mb` is this process's resident memory at the end, the runtime and its libraries included."""

    name: str
    version: int
    digest: str
    placement: str
    load_ms: float
    rss_mb: float
    rows: tuple[Row, ...]


def measure(path: Path, given: Path | None, seconds: float, advance: Callable[[float], None]) -> BenchReport:
    """Run batches of 1, 2, 4 … for `seconds` each.

    Args:
        given: the input; the first golden sample, else a neutral one, when None.
        advance: called with the fraction of the work done since the last call.

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
        sizes = batch_sizes(servable.info.max_batch)
        # Items of one stream run in order when a model carries state, so each has a stream of its own.
        items = [samples.item(sample, stream=f"bench/{i}") for i in range(sizes[-1])]
        rows = tuple(
            _row(servable, items[:size], seconds, lambda part: advance(part / len(sizes))) for size in sizes
        )
        info = servable.info
        return BenchReport(info.name, info.version, info.digest, info.placement, load_ms, resident_mb(), rows)
    finally:
        servable.close()


def solo_p95_ms(path: Path) -> float:
    """What 95 of 100 items alone take at most, the whole way, in milliseconds; 0 where there is no input to try.

    Raises:
        BundleError, PlacementError: the bundle cannot be opened or loaded.
    """
    bundle = open_version(path)
    servable = Servable.open(bundle)
    try:
        item = samples.item(_own_sample(bundle), stream="bench/0")
        return _row(servable, [item], SOLO_S, lambda part: None).p95_ms
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


def _row(servable: Servable, items: list[Item], seconds: float, advance: Callable[[float], None]) -> Row:
    for _ in range(WARM_UPS):
        for outcome in servable.run(items):
            if isinstance(outcome, Refusal):
                raise UsageError(
                    f"the model gives no answer to the input: {outcome.reason} {outcome.detail}".rstrip()
                )
    times: list[float] = []
    spent = 0.0
    while spent < seconds or len(times) < MIN_RUNS:
        begun = time.perf_counter()
        servable.run(items)
        times.append(time.perf_counter() - begun)
        before, spent = min(spent, seconds), spent + times[-1]
        advance((min(spent, seconds) - before) / seconds)
    return Row(
        batch=len(items),
        runs=len(times),
        p50_ms=_quantile(times, 0.50) * 1e3,
        p95_ms=_quantile(times, 0.95) * 1e3,
        items_per_s=len(items) * len(times) / spent,
    )


def _quantile(times: list[float], share: float) -> float:
    """The smallest measured time that at least `share` of the runs did not exceed."""
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def resident_mb() -> float:
    """Resident memory of this process in MB (10^6 bytes), 0 where /proc is missing."""
    return own_resident_bytes() / 1e6
