"""Which version answers a stream, and which one gets a copy. Pure.

A stream sticks to its version by weighted rendezvous hashing: every target draws a number from the hash of (model,
stream, target), stretched by its weight, and the lowest wins. So raising one target's weight moves streams to that
target only, and the share of a target that is not available goes to the others without moving anybody else.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import msgspec

from penstock_models.errors import UsageError
from penstock_models.store import Reference, check_label

MAX_TARGETS = 16


class Routing(msgspec.Struct, frozen=True):
    """What is known of one model: its available versions, where its labels point, and how its streams are split.

    The targets of `split` and `shadow` are labels, or versions in digits.
    """

    available: frozenset[int] = frozenset()
    labels: dict[str, int] = {}
    split: dict[str, float] = {}
    shadow: str = ""


class Choice(msgspec.Struct, frozen=True):
    """`shadow` is the version that gets a copy, None for none."""

    version: int
    shadow: int | None = None


def check_split(split: Mapping[str, float]) -> dict[str, float]:
    """Let through a split: positive weights by label or version, such as `{stable = 90, canary = 10}`.

    Raises:
        UsageError: too many targets, a target that is neither, a weight that is not positive and finite.
    """
    if len(split) > MAX_TARGETS:
        raise UsageError(f"split: {len(split)} targets, at most {MAX_TARGETS}")
    for target, weight in split.items():
        check_target(target)
        if not (math.isfinite(weight) and weight > 0):
            raise UsageError(f"split.{target} = {weight}: expected a positive number; leave it out for none")
    return dict(split)


def check_target(target: str) -> str:
    """Let through a version in digits, or a label.

    Raises:
        UsageError: it is neither.
    """
    return target if target.isascii() and target.isdigit() and target[0] != "0" else check_label(target)


def choose(routing: Routing, reference: Reference, stream: str) -> Choice | None:
    """The version that answers a stream; None where there is none now.

    NAME:VERSION and NAME@LABEL mean that version alone. NAME means the split, and without one the highest available
    version. The shadow gets a copy of whatever another version answers.
    """
    version = _answering(routing, reference, stream)
    if version is None:
        return None
    shadow = _version(routing, routing.shadow)
    return Choice(version, shadow if shadow != version else None)


def _answering(routing: Routing, reference: Reference, stream: str) -> int | None:
    if reference.version is not None:
        return reference.version if reference.version in routing.available else None
    if reference.label:
        return _version(routing, reference.label)
    targets = {t: w for t, w in routing.split.items() if _version(routing, t) is not None}
    if targets:
        return _version(routing, drawn(targets, reference.name, stream))
    return max(routing.available, default=None)


def drawn(weights: Mapping[str, float], model: str, stream: str) -> str:
    """The target of a stream: each gets streams in proportion to its weight."""
    return min(weights, key=lambda target: (_draw(f"{model}\0{stream}\0{target}") / weights[target], target))


def _draw(key: str) -> float:
    """An exponentially distributed number: the least of several, each over its weight, falls as the weights do."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return -math.log((int.from_bytes(digest, "big") + 1) / (2**64 + 1))


def _version(routing: Routing, target: str) -> int | None:
    """The available version that a label or digits stand for."""
    version = int(target) if target.isdigit() else routing.labels.get(target)
    return version if version in routing.available else None
