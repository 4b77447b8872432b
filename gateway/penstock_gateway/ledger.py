"""The ledger: every frame has exactly one fate, and the sum over the fates closes at any moment (contracts 4).

Pure counting, no I/O. `received = Σ buckets + in_flight` holds by construction: a frame is received once and settled
once, and what is neither is in flight.
"""

from __future__ import annotations

from collections.abc import Mapping

BUCKETS: Mapping[str, tuple[str, ...]] = {
    "answered": ("", "fallback_edge", "fallback_previous", "stale", "default"),
    "unchanged": ("gate",),
    "superseded": ("newer_frame",),
    "duplicate": ("duplicate",),
    "expired": ("on_arrival", "max_age", "in_queue", "predicted_late"),
    "rejected": (
        "decode", "pixels", "empty", "too_large", "dtype", "shape", "not_finite", "schema", "content_type",
        "topic", "quota", "quarantined",
    ),
    "failed": ("model_error", "model_timeout", "model_output", "not_ready", "internal"),
    "dropped": ("full", "memory", "cancelled", "shutdown"),
}  # fmt: skip
"""The closed lists of fates; "" is the plain `ok` of `answered`, whose reason is null."""

Fate = tuple[str, str]
"""(bucket, reason)."""

OK: Fate = ("answered", "")
SUPERSEDED: Fate = ("superseded", "newer_frame")
DUPLICATE: Fate = ("duplicate", "duplicate")

FATES: frozenset[Fate] = frozenset((b, r) for b, reasons in BUCKETS.items() for r in reasons)


class Counts:
    """The ledger of one stream, or of frames that belong to none. Cheap: two integers and one small dict."""

    __slots__ = ("carried", "fates", "late", "missing_upstream", "received")

    def __init__(self) -> None:
        self.received = 0
        self.fates: dict[Fate, int] = {}
        self.missing_upstream = 0
        self.late = 0
        self.carried = 0

    def settle(self, fate: Fate) -> None:
        """Give a received frame its fate. An unknown fate is a bug and raises KeyError."""
        try:
            self.fates[fate] += 1
        except KeyError:
            if fate not in FATES:
                raise
            self.fates[fate] = 1

    @property
    def settled(self) -> int:
        return sum(self.fates.values())

    @property
    def in_flight(self) -> int:
        return self.received - self.settled

    def add(self, other: Counts) -> None:
        """Add another ledger's numbers to these."""
        self.received += other.received
        for fate, n in other.fates.items():
            self.fates[fate] = self.fates.get(fate, 0) + n
        self.missing_upstream += other.missing_upstream
        self.late += other.late
        self.carried += other.carried

    def minus(self, other: Counts) -> Counts:
        """These numbers less another ledger's, as a new one."""
        rest = Counts()
        rest.received = self.received - other.received
        rest.fates = {fate: n - other.fates.get(fate, 0) for fate, n in self.fates.items()}
        rest.missing_upstream = self.missing_upstream - other.missing_upstream
        rest.late = self.late - other.late
        rest.carried = self.carried - other.carried
        return rest


class Ledger:
    """All counts of one start: a `Counts` for each stream, and one for frames without a valid stream.

    The total is the sum over them, made when somebody asks: counting a frame touches one stream only.
    """

    def __init__(self) -> None:
        self.streams: dict[str, Counts] = {}
        self.unattributed = Counts()

    def stream(self, key: str) -> Counts:
        """The counts of "DEVICE/STREAM", made at first use; the caller bounds how many there are."""
        counts = self.streams.get(key)
        if counts is None:
            counts = self.streams[key] = Counts()
        return counts

    def total(self) -> Counts:
        total = Counts()
        total.add(self.unattributed)
        for counts in self.streams.values():
            total.add(counts)
        return total
