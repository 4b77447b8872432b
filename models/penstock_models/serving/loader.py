"""Loads versions for the version manager: a foreign one is tried in a limited process first, and measured there.

A verdict is remembered by digest, so that a restart, and a version that comes back, are not tried again.
"""

from __future__ import annotations

from collections.abc import Callable

from penstock_models.errors import BundleError
from penstock_models.items import ServableInfo
from penstock_models.serving.executor import Load, ServingExecutor, VersionOptions
from penstock_models.versions.memory import Need
from penstock_models.versions.staging import Staged
from penstock_models.vetting.cache import Verdicts

SPARE = 1.25
"""A version that runs on several threads was seen to take a fifth more than on the one that measured it."""


MOST_NEEDS = 1000


class Loader:
    """The manager's `Loader` over a `ServingExecutor`."""

    def __init__(
        self, executor: ServingExecutor, verdicts: Verdicts, options: Callable[[str], VersionOptions]
    ) -> None:
        """
        Args:
            options: how versions of a model are run, by its name.
        """
        self._executor = executor
        self._verdicts = verdicts
        self._options = options
        self._needs: dict[str, Need] = {}

    async def measure(self, staged: Staged) -> Need:
        """Try a version in a limited process, unless that was done before, and say what it took there.

        Raises:
            ModelRefused, BundleError, PlacementError: the verdict.
        """
        options = self._options(staged.name)
        verdict = await self._verdicts.vet(staged.path, options.trial_devices)
        verdict.require()
        if verdict.digest != staged.digest:
            raise BundleError(f"{staged.path}: has digest {verdict.digest}, expected {staged.digest}")
        apart = self._executor.serving or options.isolated
        base = verdict.base_bytes if apart else 0
        need = Need(base + int(SPARE * verdict.resident_bytes), base + int(SPARE * verdict.peak_bytes))
        self._needs[staged.digest] = need
        if len(self._needs) > MOST_NEEDS:
            del self._needs[next(iter(self._needs))]
        return need

    async def load(self, staged: Staged) -> ServableInfo:
        """Load, warm up, and check the golden answers; it serves from then on."""
        need = self._needs.get(staged.digest)
        options = self._options(staged.name)
        peak = need.peak_bytes if need is not None else 0
        return await self._executor.load(Load(staged.name, staged.path, staged.digest, options, peak))

    async def unload(self, info: ServableInfo) -> None:
        await self._executor.unload(info.digest)

    def resident_bytes(self, info: ServableInfo) -> int:
        return self._executor.resident_bytes(info.digest)
