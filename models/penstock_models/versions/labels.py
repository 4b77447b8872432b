"""Labels: names such as `stable` and `canary` that point to a version of a model. Pure.

A label moves only to a version that is available, so whoever asks for it always gets an answer; and the version that it
points to counts as aspired while it does: it is not unloaded, and not parked to make room.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from penstock_models.errors import UsageError
from penstock_models.store import check_label
from penstock_models.versions.record import Moved

MAX_LABELS = 64  # of one model


def move(
    labels: Mapping[str, int], label: str, version: int, available: Collection[int], model: str
) -> dict[str, int]:
    """The labels of `model` after one was set or moved; the ones given are left as they were.

    Raises:
        UsageError: no such label name, too many, or the version is not available.
    """
    check_label(label)
    if version not in available:
        loaded = ", ".join(map(str, sorted(available))) or "none"
        stays = f"; it stays at {labels[label]}" if label in labels else ""
        raise UsageError(
            f"{model}@{label}: version {version} is not available (available: {loaded}){stays}; load it first"
        )
    if label not in labels and len(labels) >= MAX_LABELS:
        raise UsageError(f"{model}@{label}: a model has at most {MAX_LABELS} labels; remove one first")
    return {**labels, label: version}


def held(configured: Mapping[str, int], moved: Mapping[str, Moved]) -> dict[str, Moved]:
    """What of the moves at run time still counts: none of a label of which the configuration has spoken since."""
    return {
        label: move
        for label, move in moved.items()
        if configured.get(label, 0) == move.over and (move.version or move.over)
    }


def wanted(configured: Mapping[str, int], moved: Mapping[str, Moved]) -> dict[str, int]:
    """The configuration's labels, and over them what was moved since."""
    over = {label: move.version for label, move in held(configured, moved).items()}
    return {label: version for label, version in {**configured, **over}.items() if version}


def settle(
    labels: Mapping[str, int], wanted: Mapping[str, int], available: Collection[int]
) -> dict[str, int]:
    """The labels after those that are wanted elsewhere moved, as far as their versions are available.

    A label that is no longer wanted goes; one whose wanted version is not available yet stays where it is.
    """
    settled = {label: version for label, version in labels.items() if label in wanted}
    settled.update({label: version for label, version in wanted.items() if version in available})
    return settled
