"""What a version takes of this process's memory: resident bytes, and the highest they were."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from penstock_models.resident import own_resident_bytes, proportional_bytes


class Footprint:
    """Counts from where it was made, when the process took `base_bytes`."""

    def __init__(self) -> None:
        # A kernel without it: the peak then counts from the start of the process.
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        self._start = own_resident_bytes()
        self.base_bytes = proportional_bytes(os.getpid())

    def resident_bytes(self) -> int:
        """How much the process grew."""
        return max(0, own_resident_bytes() - self._start)

    def peak_bytes(self) -> int:
        """How much it had grown at its highest."""
        return max(0, _highest() - self._start)


def _highest() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)
