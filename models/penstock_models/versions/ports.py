"""What the version manager asks of the outside: loading, and the traffic that a version gets. Protocols only."""

from __future__ import annotations

from typing import Protocol

import msgspec

from penstock_models.items import ServableInfo
from penstock_models.versions.memory import Need
from penstock_models.versions.staging import Staged


class Usage(msgspec.Struct, frozen=True):
    """`last_used` is monotonic seconds, −infinity for never; `running` says that work is queued for it or runs."""

    last_used: float
    running: bool


class Loader(Protocol):
    """Loads versions. One load at a time; unloads may run beside it. All of it can be cancelled, and leaves nothing."""

    async def measure(self, staged: Staged) -> Need:
        """What the version takes. The place to try a foreign model in a limited process first.

        Raises:
            ModelRefused, BundleError: final for these files.
            PenstockError, OSError: tried again later.
        """

    async def load(self, staged: Staged) -> ServableInfo:
        """Load it, warm it up over every batch size, and check its golden answers. It serves from then on.

        Raises:
            As `measure`.
        """

    async def unload(self, info: ServableInfo) -> None:
        """Free it, with its memory. Nothing is in flight, unless `Traffic.retire` ran out of time."""

    def resident_bytes(self, info: ServableInfo) -> int:
        """What a loaded version takes now, measured."""


class Traffic(Protocol):
    """Who gives work to loaded versions, and hears what becomes of them."""

    def available(self, info: ServableInfo) -> None:
        """It may get work from now on. Must not raise."""

    async def retire(self, info: ServableInfo) -> None:
        """Give it no new work, and return when what it has is done. Before each unload."""

    def failed(self, name: str, version: int, reason: str, text: str, attempts: int) -> None:
        """A version could not be loaded. Must not raise."""

    def usage(self, info: ServableInfo) -> Usage:
        """When it was last used."""
