"""A device as it was measured: what batches of its models take, with their spread, and what a frame costs beside them.

A profile is a file of JSON values, one after another: reports of `penstock model bench --json`, one a model, and any number of
objects of `Facts`, of which a later one adds to an earlier one. Pure but for reading the file.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from penstock_models.errors import UsageError
from penstock_models.measure import QUANTILES, BenchReport, Row
from penstock_sim.plan.curve import Curve, between, mean, middle

V = 1
WARM_MS = 35.0
"""A gateway warms up no batch that takes longer (`penstock_models.proof`)."""

Cost = Annotated[float, Meta(ge=0, le=1e9)]
Milliseconds = Annotated[float, Meta(ge=0, le=60_000)]


class Facts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is true of a device whatever it runs. Milliseconds a frame unless said otherwise.

    `ingest_ms` and `publish_ms` are the server's own event loop at a frame's arrival and at its answer, `beside_ms` what
    other processes on the same cores take for it (the broker), all on a machine whose slots are busy; on an idle one, where
    every frame wakes everybody up, they take `cold` times as long, and between the two in between. `hop_ms` is a slot's
    rest after a batch, until its end was heard and the next one has begun. `before_ms` and `after_ms` are the way from the
    device and back, when nothing is in the way; of a cloud tier from the gateway and back. `journal_ms` is what a commit of
    `every` frames takes in the middle. `after_p99_ms` and `journal_p99_ms` are what 99 of 100 take at most, 0 for the same.
    `bytes_per_s` is the way towards it, 0 for no limit.
    """

    v: int = V
    slots: Annotated[int, Meta(ge=0, le=4096)] = 0
    """Batches at a time: inference threads. 0: as many as the busiest row of the models has, else one."""
    cores: Annotated[int, Meta(ge=0, le=4096)] = 0
    """0: as many as slots."""
    ingest_ms: Milliseconds = 0.2
    publish_ms: Milliseconds = 0.2
    cold: Annotated[float, Meta(ge=1, le=100)] = 1.0
    beside_ms: Milliseconds = 0.0
    hop_ms: Milliseconds = 0.0
    before_ms: Milliseconds = 0.5
    after_ms: Milliseconds = 0.5
    after_p99_ms: Milliseconds = 0.0
    journal_ms: Milliseconds = 2.0
    journal_p99_ms: Milliseconds = 0.0
    bytes_per_s: Annotated[float, Meta(ge=0, le=1e12)] = 0.0
    per_hour: Cost = 1.0
    """Money for each one, used or not."""
    per_request: Cost = 0.0
    watts_idle: Cost = 0.0
    watts_busy: Cost = 0.0


class ModelProfile:
    """What batches of one model take on one device.

    Args:
        where: the file, for messages.

    Raises:
        UsageError: there is no row of single items, or a row that cannot be.
    """

    def __init__(self, report: BenchReport, where: str) -> None:
        self.name, self.version, self.placement = report.name, report.version, report.placement
        self._hot: dict[int, dict[int, Curve]] = {}
        self._cold: Curve | None = None
        for row in report.rows:
            curve = _curve(row, f"{where}: model {report.name}, batch {row.batch}")
            if row.idle:
                self._cold = curve
            else:
                self._hot.setdefault(row.busy, {})[row.batch] = curve
        for busy in sorted({1, *self._hot}):
            if 1 not in self._hot.get(busy, {}):
                sizes = sorted(self._hot.get(busy, {}))
                raise UsageError(
                    f"{where}: expected a row of batch 1 with {busy} busy threads for the model {report.name}, came"
                    f" rows of batch {', '.join(map(str, sizes)) or 'none'}; measure it with `penstock model bench`"
                )
        self._made: dict[tuple[int, int, bool], Curve] = {}

    @property
    def busiest(self) -> int:
        """Threads of the row with the most of them."""
        return max(self._hot)

    def mean(self, n: int, busy: int = 1, idle: bool = False) -> float:
        """Seconds that a batch of n takes on average."""
        return mean(self.curve(n, busy, idle))

    def curve(self, n: int, busy: int = 1, idle: bool = False) -> Curve:
        """The distribution of the seconds of a batch of n while so many threads run, this one counted.

        Between measured sizes and threads it is interpolated, beyond the largest size it goes on as it did. `idle`: the
        thread was idle before.
        """
        key = n, min(busy, self.busiest), idle
        found = self._made.get(key)
        if found is None:
            found = self._made[key] = self._of_busy(*key)
        return found

    def warm_ms(self) -> dict[int, float]:
        """What a gateway's warm-up would find: milliseconds of each size that it tries."""
        sizes = self._hot[1]
        found = {n: middle(curve) * 1e3 for n, curve in sorted(sizes.items())}
        return {n: ms for n, ms in found.items() if n == 1 or ms <= WARM_MS}

    def _of_busy(self, n: int, busy: int, idle: bool) -> Curve:
        counts = sorted(self._hot)
        above = min(bisect_right(counts, busy), len(counts) - 1)
        low, high = counts[max(above - 1, 0)], counts[above]
        share = 0.0 if high == low else min(max((busy - low) / (high - low), 0.0), 1.0)
        found = between(self._of_size(low, n), self._of_size(high, n), share)
        if idle and self._cold is not None:
            # Measured for single items only; caches and clocks are as cold before a larger batch, which warms them.
            hot = self._hot[1][1]
            found = tuple(t + max(c - h, 0.0) for t, c, h in zip(found, self._cold, hot))
        return found

    def _of_size(self, busy: int, n: int) -> Curve:
        sizes = self._hot[busy]
        if n in sizes:
            return sizes[n]
        known = sorted(sizes)
        place = bisect_right(known, n)
        if place < len(known):
            low, high = known[place - 1], known[place]
            return between(sizes[low], sizes[high], (n - low) / (high - low))
        last = known[-1]
        slope = mean(sizes[last]) / last
        if len(known) > 1:
            before = known[-2]
            slope = max((mean(sizes[last]) - mean(sizes[before])) / (last - before), 0.0)
        longer = (mean(sizes[last]) + slope * (n - last)) / mean(sizes[last])
        return tuple(t * longer for t in sizes[last])


class Profile(msgspec.Struct, frozen=True):
    """A device: what is true of it, and its models by name."""

    name: str
    facts: Facts
    models: dict[str, ModelProfile]

    @property
    def slots(self) -> int:
        return self.facts.slots or max((model.busiest for model in self.models.values()), default=1)

    @property
    def cores(self) -> int:
        return self.facts.cores or self.slots

    def model(self, name: str) -> ModelProfile:
        """The profile of a model.

        Raises:
            UsageError: there is none.
        """
        if name not in self.models:
            have = ", ".join(self.models) or "none"
            raise UsageError(f"the profile {self.name} has no model {name!r}; it has {have}")
        return self.models[name]


def read(name: str, files: Sequence[Path]) -> Profile:
    """Read a device's profile from its files.

    Raises:
        UsageError: one line with the file, what was expected and what came.
    """
    facts: dict[str, Any] = {}
    models: dict[str, ModelProfile] = {}
    for file in files:
        for value in _values(file):
            if "rows" in value:
                model = ModelProfile(_converted(value, BenchReport, file), str(file))
                models[model.name] = model
            else:
                _converted(value, Facts, file)
                facts |= value
    if not models:
        raise UsageError(
            f"{', '.join(map(str, files))}: expected reports of `penstock model bench --json`, came none"
        )
    return Profile(name, msgspec.convert(facts, Facts, strict=False), models)


def _curve(row: Row, where: str) -> Curve:
    """A row's distribution; of one without quantiles, which older reports have, what its two percentiles say."""
    if row.batch < 1 or row.busy < 1:
        raise UsageError(f"{where}: expected a batch and busy threads of 1 or more, came {row.busy} threads")
    values = row.quantiles_ms or tuple(
        row.p50_ms if share <= 0.5 else row.p95_ms if share >= 0.95 else
        row.p50_ms + (row.p95_ms - row.p50_ms) * (share - 0.5) / 0.45
        for share in QUANTILES
    )  # fmt: skip
    if len(values) != len(QUANTILES) or list(values) != sorted(values) or not 0 < values[0] < 3.6e6:
        raise UsageError(
            f"{where}: expected {len(QUANTILES)} ascending times in ms above 0, came {list(values)}"
        )
    return tuple(ms / 1e3 for ms in values)


def _values(file: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file, whether one a line or laid out."""
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"expected a readable profile at {file}: {error}") from None
    decoder, place, found = json.JSONDecoder(), 0, []
    while text[place:].strip():
        place += len(text[place:]) - len(text[place:].lstrip())
        line = text.count("\n", 0, place) + 1
        try:
            value, place = decoder.raw_decode(text, place)
        except ValueError as error:
            raise UsageError(f"{file}:{line}: expected JSON, {error}") from None
        if not isinstance(value, dict):
            raise UsageError(f"{file}:{line}: expected an object, came {json.dumps(value)[:80]}")
        if isinstance(version := value.get("v", V), int) and version > V:
            raise UsageError(
                f"{file}:{line}: expected a profile of version {V} or older, came version {version}"
            )
        found.append(value)
    return found


def _converted(value: dict[str, Any], kind: Any, file: Path) -> Any:
    try:
        return msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as error:
        what = "a report of `penstock model bench --json`" if kind is BenchReport else "facts of a device"
        raise UsageError(f"{file}: expected {what}: {error}") from None
