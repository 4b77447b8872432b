"""The ledger: every frame has exactly one fate, and the sum over the fates closes at any moment (contracts 4).

Pure counting, no I/O. `received = Σ buckets + in_flight` holds by construction: a frame is received once and settled
once, and what is neither is in flight.
"""

from __future__ import annotations

from typing import Any, Mapping

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
