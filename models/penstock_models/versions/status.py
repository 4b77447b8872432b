"""What status pages show of models and their versions. Plain data; times as in contracts (epoch ms, durations by unit)."""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec

from penstock_models.items import ServableInfo
from penstock_models.versions.life import Life
from penstock_models.versions.model import Model


class VersionStatus(msgspec.Struct, frozen=True):
    """`state` is `life.State`. `next_try` is null where none is planned; `bytes` 0 where it is not loaded."""

    version: int
    digest: str
    state: str
    aspired: bool
    since: int
    labels: tuple[str, ...] = ()
    placement: str | None = None
    load_ms: float = 0.0
    bytes: int = 0
    reason: str | None = None
    error: str | None = None
    attempts: int = 0
    next_try: int | None = None
    note: str | None = None


class ModelStatus(msgspec.Struct, frozen=True):
    """`versions` from the highest down; `labels` as they point now."""

    name: str
    versions: tuple[VersionStatus, ...]
    labels: dict[str, int]


def model_status(
    model: Model, resident: Callable[[ServableInfo], int], epoch_ms: Callable[[float], int]
) -> ModelStatus:
    """One model as it is.

    Args:
        resident: the bytes of a loaded version.
        epoch_ms: a monotonic time as epoch ms.
    """
    labels = model.labels
    versions = tuple(
        _version(model.lives[v], labels, resident, epoch_ms) for v in sorted(model.lives, reverse=True)
    )
    return ModelStatus(model.name, versions, labels)


def unready(model: Model) -> str:
    """Why nothing of it is available, in one line; "" where something is, or waits parked for its first request."""
    if model.available or model.parked:
        return ""
    if not model.lives:
        return f"{model.name}: no version is offered"
    life = model.lives[max(model.lives)]
    why = f": {life.failure.text}" if life.failure is not None else ""
    return f"{life} is {life.state}{why}"


def _version(
    life: Life,
    labels: dict[str, int],
    resident: Callable[[ServableInfo], int],
    epoch_ms: Callable[[float], int],
) -> VersionStatus:
    failure = life.failure
    waits = life.state in ("failed", "parked") and not math.isinf(life.due)
    return VersionStatus(
        version=life.version,
        digest=life.digest,
        state=life.state,
        aspired=life.aspired,
        since=epoch_ms(life.since),
        labels=tuple(sorted(label for label, version in labels.items() if version == life.version)),
        placement=life.info.placement if life.info else None,
        load_ms=life.load_ms,
        bytes=resident(life.info) if life.info else 0,
        reason=failure.reason if failure else None,
        error=failure.text if failure else None,
        attempts=life.attempts,
        next_try=epoch_ms(life.due) if waits else None,
        note=life.note or None,
    )
