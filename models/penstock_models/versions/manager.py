"""The version manager: makes what is loaded what is wanted.

Owns the tasks: looking at the source, preparing and loading (one version at a time, so that a box never carries two loads),
letting go. What the next step is, `model` says; how it is taken, and what its end means, `steps`; what is remembered,
`keeper`.
"""

from __future__ import annotations

import asyncio
import math
from asyncio import TaskGroup
from collections.abc import Callable, Iterator, Sequence

from penstock_models.errors import TemporaryError, UsageError
from penstock_models.versions import status
from penstock_models.versions.config import ModelConfig
from penstock_models.versions.keeper import Keeper
from penstock_models.versions.life import Life
from penstock_models.versions.memory import Returned
from penstock_models.versions.model import Model, used_digests
from penstock_models.versions.offers import Offers, Source
from penstock_models.versions.record import RecordFile
from penstock_models.versions.split import Routing
from penstock_models.versions.steps import Steps
from penstock_models.versions.transition import Load, Prepare, Unload, Wait
from penstock_models.versions.waiting import in_thread

SCAN_S = 1.0


class VersionManager:
    """Used from one event loop. `run()` does the work; everything else states wishes, or shows how things are."""

    def __init__(self, source: Source, record: RecordFile, steps: Steps) -> None:
        """Nothing is read or loaded before `run`."""
        self._source = source
        self._steps = steps
        self._clock = steps.clock
        self._models: dict[str, Model] = {}
        self._keeper = Keeper(record, self._models, steps.clock)
        self._offers = Offers()
        self._wake = asyncio.Event()  # something happened: think again
        self._look = asyncio.Event()  # look at the source before its time
        self.scanned = asyncio.Event()  # the source was looked at since `run` began
        self._wishing = asyncio.Lock()

    # --- wishes ------------------------------------------------------------------------------------------------

    def set_config(self, models: Sequence[ModelConfig]) -> None:
        """State anew, and in full, which models are wanted; what a model that is left out has loaded is let go."""
        now = self._clock.now()
        named = {config.name: config for config in models}
        for name, model in self._models.items():
            if name not in named:
                model.leave()
        for name, config in named.items():
            if name in self._models:
                self._models[name].configure(config, now)
            else:
                self._models[name] = Model(config)
        self._look.set()
        self._wake.set()

    async def set_label(self, name: str, label: str, version: int) -> None:
        """Set or move a label; it survives a restart once this returns.

        Raises:
            UsageError: no such model or label name, or the version is not available; the label stays.
            TemporaryError: `disk`: it could not be recorded; the label stays.
        """
        await self._wish(name, lambda model: model.move_label(label, version))

    async def remove_label(self, name: str, label: str) -> None:
        """Take a label away.

        Raises:
            UsageError, TemporaryError: as `set_label`.
        """
        await self._wish(name, lambda model: model.remove_label(label))

    def want(self, name: str, version: int | None = None) -> None:
        """Somebody asked in vain: load what is parked. Of an unknown model: nothing."""
        if name in self._models:
            self._models[name].want(version, self._clock.now())
            self._wake.set()

    # --- how things are ----------------------------------------------------------------------------------------

    def routing(self, name: str) -> Routing:
        """What is available of a model, for `split.choose`; cheap enough for every frame only where it is kept."""
        return self._models[name].routing() if name in self._models else Routing()

    def known(self, name: str, version: int | None = None) -> bool:
        """Whether a model, or that version of it, is offered or served."""
        model = self._models.get(name)
        return model is not None and bool(model.lives if version is None else version in model.lives)

    def coming(self, name: str) -> bool:
        """Whether some version of a model is being loaded, or would be if somebody asked."""
        return name in self._models and self._models[name].coming

    def parked(self, name: str) -> bool:
        """Whether a model waits for somebody to ask for it."""
        return name in self._models and self._models[name].parked

    def snapshot(self) -> tuple[status.ModelStatus, ...]:
        """Every version of every model, by name."""
        offset = self._clock.wall() - self._clock.now()

        def epoch_ms(seconds: float) -> int:
            return round((seconds + offset) * 1e3)

        models = (self._models[name] for name in sorted(self._models))
        return tuple(status.model_status(model, self._steps.resident_bytes, epoch_ms) for model in models)

    def unready(self) -> list[str]:
        """Models of which nothing is available, a line each with the reason."""
        return [line for model in self._models.values() if (line := status.unready(model))]

    def memory_returned(self) -> list[Returned]:
        """How much memory came back at the last unloads, the newest last."""
        return list(self._steps.returned)

    def problems(self) -> list[str]:
        """What is wrong with the store, the record, staging and memory, a line each."""
        store = [problem.text for problem in self._offers.problems]
        return [*store, *self._keeper.problems, *self._steps.alarms]

    # --- the work ----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Reconcile for ever. When cancelled, an unload in progress is finished; what is loaded stays loaded."""
        await self._keeper.load()
        await self._steps.begin()
        await self._scan()
        try:
            async with TaskGroup() as tasks:
                tasks.create_task(self._watch(), name="versions-watch")
                tasks.create_task(self._keeper.run(), name="versions-record")
                while True:
                    self._wake.clear()
                    await self._clock.wait(self._wake, self._step(tasks))
        finally:
            for life in self._lives():
                if life.state in ("preparing", "loading", "unloading"):
                    life.interrupted(self._clock.now())

    async def _watch(self) -> None:
        while True:
            await self._clock.wait(self._look, self._clock.now() + SCAN_S)
            self._look.clear()  # before the look, so that who asks for one during it gets another
            await self._scan()

    async def _scan(self) -> None:
        """Look at the source; first at what an earlier start recorded of models that are new here."""
        for model in [m for m in self._models.values() if not m.recalled]:
            recorded = self._keeper.recorded(model.name)
            copies = await self._steps.find(model.name, recorded.served)
            model.recall(recorded, copies, self._clock.now())
        self._offers = await in_thread(self._source.scan, self._clock.now(), self._clock.wall())
        for model in [m for m in self._models.values() if m.recalled]:
            model.offered(self._offers, self._clock.now())
        self.scanned.set()
        self._wake.set()

    def _step(self, tasks: TaskGroup) -> float:
        """Take every step that is due, and say when the next one may be."""
        now, until = self._clock.now(), math.inf
        busy = any(life.busy for life in self._lives())
        starts: list[tuple[Model, Prepare | Load]] = []
        for model in self._models.values():
            while isinstance(action := model.next_action(now, busy=busy), Unload):
                self._let_go(tasks, model, model.lives[action.version], "")
            if isinstance(action, Wait):
                until = min(until, action.until)
            else:
                starts.append((model, action))
        if starts:
            self._start(tasks, *max(starts, key=lambda start: _urgency(*start)))
        for name in [name for name, model in self._models.items() if model.leaving and model.idle]:
            del self._models[name]
        self._keeper.look()
        return until

    def _start(self, tasks: TaskGroup, model: Model, action: Prepare | Load) -> None:
        life = model.lives[action.version]
        if isinstance(action, Prepare):
            life.preparing(self._clock.now())
            work = self._steps.prepare(model, life, used_digests(self._models.values()))
        else:
            life.loading(self._clock.now())
            work = self._load(tasks, model, life)
        task = tasks.create_task(work, name=f"versions-{life}")
        task.add_done_callback(lambda _: self._wake.set())

    async def _load(self, tasks: TaskGroup, model: Model, life: Life) -> None:
        for victim in await self._steps.load(model, life, self._models.values()):
            other = self._models[victim.name]
            self._let_go(tasks, other, other.lives[victim.version], str(life))

    def _let_go(self, tasks: TaskGroup, model: Model, life: Life, making_room: str) -> None:
        """Begin to unload; `making_room` says for whom, "" for nobody."""
        life.unloading(making_room, self._clock.now())
        task = tasks.create_task(self._steps.unload(life), name=f"versions-unload-{life}")
        task.add_done_callback(lambda _: self._gone())

    def _gone(self) -> None:
        self._look.set()  # what was withdrawn meanwhile is forgotten, what is offered may come again
        self._wake.set()

    def _lives(self) -> Iterator[Life]:
        return (life for model in self._models.values() for life in model.lives.values())

    async def _wish(self, name: str, change: Callable[[Model], None]) -> None:
        """Change a model and write that, or undo it. One after the other, as undoing one must not undo the next."""
        async with self._wishing:
            model = self._models.get(name)
            if model is None:
                raise UsageError(
                    f"no model {name!r} is served; there are {', '.join(self._models) or 'none'}"
                )
            before = model.record
            change(model)
            try:
                await self._keeper.save()
            except OSError as error:
                model.record = before
                text = f"{name}: not changed, as it cannot be recorded: {error}"
                raise TemporaryError("disk", text) from error
            finally:
                self._wake.set()


def _urgency(model: Model, action: Prepare | Load) -> tuple[bool, bool, float, bool]:
    """Which start comes first: of a model with nothing, of what served before, of what was asked for last."""
    life = model.lives[action.version]
    return not model.available, life.kept, model.wanted_at, isinstance(action, Load)
