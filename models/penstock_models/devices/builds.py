"""Engines that are built for minutes: how far a build is, how long the last one took, and when a failed one is tried again.

A build is the opening of a host on a slow device, so `supervision` owns its life (in the background, another device
serves meanwhile, switched to when it is ready, tried again with growing pauses) and the cache its files (never made twice
at once, also by several processes). Here it is watched and timed.

    none ──▶ building ──▶ ready ──▶ serving        ready: open and golden, about to serve
                │                     │
                └──▶ failed ◀─────────┘            tried again after `retry_s`
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Literal

import msgspec

from penstock_models.devices.cache import ModelCache
from penstock_models.devices.supervised import OpenHost
from penstock_models.devices.supervision import Supervision
from penstock_models.files import replacing
from penstock_models.hosts import Host

Phase = Literal["none", "building", "ready", "serving", "failed"]

TIMES = "build-times.json"
MAX_TIMES = 256
LOOK_S = 1.0  # between two looks at a build's files
KEPT = 3  # an open so many times quicker than the last found its engine in the cache, and is no measure of a build
MAX_TIMES_BYTES = 1024**2


class Progress(msgspec.Struct, frozen=True):
    """Of one slow device. Times in seconds; `expected_s` is what the model's last build there took, None if unknown.

    `made_bytes` is what engines in the making take on the disk by now.
    """

    device: str
    phase: Phase
    elapsed_s: float = 0.0
    expected_s: float | None = None
    made_bytes: int = 0
    retry_s: float = 0.0
    reason: str = ""


def progress(
    supervision: Supervision, device: str, now: float, *, expected_s: float | None = None, made_bytes: int = 0
) -> Progress:
    """Where the engine of a slow device is; `now` is of the clock that supervision was told."""
    if supervision.serving == device:
        return Progress(device, "serving")
    attempt = supervision.attempt_on(device)
    if attempt is not None and attempt.opened:
        return Progress(device, "ready")
    if attempt is not None:
        return Progress(device, "building", now - attempt.began, expected_s, made_bytes)
    record = supervision.health[device]
    if not record.failures:
        return Progress(device, "none")
    retry_at = record.rebuild_at if supervision.serving is None else record.return_at
    return Progress(device, "failed", retry_s=max(0.0, retry_at - now), reason=record.reason)


class Builds:
    """Opens the hosts of one version, and watches the builds among them. `open` is a `SupervisedHost`'s port."""

    def __init__(self, name: str, supervision: Supervision, cache: ModelCache, open_host: OpenHost) -> None:
        """Nothing is opened yet.

        Args:
            name: the model's; its versions are expected to take as long as each other.
            supervision: knows the slow devices, and asks for what is opened.
            cache: whose folder is watched while it grows, and keeps the times.
        """
        self._name = name
        self._supervision = supervision
        self._cache = cache
        self._open_host = open_host
        self._times = BuildTimes(cache.folder / TIMES)
        self._expected: dict[str, float | None] = {}
        self._made_bytes = 0

    async def open(self, device: str) -> Host:
        """Open a host; watch a slow device meanwhile, and note how long it took."""
        if not self._supervision.slow(device):
            return await self._open_host(device)
        watch = asyncio.create_task(self._watch(device), name=f"watch {self._name} being built")
        began = time.monotonic()
        try:
            host = await self._open_host(device)
        finally:
            watch.cancel()
        try:
            await asyncio.to_thread(self._note, self._key(device), time.monotonic() - began)
        except asyncio.CancelledError:
            await host.close()
            raise
        return host

    def progress(self) -> list[Progress]:
        """Of every slow device, in the order of preference, as of the last look at the disk."""
        machine, now = self._supervision, time.monotonic()
        return [
            progress(machine, device, now, expected_s=self._expected.get(device), made_bytes=self._made_bytes)
            for device in machine.devices
            if machine.slow(device)
        ]

    async def _watch(self, device: str) -> None:
        """Look at the disk beside the event loop, until cancelled."""
        self._made_bytes = 0
        self._expected[device] = await asyncio.to_thread(self._times.get, self._key(device))
        while True:
            self._made_bytes = await asyncio.to_thread(self._cache.making_bytes)
            await asyncio.sleep(LOOK_S)

    def _note(self, key: str, seconds: float) -> None:
        known = self._times.get(key)
        if known is None or seconds > known / KEPT:
            with contextlib.suppress(OSError):  # without a disk the next build's end is unknown, no more
                self._times.note(key, seconds)

    def _key(self, device: str) -> str:
        return f"{self._name} on {device}"


class BuildTimes:
    """Seconds that the last builds took, by name, in a small file; a broken one is begun anew."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, name: str) -> float | None:
        """The last build's time, None where none is known."""
        return self._read().get(name)

    def note(self, name: str, seconds: float) -> None:
        """Remember a build; the oldest go beyond `MAX_TIMES`.

        Raises:
            OSError: the disk cannot be written.
        """
        times = self._read()
        times.pop(name, None)
        times[name] = seconds
        kept = dict(list(times.items())[-MAX_TIMES:])
        with replacing(self._path) as file:
            file.write(msgspec.json.encode(kept))

    def _read(self) -> dict[str, float]:
        try:
            with self._path.open("rb") as file:
                return msgspec.json.decode(file.read(MAX_TIMES_BYTES), type=dict[str, float])
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return {}
