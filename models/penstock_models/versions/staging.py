"""The staging folder: every version that is loaded is a copy here, verified, under the name of its digest.

So what is done to a store later touches no version that serves, and a loader gets one immutable bundle whatever lay there:
a bundle, an unpacked one, or a bare model file, which is packed by a process of its own. A copy is written under
a temporary name, synced, verified, and renamed: after a kill at any point there is the whole copy or a leftover, which
the next start removes. The folder is bounded, and what no version uses is removed.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import threading
import time
from collections.abc import Collection
from functools import partial
from pathlib import Path

import msgspec

from penstock_models.bundle import SUFFIX, Bundle, copy_bundle, open_bundle
from penstock_models.errors import BundleError, PenstockError, TemporaryError
from penstock_models.gaps import Gaps
from penstock_models.manifest import Manifest
from penstock_models.versions.offers import FRESH_S, Offer, stamp
from penstock_models.versions.waiting import in_thread
from penstock_models.vetting.vet import pack_apart

MAX_BYTES = 16 * 1024**3
_MAKING = ".making-"
_COPY = re.compile(rf"[0-9a-f]{{64}}\{SUFFIX}")


class Staged(msgspec.Struct, frozen=True):
    """A verified copy. `path` is a bundle whose digest is `digest`; `stamp` names the files that it was made of."""

    name: str
    version: int
    digest: str
    path: Path
    stamp: str
    manifest: Manifest


class Staging:
    """The folder. One process at a time uses it."""

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES, gaps: Gaps | None = None) -> None:
        """
        Args:
            gaps: of those that serve, in which a bare model is packed; None where nobody serves.
        """
        self._folder = folder
        self._gaps = gaps
        self._max_bytes = max_bytes

    async def stage(self, offer: Offer) -> Staged:
        """Copy what is offered, and verify the copy. A cancelled call leaves nothing running and nothing behind.

        Raises:
            BundleError: the contents are wrong: a digest, an unlisted file, a model that no runtime may load.
            TemporaryError: the files changed meanwhile, or there is no room.
            UsageError, OSError: a disk said no.
        """
        there = await in_thread(self.find, offer.digest, offer.stamp)
        if there is not None:
            return there
        making = self._folder / f"{_MAKING}{secrets.token_hex(8)}{SUFFIX}"
        try:
            await self._copy(offer, making)
            return await in_thread(self._publish, offer, making)
        finally:
            # To free what is large takes the disk its time.
            await in_thread(partial(making.unlink, missing_ok=True))

    def find(self, digest: str, stamp: str) -> Staged | None:
        """The copy of that digest, verified again; None where there is none that is whole. Blocks on the disk."""
        path = self._path(digest)
        if not _COPY.fullmatch(path.name):  # also of a record, in which anything may stand
            return None
        with contextlib.suppress(PenstockError, OSError):
            bundle = open_bundle(path)
            if bundle.digest == digest:
                return _staged(bundle, path, stamp)
        return None

    def start(self) -> None:
        """Make the folder, and remove what a killed process left half. Blocks on the disk.

        Raises:
            OSError: the folder cannot be written.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        for path in self._folder.iterdir():
            if path.is_file() and not _COPY.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def clean(self, used: Collection[str]) -> None:
        """Remove every copy whose digest is not used. Not while something is staged. Blocks on the disk.

        Raises:
            OSError: the folder cannot be written.
        """
        kept = {self._path(digest).name for digest in used}
        for path in self._folder.glob(f"*{SUFFIX}"):
            if path.name not in kept and _COPY.fullmatch(path.name):
                path.unlink(missing_ok=True)

    async def _copy(self, offer: Offer, making: Path) -> None:
        """Whatever goes wrong while the files change is the change's fault."""
        problem: PenstockError | OSError | None = None
        try:
            if offer.digest:
                stop = threading.Event()
                await in_thread(self._copy_bundle, offer, making, stop, stop=stop)
            else:
                await pack_apart(offer.path, making, self._gaps)
        except (PenstockError, OSError) as error:
            problem = error
        if await in_thread(partial(_changes, offer, fresh_counts=problem is not None)):
            said = f" ({problem})" if problem else ""
            raise TemporaryError(
                "changed", f"{offer.path} changed while it was copied, it is copied again later{said}"
            ) from problem
        if problem is not None:
            raise problem

    def _copy_bundle(self, offer: Offer, making: Path, stop: threading.Event) -> None:
        def check() -> None:
            if stop.is_set():
                raise TemporaryError("cancelled", f"{offer.path}: copying was given up")

        bundle = open_bundle(offer.path)
        if bundle.digest != offer.digest:
            raise BundleError(f"{offer.path}: has digest {bundle.digest}, expected {offer.digest}")
        self._require_room(offer, sum(entry.size for entry in bundle.manifest.files))
        copy_bundle(bundle, making, check)

    def _require_room(self, offer: Offer, size: int) -> None:
        used = sum(path.stat().st_size for path in self._folder.iterdir() if _COPY.fullmatch(path.name))
        if used + size > self._max_bytes:
            raise TemporaryError(
                "disk",
                f"{offer.path}: {size} bytes; {self._folder} holds {used} of at most {self._max_bytes}",
            )

    def _publish(self, offer: Offer, making: Path) -> Staged:
        self._require_room(offer, making.stat().st_size)
        bundle = open_bundle(making)
        found = (bundle.manifest.name, bundle.manifest.version)
        if found != (offer.name, offer.version):
            raise BundleError(
                f"{offer.path}: is {found[0]}:{found[1]}, expected {offer.name}:{offer.version}"
            )
        path = self._path(bundle.digest)
        # The copy is synced already; that a name is lost in a power cut is found at the next start.
        making.replace(path)
        return _staged(bundle, path, offer.stamp)

    def _path(self, digest: str) -> Path:
        return self._folder / f"{digest.removeprefix('sha256:')}{SUFFIX}"


def _staged(bundle: Bundle, path: Path, stamp: str) -> Staged:
    manifest = bundle.manifest
    return Staged(manifest.name, manifest.version, bundle.digest, path, stamp, manifest)


def _changes(offer: Offer, *, fresh_counts: bool) -> bool:
    """Whether the files are others now, or may be: within a tick of the file's clock two changes have one time."""
    try:
        text, changed = stamp(offer.path)
    except OSError:
        return True
    return text != offer.stamp or (fresh_counts and time.time() - changed < FRESH_S)
