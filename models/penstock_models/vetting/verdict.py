"""What is asked of a vetting child, and what it says: the words that cross the process boundary.

Owns the closed list of reasons, and which of them may be another one on another day. Plain data and pure functions; both
sides import it, so it imports no runtime.
"""

from __future__ import annotations

import re
from typing import Literal, cast

import msgspec

from penstock_models.errors import (
    BundleError,
    GoldenError,
    ModelRefused,
    PenstockError,
    PlacementError,
    UsageError,
    one_line,
)

Reason = Literal[
    "",
    "not_a_model",
    "truncated",
    "external_data",
    "custom_op",
    "bad_quantization",
    "runtime",
    "bundle",
    "golden",
    "placement",
    "usage",
    "memory",
    "endless",
    "starved",
    "crashed",
    "internal",
]
"""Why a version was refused. The first six are `ModelRefused`'s own; `bundle`: digest, manifest, archive or steps are
wrong; `golden`: a golden answer is; `placement`: no variant runs here; `usage`: the
model.toml beside a bare model file is; `memory`, `endless`, `crashed`: it went beyond the
limits, or took its process with it; `starved`: the box was too busy to tell; `internal`: the child itself could not do its work."""

_LIFE_S: dict[str, float] = {
    **dict.fromkeys(("not_a_model", "truncated", "external_data", "bundle"), 86_400.0),
    **dict.fromkeys(("custom_op", "bad_quantization", "runtime", "golden"), 3_600.0),
    **dict.fromkeys(("memory", "endless", "crashed"), 300.0),
}

_ERRORS: dict[Reason, type[PenstockError]] = {
    "golden": GoldenError,
    "placement": PlacementError,
    "usage": UsageError,
    "bundle": BundleError,  # the last: GoldenError is one too
}

Kind = Literal["bundle", "bare", "pack", "model"]
"""What is tried: a bundle (a file or a folder); a folder with a single model file, made a bundle in the child; the same, and
the bundle is written, and not tried; one model file."""

MAX_PROBLEMS = 20


class Limits(msgspec.Struct, frozen=True):
    """What a model may take while it is vetted.

    Args:
        memory_bytes: address space beyond that of the bare runtimes; never more than the box has to spare.
        cpu_s: processor time of everything after the imports.
        wall_s: time of the whole child. Much longer than `cpu_s`, since a child of low priority waits on a busy box.
    """

    memory_bytes: int = 4 * 1024**3
    cpu_s: int = 60
    wall_s: float = 300.0


DEFAULT_LIMITS = Limits()


class Request(msgspec.Struct, frozen=True):
    """A child's order. `descriptor` is the open bundle, folder or model file; `shown` its path, for messages; `out` the open
    file that a bundle is written into, where one is wanted; `runs` how many batches run at once where it will serve.
    """

    kind: Kind
    descriptor: int
    shown: str
    parent: int
    limits: Limits
    devices: tuple[str, ...] = ()
    name: str = ""
    version: int | None = None
    out: int | None = None
    runs: int = 1


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """What the child is at, in words that follow `while`; `done` of `total` golden samples."""

    stage: str
    done: int = 0
    total: int = 0


class Vetted(msgspec.Struct, frozen=True, tag="vetted"):
    """The verdict on one version. Figures are 0 where the child did not come so far.

    `message` is one line; `problems` has every golden answer that is wrong, at most `MAX_PROBLEMS`. `resident_bytes` is
    what the process grew by with the version loaded and warm at every batch size, `peak_bytes` its highest growth on the
    way, `base_bytes` what it took before, with the runtimes alone. `network` says what kept the child off it: `seccomp`, `namespace`, or `open` where the kernel has neither.
    """

    ok: bool
    reason: Reason = ""
    message: str = ""
    problems: tuple[str, ...] = ()
    digest: str = ""
    files: int = 0
    golden: int = 0
    placement: str = ""
    resident_bytes: int = 0
    peak_bytes: int = 0
    base_bytes: int = 0
    network: str = ""

    def require(self) -> None:
        """Go on only with a version that passed.

        Raises:
            ModelRefused: with this `reason`.
            BundleError, GoldenError, PlacementError, UsageError: for `bundle`, `golden`, `placement` and `usage`, as
                loading raises them.
        """
        if not self.ok:
            raise error_of(self)


Said = Progress | Vetted
"""One line that a child writes."""


def error_of(verdict: Vetted) -> PenstockError:
    """A refusal as the error that loading the same version would raise."""
    if verdict.reason == "golden":
        return GoldenError(verdict.message, verdict.problems)
    kind = _ERRORS.get(verdict.reason)
    return kind(verdict.message) if kind else ModelRefused(verdict.reason, verdict.message)


def reason_of(error: Exception) -> Reason:
    """The reason that an error means: a bundle may come from anywhere, so whatever it makes us raise is about it."""
    if isinstance(error, ModelRefused):
        return cast(Reason, error.reason)  # by its own contract
    return next((reason for reason, kind in _ERRORS.items() if isinstance(error, kind)), "bundle")


def life_s(verdict: Vetted) -> float | None:
    """How long a verdict may be believed, in seconds; None for ever.

    What the bytes alone decide holds a day: they do not change, only our walkers do. What a runtime or a driver had a
    part in holds an hour, so that a repaired box tries again. What depends on the load of the moment holds five minutes:
    long enough that nobody who asks in a loop keeps a core busy. A busy box, a missing device or a fault of ours is not kept at all.
    """
    return None if verdict.ok else _LIFE_S.get(verdict.reason, 0.0)


def over_memory(limit_bytes: int, stage: str, text: str) -> str:
    """The message of `memory`, with what was asked for at once, where a runtime's words say it."""
    size = re.search(r"(?:buffer of size|allocate) (\d+)", text)
    asked = f" (it asked for {int(size[1]) / 1e6:.0f} MB at once)" if size else ""
    return f"more than {limit_bytes / 1e6:.0f} MB were needed while {stage}{asked}"


def refused(reason: Reason, message: str, problems: tuple[str, ...] = ()) -> Vetted:
    """A refusal in one bounded line."""
    return tidy(Vetted(False, reason, message, problems))


def tidy(verdict: Vetted) -> Vetted:
    """With texts of one bounded, printable line each: a child that a model took over may say anything."""
    texts = {name: one_line(getattr(verdict, name)) for name in ("message", "digest", "placement", "network")}
    problems = tuple(map(one_line, verdict.problems[:MAX_PROBLEMS]))
    return msgspec.structs.replace(verdict, problems=problems, **texts)
