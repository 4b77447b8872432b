"""Takes the manager's steps through the ports: copy and measure a version, ask for room, load it, let it go.

Owns the time limits of the ports and what is measured around them. What a step's end means for the version is said by
the caller.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Collection, Iterable

from penstock_models.errors import TemporaryError
from penstock_models.items import ServableInfo
from penstock_models.versions import memory
from penstock_models.versions.box import Box
from penstock_models.versions.life import Life
from penstock_models.versions.memory import Need, Returned, Verdict
from penstock_models.versions.model import Model
from penstock_models.versions.ports import Loader, Traffic
from penstock_models.versions.record import Served
from penstock_models.versions.residency import Resident
from penstock_models.versions.staging import Staged, Staging
from penstock_models.versions.waiting import Clock, SystemClock, in_thread, to_end

LOAD_S = 300.0
RETIRE_S = 30.0
UNLOAD_S = 30.0
MAX_ALARMS = 20
MAX_RETURNED = 100


class Steps:
    """One manager's. `alarms` are the last lines about memory and unloads that did not go as they should, `returned` how
    much memory came back at the last unloads.
    """

    def __init__(
        self,
        staging: Staging,
        loader: Loader,
        traffic: Traffic,
        box: Box,
        *,
        clock: Clock | None = None,
        load_s: float = LOAD_S,
    ) -> None:
        """
        Args:
            load_s: a measurement or a load that takes longer is ended, and tried again later.
        """
        self.clock = clock or SystemClock()
        self.alarms: deque[str] = deque(maxlen=MAX_ALARMS)
        self.returned: deque[Returned] = deque(maxlen=MAX_RETURNED)
        self._staging = staging
        self._loader = loader
        self._traffic = traffic
        self._box = box
        self._load_s = load_s

    async def begin(self) -> None:
        """Make the staging folder ready. One that cannot be used fails each version by itself, later."""
        try:
            await in_thread(lambda _: self._staging.start())
        except OSError as error:
            self.alarms.append(f"the staging folder cannot be used: {error}")

    async def find(self, name: str, served: Iterable[Served]) -> list[Staged]:
        """The copies of what served before, as far as they are whole."""
        wanted = tuple(served)
        found = await in_thread(lambda _: [self._staging.find(s.digest, s.stamp) for s in wanted])
        return [copy for copy in found if copy is not None and copy.name == name]

    async def clean(self, used: Collection[str]) -> None:
        """Remove the copies that are not used."""
        await in_thread(lambda _: self._staging.clean(used))

    async def prepare(self, model: Model, life: Life) -> tuple[Staged, Need]:
        """Copy, verify, compare with what serves, and measure.

        Raises:
            PenstockError, OSError: as `Staging.stage`, `Model.check_drift` and `Loader.measure`; `io` where its copy is no
                longer whole.
        """
        staged = life.staged
        if staged is None:
            if life.offer is None:  # it came from before a restart
                text = f"the copy of {life.name}:{life.version} is damaged, and the store has it no more"
                raise TemporaryError("io", text)
            staged = await self._staging.stage(life.offer)
        model.check_drift(life.version, staged.manifest)
        async with self._on_a_whole_copy("measuring", life, staged):
            return staged, await self._loader.measure(staged)

    async def admit(self, model: Model, life: Life, models: Iterable[Model]) -> Verdict:
        """Whether there is room for a version that was prepared."""
        assert life.need is not None
        room = await in_thread(lambda _: self._box.room())
        residents = [
            self._resident(other, loaded, model)
            for other in models
            for loaded in other.lives.values()
            if loaded.info is not None
        ]
        used = [r.last_used for r in residents if r.name == model.name]
        wanted_at = max([model.wanted_at, *used])
        return memory.admit(life.need, room, residents, wanted_at, self.clock.now())

    async def load(self, life: Life) -> ServableInfo:
        """Load a version that was prepared and admitted.

        Raises:
            PenstockError, OSError: as `Loader.load`; `io` where its copy is no longer whole.
        """
        assert life.staged is not None
        async with self._on_a_whole_copy("loading", life, life.staged):
            return await self._loader.load(life.staged)

    async def unload(self, life: Life) -> None:
        """Retire a version and free it. Cancelled while it retires, it stays; while it is freed, that is finished.

        What goes wrong becomes an alarm: there is nothing else to be done about it.
        """
        info = life.info
        assert info is not None
        try:
            async with self.clock.limit(RETIRE_S):
                await self._traffic.retire(info)
        except TimeoutError:
            self.alarms.append(
                f"{life.name}:{life.version} is unloaded with work in flight after {RETIRE_S:g} s"
            )
        except asyncio.CancelledError:
            self._traffic.available(info)
            raise
        except Exception as error:
            self.alarms.append(f"{life.name}:{life.version} could not be retired: {error!r}")
        freeing = asyncio.ensure_future(self._free(life, info))
        try:
            await asyncio.shield(freeing)
        except asyncio.CancelledError:
            life.info = None
            await to_end(freeing)
            raise

    def resident_bytes(self, info: ServableInfo) -> int:
        return self._loader.resident_bytes(info)

    def tell_available(self, life: Life) -> None:
        """Tell the traffic that a version may get work."""
        if life.info is not None:
            self._traffic.available(life.info)

    def tell_failure(self, life: Life) -> None:
        """Tell the traffic what became of a version."""
        if life.failure is not None:
            failure = life.failure
            self._traffic.failed(life.name, life.version, failure.reason, failure.text, life.attempts)

    async def _free(self, life: Life, info: ServableInfo) -> None:
        taken = self._loader.resident_bytes(info)
        before = await in_thread(lambda _: self._box.footprint())
        try:
            async with self.clock.limit(UNLOAD_S):
                await self._loader.unload(info)
        except Exception as error:
            self.alarms.append(
                f"{life.name}:{life.version} could not be unloaded: {error or type(error).__name__}"
            )
            return
        after = await in_thread(lambda _: self._box.footprint())
        came_back = memory.returned(f"{life.name}:{life.version}", taken, before, after)
        self.returned.append(came_back)
        if came_back.alarm:
            self.alarms.append(came_back.alarm)

    def _resident(self, model: Model, life: Life, candidate: Model) -> Resident:
        assert life.info is not None
        usage = self._traffic.usage(life.info)
        going = life.state != "available"
        pinned = going or model is candidate or life.version in model.labels.values()
        size = self._loader.resident_bytes(life.info)
        return Resident(life.name, life.version, size, life.since, usage.last_used, usage.running, pinned)

    @contextlib.asynccontextmanager
    async def _on_a_whole_copy(self, doing: str, life: Life, staged: Staged) -> AsyncIterator[None]:
        """Within the time limit; what goes wrong with a copy that is no longer whole is not the version's fault."""
        name = f"{life.name}:{life.version}"
        try:
            async with self.clock.limit(self._load_s):
                yield
        except TimeoutError as error:
            raise TemporaryError("timeout", f"{doing} {name} took longer than {self._load_s:g} s") from error
        except Exception as error:
            if await in_thread(lambda _: self._staging.find(staged.digest, staged.stamp)) is None:
                life.forget_copy()
                text = f"the copy of {name} is damaged and is made anew: {error}"
                raise TemporaryError("io", text) from error
            raise
