"""How long to wait before connecting again, to a broker or to a camera."""

from __future__ import annotations

import random

_STABLE_S = 5.0
"""A connection that lasted so long was a good one."""


class Backoff:
    """Full jitter: a random wait below a bound that doubles, so that a fleet does not come back in one wave."""

    def __init__(self, minimum_s: float, maximum_s: float) -> None:
        self._minimum_s = minimum_s
        self._maximum_s = maximum_s
        self._failures = 0

    def wait_s(self, lasted_s: float) -> float:
        """How long to wait after a connection that lasted `lasted_s` (0 for none): a stable one resets the bound."""
        self._failures = 0 if lasted_s >= _STABLE_S else min(self._failures + 1, 32)
        return random.uniform(0, min(self._maximum_s, self._minimum_s * 2**self._failures))
