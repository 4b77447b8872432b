"""Verdicts that were given before, one small file each, so that a restart vets nothing twice.

Owns what a verdict holds for (this digest, these runtimes, devices and limits), how long, and the files. A file that is
not one of ours, or not whole, is as good as none.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

import msgspec

from penstock_models.bundle import digest_at, locate
from penstock_models.errors import PenstockError
from penstock_models.files import replacing, sweep
from penstock_models.gaps import Gaps
from penstock_models.store import holds_bundle
from penstock_models.vetting.attempt import Attempt, Subject
from penstock_models.vetting.verdict import DEFAULT_LIMITS, Limits, Vetted, life_s
from penstock_models.vetting.vet import in_turn, vet

FORMAT = 1
MAX_ENTRIES = 1_000
MAX_ENTRY_BYTES = 64 * 1024
SUFFIX = ".verdict"

# What has a part in a verdict. Ours too: what it checks, and what it calls wrong, changes with it.
DISTRIBUTIONS = (
    "penstock",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-openvino",
    "openvino",
    "ai-edge-litert",
    "tflite-runtime",
    "numpy",
    "opencv-python-headless",
    "pillow",
)


class _Entry(msgspec.Struct, frozen=True):
    """`given` is epoch seconds."""

    v: int
    key: str
    given: float
    verdict: Vetted


class Verdicts:
    """A folder of verdicts. Safe for several processes: files appear whole, and the worst is to vet twice."""

    def __init__(
        self, folder: Path, clock: Callable[[], float] = time.time, gaps: Gaps | None = None
    ) -> None:
        """
        Args:
            gaps: of those that serve, in which a version is tried; None where nobody serves.
        """
        self._folder = folder
        self._gaps = gaps or Gaps(1)
        self._clock = clock

    async def vet(
        self, path: str | Path, devices: Sequence[str] = (), limits: Limits = DEFAULT_LIMITS
    ) -> Vetted:
        """The verdict on a version as `vet.vet` gives it, or as it was given before.

        A folder with a bare model file has no digest and is vetted each time.

        Raises:
            UsageError: as `vet.vet`.
        """
        path = Path(path)
        place, digest = await asyncio.to_thread(_identified, path)
        if not digest:
            return await vet(path, devices, limits, gaps=self._gaps)
        runs = self._gaps.slots
        key = key_of(digest, devices, limits, await asyncio.to_thread(versions), runs)
        known = await asyncio.to_thread(self.get, key, digest)
        if known is not None:
            return known
        attempt = Attempt(Subject("bundle", place), devices, limits, gaps=self._gaps)
        return await in_turn(attempt, lambda: self._settled(key, digest, place, attempt))

    def get(self, key: str, digest: str) -> Vetted | None:
        """What was given under `key` and may still be believed, of this very digest."""
        entry = _read(self._folder / f"{key}{SUFFIX}")
        if entry is None or entry.key != key or (entry.verdict.ok and entry.verdict.digest != digest):
            return None
        life, age = life_s(entry.verdict), self._clock() - entry.given
        return entry.verdict if life is None or 0 <= age < life else None

    def put(self, key: str, verdict: Vetted) -> None:
        """Keep a verdict, and let the oldest go beyond `MAX_ENTRIES`. A folder that takes none costs only time later."""
        if life_s(verdict) == 0:
            return
        data = msgspec.json.encode(_Entry(FORMAT, key, self._clock(), verdict))
        with contextlib.suppress(OSError):
            with replacing(self._folder / f"{key}{SUFFIX}") as file:
                file.write(data)
            self._trim()

    def _settled(self, key: str, digest: str, place: Path, attempt: Attempt) -> Vetted:
        """The verdict when the turn comes: another one may have asked for the same meanwhile."""
        known = self.get(key, digest)
        if known is not None:
            return known
        verdict = attempt.run()
        # What the child could not open has no digest: it may be half a copy, whose manifest is the whole one's. A child that
        # was ended could not say which it was.
        ended = not verdict.digest and verdict.reason in ("memory", "endless", "crashed")
        if digest == (_identified(place)[1] if ended else verdict.digest):
            self.put(key, verdict)
        return verdict

    def _trim(self) -> None:
        sweep(self._folder)
        found = [entry for entry in os.scandir(self._folder) if entry.name.endswith(SUFFIX)]
        if len(found) > MAX_ENTRIES:
            found.sort(key=lambda entry: entry.stat(follow_symlinks=False).st_mtime_ns)
        for entry in found[: max(0, len(found) - MAX_ENTRIES)]:
            Path(entry.path).unlink(missing_ok=True)


def key_of(digest: str, devices: Sequence[str], limits: Limits, installed: dict[str, str], runs: int) -> str:
    """The name of a verdict: everything that it depends on; `runs` is how many batches run at once where it serves."""
    parts = [FORMAT, digest, list(devices) or ["cpu"], limits, sorted(installed.items()), runs]
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


def versions() -> dict[str, str]:
    """What is installed here and has a part in a verdict, by name."""
    found = {"python": sys.version.partition(" ")[0]}
    for name in DISTRIBUTIONS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _identified(path: Path) -> tuple[Path, str]:
    """Where a bundle lies, and its digest; "" where it has none that could be read: the child says why."""
    try:
        if holds_bundle(path):
            place = locate(path)
            return place, digest_at(place)
    except PenstockError:
        pass
    return path, ""


def _read(path: Path) -> _Entry | None:
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            entry = msgspec.json.decode(file.read(MAX_ENTRY_BYTES), type=_Entry)
    except (OSError, msgspec.MsgspecError, RecursionError):
        return None
    return entry if entry.v == FORMAT else None
