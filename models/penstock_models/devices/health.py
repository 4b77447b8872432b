"""What is known against each device of one version: failures in a row, why, and how long it is left alone.

Pure book-keeping; `supervision` asks it whom to try next.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

SPREAD = 0.2
DOUBLINGS = 60  # beyond it a float would overflow; every bound is reached long before


class Rules(msgspec.Struct, frozen=True):
    """When a device is given up, and how long it is left alone. Times in seconds.

    After `errors` whole batches in a row that failed, or one that hung, the golden sample decides; `errors_limit` and
    `hangs_limit` in a row decide alone. A pause doubles with each failure in a row, up to its bound, and varies by a
    fifth: `rebuild` where nothing serves, `return` where another device does. Failures are in a row until a device
    served for `steady_s`: one that falls off again soon after its return waits longer.
    """

    errors: int = 5
    errors_limit: int = 20
    hangs_limit: int = 4
    good_probes: int = 3
    probe_every_s: float = 5.0
    rebuild_s: float = 1.0
    rebuild_max_s: float = 60.0
    return_s: float = 30.0
    return_max_s: float = 3600.0
    steady_s: float = 300.0


class Record:
    """Of one device. `rebuild_at` and `return_at`: not before, where nothing serves and where another device does."""

    def __init__(self) -> None:
        self.failures = 0
        self.rebuild_at = self.return_at = float("-inf")
        self.reason = ""


class Health:
    """The records of a preference list."""

    def __init__(self, devices: Sequence[str], rules: Rules, seed: str) -> None:
        """`seed` spreads the pauses of several boxes and versions; equal seeds give equal pauses."""
        self._rules = rules
        self._seed = seed
        self._records = {device: Record() for device in devices}

    def __getitem__(self, device: str) -> Record:
        return self._records[device]

    def failed(self, device: str, reason: str, now: float, served_s: float = 0.0) -> None:
        """Note a failure after having served for so long."""
        rules, record = self._rules, self._records[device]
        if served_s >= rules.steady_s:
            record.failures = 0
        record.failures += 1
        record.reason = reason
        first = record.failures == 1  # then a rebuild comes at once
        pause = self._pause(device, rules.rebuild_s, rules.rebuild_max_s, record.failures - 2)
        record.rebuild_at = now if first else now + pause
        record.return_at = now + self._pause(device, rules.return_s, rules.return_max_s, record.failures - 1)

    def _pause(self, device: str, first_s: float, most_s: float, doublings: int) -> float:
        text = f"{self._seed}\n{device}\n{doublings}\n{first_s}"
        share = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest()) / 2**32
        length = min(first_s * 2.0 ** min(doublings, DOUBLINGS), most_s)
        return length * (1 - SPREAD + 2 * SPREAD * share)
