"""Which failures are worth another try, and when. Pure.

A version is tried again while its failure may be the weather's: the disk, a process that died, a time limit. What lies
in its files (a wrong digest, a wrong golden answer, a refused model) is final until the files change.
"""

from __future__ import annotations

import hashlib
import math

import msgspec

from penstock_models.errors import (
    BundleError,
    GoldenError,
    ModelRefused,
    PlacementError,
    TemporaryError,
    UsageError,
    from_disk,
    one_line,
    out_of_memory,
)

RETRIES = 5
LONGEST_S = 60.0
_GROWTH = 3.0  # 1, 3, 9, 27, 60 s
_JITTER = 0.25  # at most this part is taken off, so that boxes that failed together do not try together

# What a limited child process says of a model that a loaded box, or we ourselves, may be to blame for.
_TRANSIENT_REFUSALS = frozenset({"memory", "endless", "starved", "crashed", "internal"})


class Failure(msgspec.Struct, frozen=True):
    """Why a version could not be staged or loaded. `reason` is a short name for machines."""

    reason: str
    text: str
    final: bool


def classify(error: BaseException) -> Failure:
    """What an error of staging or loading means for the version."""
    text = one_line(str(error)) or type(error).__name__
    match error:
        case TemporaryError(reason=reason):
            return Failure(reason, text, False)
        case ModelRefused(reason=reason):
            return Failure(reason, text, reason not in _TRANSIENT_REFUSALS)
        case PlacementError():
            return Failure("placement", text, False)
        case TimeoutError():
            return Failure("timeout", text, False)
        case _ if from_disk(error):
            return Failure("io", text, False)
        case GoldenError():
            return Failure("golden", text, True)
        case BundleError():
            return Failure("bundle", text, True)
        case UsageError():
            return Failure("usage", text, True)
        case _ if isinstance(error, MemoryError) or out_of_memory(text):
            return Failure("memory", text, False)
    return Failure("internal", text, False)


def retry_at(failure: Failure, attempts: int, now: float, seed: str) -> float:
    """When to try again (seconds, as `now`) after `attempts` failed tries; infinity for never.

    Args:
        seed: names the version and its files; equal seeds give equal times.
    """
    if failure.final or attempts > RETRIES:
        return math.inf
    digest = hashlib.blake2b(f"{seed}:{attempts}".encode(), digest_size=4).digest()
    part = int.from_bytes(digest, "big") / 2**32
    return now + min(LONGEST_S, _GROWTH ** (attempts - 1)) * (1 - _JITTER * part)
