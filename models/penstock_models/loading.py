"""Loads a version from wherever it lies, on the thread that calls, and says what it takes.

Owns that whatever a bundle makes us raise is about that bundle; threads and time are the executor's business.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import msgspec

from penstock_models.devices.cache import ModelCache
from penstock_models.errors import BundleError, PenstockError, told
from penstock_models.images import MAX_PIXELS
from penstock_models.resident import own_resident_bytes
from penstock_models.servable import Servable
from penstock_models.store import open_version


class LoadOptions(msgspec.Struct, frozen=True, array_like=True):
    """How a version is loaded. `expected_digest` is what the bundle's must be, "" for any; `cache_bytes` of answers are kept
    for inputs that come again."""

    devices: tuple[str, ...] = ()
    max_pixels: int = MAX_PIXELS
    expected_digest: str = ""
    cache_bytes: int = 0


class LoadedVersion(NamedTuple):
    """A servable, warm and with its golden answers right; by how many bytes this process grew meanwhile."""

    servable: Servable
    grown: int


def load_version(path: str, options: LoadOptions, model_cache: ModelCache | None = None) -> LoadedVersion:
    """Load a bundle, or a folder with a bare model file.

    Args:
        model_cache: where a runtime keeps what it made of the model, for the next time; None for nowhere.

    Raises:
        UsageError, BundleError, PlacementError: with a reason that names the file and what to do.
    """
    before = own_resident_bytes()
    try:
        bundle = open_version(Path(path))
        if options.expected_digest not in ("", bundle.digest):
            wanted = options.expected_digest
            raise BundleError(
                f"{path}: has digest {bundle.digest}, expected {wanted}; it was replaced meanwhile"
            )
        servable = Servable.open_checked(
            bundle,
            options.devices,
            max_pixels=options.max_pixels,
            cache_bytes=options.cache_bytes,
            model_cache=model_cache,
        )
    except PenstockError:
        raise
    # A bundle may come from anywhere: whatever it makes us raise is about this bundle.
    except Exception as error:
        raise BundleError(f"{path}: cannot be loaded: {told(error)}") from error
    return LoadedVersion(servable, max(0, own_resident_bytes() - before))
