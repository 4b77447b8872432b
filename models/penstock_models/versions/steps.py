"""Takes the steps of a version through the ports: copy and measure it, ask for room and load it, let it go.

Owns the time limits of the ports, what is measured around them, and what a step's end means for its version: whatever one
makes us raise is about that version, and reaches no other. Which step is taken when is the caller's business.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Sequence

from penstock_models.errors import TemporaryError
from penstock_models.items import ServableInfo
from penstock_models.versions import memory
from penstock_models.versions.box import Box
from penstock_models.versions.life import Life
from penstock_models.versions.memory import Evict, Refuse, Returned, Verdict
from penstock_models.versions.model import Model
from penstock_models.versions.ports import Loader, Traffic
from penstock_models.versions.record import Served
from penstock_models.versions.residency import Resident
from penstock_models.versions.retry import Failure, classify
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

    A step that is cancelled leaves its version in the midst of it, for the caller to say so.
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
            await in_thread(self._staging.start)
        except OSError as error:
            self.alarms.append(f"the staging folder cannot be used: {error}")

    async def find(self, name: str, served: Iterable[Served]) -> list[Staged]:
        """The copies of what served before, as far as they are whole."""
        found = [await in_thread(self._staging.find, each.digest, each.stamp) for each in served]
        return [copy for copy in found if copy is not None and copy.name == name]

    def resident_bytes(self, info: ServableInfo) -> int:
        return self._loader.resident_bytes(info)

    async def prepare(self, model: Model, life: Life, used: Collection[str]) -> None:
        """Copy, verify, compare with what serves, and measure; copies whose digest is not used go first."""
        with self._trying(life):
            await in_thread(self._staging.clean, used)
            staged = life.staged or await self._stage(life)
            model.check_drift(life.version, staged.manifest)
            async with self._on_a_whole_copy("measuring", life, staged):
                need = await self._loader.measure(staged)
            life.prepared(staged, need, self.clock.now())

    async def load(self, model: Model, life: Life, models: Iterable[Model]) -> Sequence[Resident]:
        """Load a version that was prepared, where there is room; else return who has to go before it is tried again."""
        with self._trying(life):
            match await self._admit(model, life, models):
                case Evict(victims=victims):
                    life.interrupted(self.clock.now())
                    return victims
                case Refuse(text=text, hopeless=True):
                    self._fail(life, Failure("memory", text, True))
                case Refuse(text=text):
                    self._park(model, life, text)
                case _:
                    await self._load(model, life)
        return ()

    async def unload(self, life: Life) -> None:
        """Retire a version and free it. Cancelled while it retires, it stays; while it is freed, that is finished.

        What goes wrong becomes an alarm: there is nothing else to be done about it.
        """
        assert life.info is not None
        await self._retire(life, life.info)
        try:
            await to_end(asyncio.ensure_future(self._free(life, life.info)))
        finally:
            life.info = None
        life.unloaded(self.clock.now())

    @contextlib.contextmanager
    def _trying(self, life: Life) -> Iterator[None]:
        """Whatever is raised becomes the version's failure, unless somebody wants this task to end."""
        try:
            yield
        except asyncio.CancelledError:
            if _is_cancelled():
                raise
            self._fail(life, Failure("internal", "it was cancelled from within", False))
        except Exception as error:
            self._fail(life, classify(error))

    async def _stage(self, life: Life) -> Staged:
        if life.offer is None:  # it came from before a restart
            raise TemporaryError("io", f"the copy of {life} is damaged, and the store has it no more")
        return await self._staging.stage(life.offer)

    async def _admit(self, model: Model, life: Life, models: Iterable[Model]) -> Verdict:
        """Whether there is room for a version that was prepared."""
        assert life.need is not None
        room = await in_thread(self._box.room)
        residents = [
            self._resident(other, loaded, model)
            for other in models
            for loaded in other.lives.values()
            if loaded.info is not None
        ]
        used = [r.last_used for r in residents if r.name == model.name]
        wanted_at = max([model.wanted_at, *used])
        return memory.admit(life.need, room, residents, wanted_at, self.clock.now())

    async def _load(self, model: Model, life: Life) -> None:
        assert life.staged is not None
        async with self._on_a_whole_copy("loading", life, life.staged):
            info = await self._loader.load(life.staged)
        life.loaded(info, self.clock.now())
        model.settle()  # a label that waited for it points to it when the traffic hears of it
        self._traffic.available(info)

    def _park(self, model: Model, life: Life, text: str) -> None:
        news = life.failure is None or life.failure.reason != "memory"
        life.parked(text, self.clock.now())
        model.soothe(life, self.clock.now())
        if news:  # it is looked at again every minute
            self._tell(life)

    def _fail(self, life: Life, failure: Failure) -> None:
        life.failed(failure, self.clock.now())
        self._tell(life)

    def _tell(self, life: Life) -> None:
        """Tell the traffic what became of a version."""
        if (failure := life.failure) is not None:
            self._traffic.failed(life.name, life.version, failure.reason, failure.text, life.attempts)

    async def _retire(self, life: Life, info: ServableInfo) -> None:
        try:
            async with self.clock.limit(RETIRE_S):
                await self._traffic.retire(info)
        except TimeoutError:
            self.alarms.append(f"{life} is unloaded with work in flight after {RETIRE_S:g} s")
        except (Exception, asyncio.CancelledError) as error:
            if _is_cancelled():
                self._traffic.available(info)
                raise
            self.alarms.append(f"{life} could not be retired: {error!r}")

    async def _free(self, life: Life, info: ServableInfo) -> None:
        taken = self._loader.resident_bytes(info)
        before = await in_thread(self._box.footprint)
        try:
            async with self.clock.limit(UNLOAD_S):
                await self._loader.unload(info)
        except (Exception, asyncio.CancelledError) as error:  # nobody but the loader cancels it
            self.alarms.append(f"{life} could not be unloaded: {error or type(error).__name__}")
            return
        after = await in_thread(self._box.footprint)
        came_back = memory.returned(str(life), taken, before, after)
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
        try:
            async with self.clock.limit(self._load_s):
                yield
        except TimeoutError as error:
            raise TemporaryError("timeout", f"{doing} {life} took longer than {self._load_s:g} s") from error
        except Exception as error:
            if await in_thread(self._staging.find, staged.digest, staged.stamp) is None:
                life.forget_copy()
                text = f"the copy of {life} is damaged and is made anew: {error}"
                raise TemporaryError("io", text) from error
            raise


def _is_cancelled() -> bool:
    """Whether somebody wants this task to end; a port may raise the same error for a reason of its own."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
