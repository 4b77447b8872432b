"""The words between a host and its process: calls to it, replies from it, and how errors become words and errors again.

How a word gets through is `line`'s business.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from penstock_models.errors import (
    BundleError,
    GoldenError,
    HostError,
    ModelRefused,
    PenstockError,
    PlacementError,
    TemporaryError,
    UsageError,
    from_disk,
    one_line,
)
from penstock_models.isolation.packing import PackedItem, PackedOutcome
from penstock_models.items import ServableInfo

MAX_TEXT = 1000  # characters of an error's message, and of each reason within it
MAX_REASONS = 64


class Load(msgspec.Struct, frozen=True, array_like=True, tag="load"):
    """`path` and `model_cache` as the file system has them: a name need not be text."""

    path: bytes
    devices: tuple[str, ...]
    max_pixels: int
    expected_digest: str
    cache_bytes: int
    model_cache: bytes = b""


class Run(msgspec.Struct, frozen=True, array_like=True, tag="run"):
    items: tuple[PackedItem, ...]
    timeout_s: float


class Probe(msgspec.Struct, frozen=True, array_like=True, tag="probe"):
    pass


class Close(msgspec.Struct, frozen=True, array_like=True, tag="close"):
    pass


class Loaded(msgspec.Struct, frozen=True, array_like=True, tag="loaded"):
    info: ServableInfo


class Failed(msgspec.Struct, frozen=True, array_like=True, tag="failed"):
    """A load was refused. `kind` is the error's class; `reason`, and `passed` or `problems`, its attributes where it has them."""

    kind: str
    message: str
    reason: str = ""
    passed: tuple[str, ...] = ()


class Done(msgspec.Struct, frozen=True, array_like=True, tag="done"):
    """`hung` says that a run of this process does not come back; "" while all do."""

    outcomes: tuple[PackedOutcome, ...]
    hung: str = ""


class Probed(msgspec.Struct, frozen=True, array_like=True, tag="probed"):
    good: bool
    hung: str = ""


Call = Load | Run | Probe | Close
Reply = Loaded | Failed | Done | Probed


calls: msgspec.msgpack.Decoder[Call] = msgspec.msgpack.Decoder(Call)
replies: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


def failed(error: PenstockError) -> Failed:
    """The word for an error of a load."""
    reason = getattr(error, "reason", "")
    message = one_line(str(error).removeprefix(f"{reason}: "), MAX_TEXT)
    passed: Sequence[str] = getattr(error, "passed", getattr(error, "problems", ()))
    if not reason and from_disk(error):  # its cause stays behind, which is why another try may go well
        return Failed(TemporaryError.__name__, message, "io")
    return Failed(
        type(error).__name__, message, reason, tuple(one_line(p, MAX_TEXT) for p in passed[:MAX_REASONS])
    )


def raised(word: Failed, path: str) -> PenstockError:
    """The error that a word about the load of `path` stands for."""
    match word.kind:
        case "ModelRefused":
            return ModelRefused(word.reason, word.message)
        case "PlacementError":
            return PlacementError(word.message, word.passed)
        case "BundleError":
            return BundleError(word.message)
        case "GoldenError":
            return GoldenError(word.message, word.passed)
        case "UsageError":
            return UsageError(word.message)
        case "TemporaryError":
            return TemporaryError(word.reason, word.message)
    return HostError("crashed", f"{path}: {word.message}")
