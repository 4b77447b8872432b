"""Keeps the record of versions and labels as things are: writes it when they changed, until the disk takes it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from penstock_models.versions.model import Model
from penstock_models.versions.record import ModelRecord, Record, RecordFile
from penstock_models.versions.waiting import Clock, in_thread

SAVE_AGAIN_S = 5.0


class Keeper:
    """One manager's. It reads `models` whenever it writes; `problems` are lines about the file."""

    def __init__(self, file: RecordFile, models: Mapping[str, Model], clock: Clock) -> None:
        self._file = file
        self._models = models
        self._clock = clock
        self._written = Record()
        self._writing = asyncio.Lock()
        self._changed = asyncio.Event()
        self._unreadable = ""
        self._unwritable = ""

    @property
    def problems(self) -> list[str]:
        return [line for line in (self._unreadable, self._unwritable) if line]

    async def load(self) -> None:
        """Read what an earlier start left."""
        self._written, self._unreadable = await in_thread(self._file.load)

    def recorded(self, name: str) -> ModelRecord:
        """What an earlier start left of a model."""
        return self._written.models.get(name, ModelRecord())

    def look(self) -> None:
        """Have it written soon, if anything changed."""
        if self._record() != self._written:
            self._changed.set()

    async def run(self) -> None:
        """Write for ever; a disk that says no is asked again."""
        never = asyncio.Event()
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self.save()
            except OSError as error:
                self._unwritable = f"the record of versions cannot be written: {error}"
                await self._clock.wait(never, self._clock.now() + SAVE_AGAIN_S)
                self._changed.set()

    async def save(self) -> None:
        """Write it now, if anything changed; it is durable when this returns.

        Raises:
            OSError: the disk says no.
        """
        async with self._writing:
            record = self._record()
            if record != self._written:
                await in_thread(self._file.save, record)
                self._written = record
            self._unwritable = ""

    def _record(self) -> Record:
        """As things are; of a model that was not told yet what an earlier start left, that."""
        now = {name: model.record for name, model in self._models.items() if model.recalled}
        waiting = {n: r for n, r in self._written.models.items() if n in self._models and n not in now}
        return Record({**waiting, **now})
