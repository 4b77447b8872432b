"""Whatever happens to two models, in whatever order: the promises of the version manager hold, and in the end all is well.

The manager, its rules and its steps are the real ones; the world around them is `version_world`.
"""

import asyncio
from asyncio import TaskGroup
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from penstock_models.errors import UsageError
from penstock_models.versions import policy as policies
from penstock_models.versions.config import ModelConfig
from penstock_models.versions.life import Life
from penstock_models.versions.manager import VersionManager
from penstock_models.versions.model import Model
from penstock_models.versions.policy import All, Latest, Specific

from .version_world import SIZE, World

NAMES = ("a", "b")
VERSIONS = (1, 2, 3, 4)
WORDS = ("good", "good other", "corrupt", "golden", "flaky", "hang", "drift")

names = st.sampled_from(NAMES)
versions = st.sampled_from(VERSIONS)
labels = st.sampled_from(["stable", "canary"])
policy_values = st.sampled_from([Latest(1), Latest(2), All(), Specific((2,)), Specific((1, 3))])


class Watched(VersionManager):
    """Checks each decision to let go when it is taken."""

    def _let_go(self, tasks: TaskGroup, model: Model, life: Life, making_room: str) -> None:
        others = [v for v in model.available if v != life.version]
        assert life.version not in model.labels.values(), "a labelled version goes"
        if making_room:
            usage = self._steps._traffic.usage(life.info)  # type: ignore[arg-type]
            assert not usage.running, "a version in use is parked"
        else:
            assert not life.aspired, "an aspired version goes"
            wanted = [other for other in model.lives.values() if other.aspired]
            if model.config.transition == "availability" and wanted:
                assert others, "the last available version goes"
        super()._let_go(tasks, model, life, making_room)


class Versions(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.loop = asyncio.new_event_loop()
        self.world: World

    def do(self, act: Callable[[], Awaitable[object] | None], seconds: float = 0.0) -> None:
        """Act, then let everything happen that happens."""

        async def steps() -> None:
            doing = act()
            if doing is not None:
                await doing
            await self.world.settle()
            if seconds:
                await self.world.pass_time(seconds)

        self.loop.run_until_complete(steps())

    @initialize(transition=st.sampled_from(["availability", "resource"]), rule=policy_values)
    def begin(self, transition: str, rule: policies.Policy) -> None:
        async def make() -> None:
            self.world = World(self.patch, Watched)

        self.loop.run_until_complete(make())
        configs = [ModelConfig("a", rule, transition), ModelConfig("b")]  # type: ignore[arg-type]
        self.do(lambda: self.world.configure(*configs))

    @rule(name=names, version=versions, word=st.sampled_from(WORDS))
    def offer(self, name: str, version: int, word: str) -> None:
        self.do(lambda: self.world.store.contents.update({(name, version): word}), 1.1)

    @rule(name=names, version=versions)
    def withdraw(self, name: str, version: int) -> None:
        def withdraw() -> None:
            self.world.store.contents.pop((name, version), None)

        self.do(withdraw, 1.1)

    @rule(name=names, version=versions)
    def half_copy(self, name: str, version: int) -> None:
        self.do(lambda: self.world.store.troubled.add((name, version)), 1.1)

    @rule()
    def copies_end(self) -> None:
        self.do(self.world.store.troubled.clear, 1.1)

    @rule(gone=st.booleans())
    def unmount(self, gone: bool) -> None:
        self.do(lambda: setattr(self.world.store, "gone", gone), 1.1)

    @rule(seconds=st.sampled_from([0.5, 3.0, 9.0, 61.0]))
    def time_passes(self, seconds: float) -> None:
        self.do(lambda: None, seconds)

    @rule()
    def a_load_is_given_up(self) -> None:
        self.do(lambda: self.world.clock.turn(301))

    @rule(healed=st.booleans())
    def weather(self, healed: bool) -> None:
        self.do(lambda: setattr(self.world.loader, "healed", healed))

    @rule(open_=st.booleans())
    def loads_take_long(self, open_: bool) -> None:
        door = self.world.loader.at_once
        self.do(door.set if open_ else door.clear)

    @rule(open_=st.booleans())
    def work_takes_long(self, open_: bool) -> None:
        idle = self.world.traffic.idle
        self.do(idle.set if open_ else idle.clear)

    @rule(name=names, label=labels, version=versions)
    def move_label(self, name: str, label: str, version: int) -> None:
        async def move() -> None:
            manager = self.world.manager
            may = version in manager.routing(name).available
            before = dict(manager.routing(name).labels)
            try:
                await manager.set_label(name, label, version)
            except UsageError:
                assert not may
                assert manager.routing(name).labels == before
            else:
                assert may
                assert self.world.file.record.models[name].labels[label] == version

        self.do(move)

    @rule(name=names, label=labels)
    def remove_label(self, name: str, label: str) -> None:
        async def remove() -> None:
            try:
                await self.world.manager.remove_label(name, label)
            except UsageError:
                assert label not in self.world.manager.routing(name).labels

        self.do(remove)

    @rule(name=names)
    def want(self, name: str) -> None:
        self.do(lambda: self.world.manager.want(name))

    @rule(name=names, version=versions, busy=st.booleans())
    def use(self, name: str, version: int, busy: bool) -> None:
        traffic = self.world.traffic
        traffic.last_used[name, version] = self.world.clock.time
        (traffic.busy.add if busy else traffic.busy.discard)((name, version))

    @rule(models=st.integers(1, 6))
    def memory_changes(self, models: int) -> None:
        self.do(lambda: setattr(self.world.box, "total", models * SIZE))

    @rule(full=st.booleans())
    def disk(self, full: bool) -> None:
        # Wishes are refused on a full disk, which the story tells; here it may only delay the record.
        self.do(lambda: None if full else setattr(self.world.file, "full", False))

    @rule(transition=st.sampled_from(["availability", "resource"]), rule=policy_values)
    def configure(self, transition: str, rule: policies.Policy) -> None:
        configs = [ModelConfig("a", rule, transition), ModelConfig("b")]  # type: ignore[arg-type]
        self.do(lambda: self.world.configure(*configs))

    @rule()
    def kill(self) -> None:
        before = {name: self.world.file.record.models.get(name) for name in NAMES}
        self.do(self.world.restart)
        for name, record in before.items():
            if record is not None:
                assert self.world.file.record.models[name].moved == record.moved

    @invariant()
    def what_is_said_is_true(self) -> None:
        world = self.world
        assert world.loader.broken == []
        loaded = {(info.name, info.version) for info in world.loader.loaded.values()}
        for name in NAMES:
            routing = world.manager.routing(name)
            assert {(name, version) for version in routing.available} <= loaded
            assert set(routing.labels.values()) <= routing.available
        said = {(name, version) for name in NAMES for version in world.manager.routing(name).available}
        assert set(world.traffic.serving) == said
        states = list(world.states().values())
        assert sum(state in ("preparing", "loading") for state in states) <= 1
        for model in world.manager.snapshot():
            for version in model.versions:
                assert version.state != "failed" or version.error

    def teardown(self) -> None:
        try:
            if hasattr(self, "world"):
                self.do(self.all_is_well)
                self.loop.run_until_complete(self.world.stop())
                assert not asyncio.all_tasks(self.loop)
        finally:
            self.loop.run_until_complete(self.end_tasks())
            self.loop.close()
            self.patch.undo()

    async def end_tasks(self) -> None:
        """Of a failed example: none may outlive it."""
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def all_is_well(self) -> None:
        """After the weather cleared: everything that is wanted and can be had is available, and nothing else is loaded."""
        world = self.world
        world.box.total = 100 * SIZE
        world.loader.healed = True
        world.store.gone = False
        world.store.troubled.clear()
        world.loader.at_once.set()
        world.traffic.idle.set()
        for name in NAMES:
            world.store.contents[name, 9] = "good new"
        world.configure(
            *(ModelConfig(name, named=(9,)) for name in NAMES)
        )  # named: it may drift from what serves
        await world.settle()
        await world.pass_time(400)
        for model in world.manager.snapshot():
            for version in model.versions:
                if version.aspired:
                    given_up = version.state == "failed" and version.next_try is None
                    assert version.state == "available" or given_up, version
                else:
                    assert version.state not in ("available", "loading"), version
            assert 9 in world.manager.routing(model.name).available
        loaded = {(info.name, info.version) for info in world.loader.loaded.values()}
        assert loaded == set(world.traffic.serving)
        for name in NAMES:
            served = {entry.version for entry in world.file.record.models[name].served}
            assert served == set(world.manager.routing(name).available)


TestVersions = Versions.TestCase
# A failure is shown as it was found: to make it smaller takes longer than a test may.
TestVersions.settings = settings(
    max_examples=20, stateful_step_count=30, phases=[Phase.explicit, Phase.reuse, Phase.generate]
)
