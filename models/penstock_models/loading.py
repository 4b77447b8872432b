"""Loads a version from wherever it lies, on the thread that calls, and says what it takes.

Owns that whatever a bundle makes us raise is about that bundle; threads and time are the executor's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from penstock_models.allocator import return_freed_memory
from penstock_models.devices.cache import ModelCache
from penstock_models.errors import BundleError, PenstockError, told
from penstock_models.images import MAX_PIXELS
from penstock_models.resident import own_resident_bytes
from penstock_models.servable import Servable
from penstock_models.store import open_version


class LoadedVersion(NamedTuple):
    """A servable, warm and with its golden answers right; by how many bytes this process grew meanwhile."""

    servable: Servable
    grown: int


def load_version(
    path: str,
    devices: Sequence[str] = (),
    *,
    max_pixels: int = MAX_PIXELS,
    expected_digest: str = "",
    cache_bytes: int = 0,
    model_cache: ModelCache | None = None,
    runs: int = 1,
) -> LoadedVersion:
    """Load a bundle, or a folder with a bare model file.

    Args:
        expected_digest: what the bundle's must be; "" for any.
        cache_bytes: of answers to keep for inputs that come again; 0 for none.
        model_cache: where a runtime keeps what it made of the model, for the next time; None for nowhere.
        runs: how many batches will run at once.

    Raises:
        UsageError, BundleError, PlacementError: with a reason that names the file and what to do.
    """
    before = own_resident_bytes()
    try:
        bundle = open_version(Path(path))
        if expected_digest not in ("", bundle.digest):
            raise BundleError(
                f"{path}: has digest {bundle.digest}, expected {expected_digest}; it was replaced meanwhile"
            )
        servable = Servable.open_checked(
            bundle,
            devices,
            max_pixels=max_pixels,
            cache_bytes=cache_bytes,
            model_cache=model_cache,
            runs=runs,
        )
    except PenstockError:
        raise
    # A bundle may come from anywhere: whatever it makes us raise is about this bundle.
    except Exception as error:
        raise BundleError(f"{path}: cannot be loaded: {told(error)}") from error
    return_freed_memory()  # the warm-up took as much as the largest batches do
    return LoadedVersion(servable, max(0, own_resident_bytes() - before))
