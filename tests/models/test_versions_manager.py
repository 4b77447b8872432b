"""The version manager, told as it goes: swaps, failures, labels, restarts, memory, cancellation."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from penstock_models.errors import TemporaryError, UsageError
from penstock_models.items import ServableInfo
from penstock_models.versions.config import ModelConfig
from penstock_models.versions.life import PARKED_RETRY_S
from penstock_models.versions.memory import Need
from penstock_models.versions.offers import Offers
from penstock_models.versions.policy import All, Latest, Specific
from penstock_models.versions.record import Record
from penstock_models.versions.residency import SETTLED_S
from penstock_models.versions.retry import RETRIES
from penstock_models.versions.staging import Staged

from .version_world import SIZE, World


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    made = World(monkeypatch)
    yield made
    await made.stop()


async def serving(world: World, *versions: int, **config: object) -> None:
    """A model `m` with those versions in the store."""
    world.configure(ModelConfig("m", **config))  # type: ignore[arg-type]
    for version in versions:
        world.store.contents["m", version] = "good"
    await world.pass_time(1.1)


async def put(world: World, version: int, word: str = "good") -> None:
    world.store.contents["m", version] = word
    await world.pass_time(1.1)


async def test_the_newest_is_served_and_a_newer_one_takes_over_without_a_gap(world: World) -> None:
    await serving(world, 1, 2)
    assert world.available("m") == {2} and world.manager.unready() == []
    world.loader.at_once.clear()
    await put(world, 3)
    assert world.states()["m:3"] == "loading" and world.available("m") == {2}
    world.loader.at_once.set()
    await world.settle()
    assert world.available("m") == {3} and set(world.traffic.serving) == {("m", 3)}
    assert world.loader.log == ["load m:2", "load m:3", "unload m:2"]


async def test_resource_makes_room_first(world: World) -> None:
    await serving(world, 1, transition="resource")
    await put(world, 2)
    assert world.loader.log == ["load m:1", "unload m:1", "load m:2"]


@pytest.mark.parametrize("transition", ["availability", "resource"])
@pytest.mark.parametrize("word", ["corrupt", "golden", "flaky", "cancels", "drift", "hang"])
async def test_a_bad_newer_version_leaves_the_old_one(world: World, word: str, transition: str) -> None:
    await serving(world, 1, transition=transition)
    await put(world, 2, word)
    await world.pass_time(700)  # past every retry, and the time limit of a load
    assert world.available("m") == {1}
    failed = world.version("m", 2)
    assert failed.state in ("failed", "loading") and failed.error
    if transition == "availability":
        assert "unload m:1" not in world.loader.log


async def test_retries_are_counted_and_end(world: World) -> None:
    await serving(world, 1)
    await put(world, 2, "flaky")
    assert world.version("m", 2).attempts == 1 and world.version("m", 2).next_try is not None
    await world.pass_time(200)
    failed = world.version("m", 2)
    assert (failed.attempts, failed.reason, failed.next_try) == (6, "io", None)
    assert [attempt for *_, attempt in world.traffic.failures] == [1, 2, 3, 4, 5, 6]
    world.loader.healed = True
    await world.pass_time(100)
    assert world.available("m") == {1}  # given up: only other files, or a restart, start it anew
    await put(world, 2, "good again")
    assert world.available("m") == {2} and world.version("m", 2).attempts == 0


async def test_a_transient_failure_heals_by_itself(world: World) -> None:
    await serving(world, 1)
    await put(world, 2, "flaky")
    world.loader.healed = True
    await world.pass_time(2)
    assert world.available("m") == {2}


async def test_at_a_first_start_the_next_best_stands_in(world: World) -> None:
    world.store.contents["m", 1] = "good"
    world.store.contents["m", 2] = "golden"
    await serving(world)
    assert world.available("m") == {1}
    assert world.version("m", 2).error == "golden: m:2: a golden answer is wrong"


async def test_a_hung_load_is_ended_and_stops_no_other_for_ever(world: World) -> None:
    world.configure(ModelConfig("m"), ModelConfig("other"))
    world.store.contents["m", 1] = "hang"
    world.store.contents["other", 1] = "good"
    await world.pass_time(1.1)
    await world.pass_time(301)
    assert world.version("m", 1).error == "timeout: loading m:1 took longer than 300 s"
    assert world.available("other") == {1}


async def test_replaced_in_place_while_it_serves_changes_nothing(world: World) -> None:
    await serving(world, 1)
    before = world.version("m", 1).digest
    await put(world, 1, "good other")
    now = world.version("m", 1)
    assert (now.state, now.digest) == ("available", before)
    assert now.note is not None and "give other contents a new version number" in now.note
    await put(world, 1, "good")
    assert world.version("m", 1).note is None
    assert world.loader.log == ["load m:1"]


async def test_a_half_copied_replacement_withdraws_nothing(world: World) -> None:
    await serving(world, 1)
    world.store.troubled.add(("m", 1))
    await world.pass_time(5)
    assert world.available("m") == {1} and "m:1 is half copied" in world.manager.problems()
    world.store.gone = True
    await world.pass_time(5)
    assert world.available("m") == {1} and "no model store" in world.manager.problems()
    world.store.gone = False
    world.store.troubled.clear()
    del world.store.contents["m", 1]
    await world.pass_time(5)
    assert world.available("m") == set() and world.loader.loaded == {}
    assert world.manager.unready() == ["m: no version is offered"]


async def test_a_model_that_is_wanted_no_more_goes(world: World) -> None:
    await serving(world, 1)
    world.configure(ModelConfig("other"))
    await world.settle()
    assert world.loader.loaded == {} and [m.name for m in world.manager.snapshot()] == ["other"]
    await serving(world, 1)
    assert world.available("m") == {1}


async def test_a_model_that_is_wanted_while_the_source_is_looked_at_does_not_wait_for_the_next_look(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await serving(world, 1)
    world.store.contents["other", 1] = "good"
    scan = world.store.scan

    def meanwhile(now: float, wall: float) -> Offers:
        monkeypatch.setattr(world.store, "scan", scan)
        world.configure(*world.configs, ModelConfig("other"))
        return scan(now, wall)

    monkeypatch.setattr(world.store, "scan", meanwhile)
    world.clock.turn(1.01)
    await world.settle()
    assert world.available("other") == {1}


async def test_policies(world: World) -> None:
    await serving(world, 1, 2, 3, policy=Latest(2))
    assert world.available("m") == {2, 3}
    world.configure(ModelConfig("m", policy=All()))
    await world.pass_time(1.1)
    assert world.available("m") == {1, 2, 3}
    world.configure(ModelConfig("m", policy=Specific((1, 9))))
    await world.pass_time(1.1)
    assert world.available("m") == {1}


# --- drift -------------------------------------------------------------------------------------------------------------


async def test_drift_is_refused_by_name_unless_the_version_is_named(world: World) -> None:
    await serving(world, 1)
    await put(world, 2, "drift")
    refused = world.version("m", 2)
    assert refused.reason == "drift" and refused.next_try is None
    assert refused.error is not None and "task: was raw, is anomaly; name the version" in refused.error
    world.configure(ModelConfig("m", named=(2,)))
    await world.pass_time(1.1)
    assert world.available("m") == {2}


async def test_a_first_version_and_a_listed_one_may_be_anything(world: World) -> None:
    world.store.contents["m", 1] = "drift"
    await serving(world)
    assert world.available("m") == {1}
    await put(world, 2)
    assert world.version("m", 2).reason == "drift"
    world.configure(ModelConfig("m", policy=Specific((2,))))
    await world.pass_time(1.1)
    assert world.available("m") == {2}


# --- labels ------------------------------------------------------------------------------------------------------------


async def test_a_label_holds_its_version_and_moves_without_a_load(world: World) -> None:
    await serving(world, 1)
    await world.manager.set_label("m", "stable", 1)
    await put(world, 2)
    assert world.available("m") == {1, 2}
    log = list(world.loader.log)
    await world.manager.set_label("m", "stable", 2)
    assert world.manager.routing("m").labels == {"stable": 2}
    await world.settle()
    assert world.available("m") == {2} and world.loader.log == [*log, "unload m:1"]


async def test_a_label_holds_a_version_that_the_store_has_no_more(world: World) -> None:
    await serving(world, 1)
    await world.manager.set_label("m", "stable", 1)
    await put(world, 2)
    del world.store.contents["m", 1]
    await world.pass_time(3)
    assert world.available("m") == {1, 2} and world.manager.routing("m").labels == {"stable": 1}
    await world.restart()
    assert world.available("m") == {1, 2} and world.manager.routing("m").labels == {"stable": 1}
    await world.manager.remove_label("m", "stable")
    await world.settle()
    assert world.available("m") == {2}


async def test_a_label_does_not_move_to_what_is_not_loaded(world: World) -> None:
    await serving(world, 1)
    await world.manager.set_label("m", "stable", 1)
    await put(world, 2, "golden")
    with pytest.raises(
        UsageError, match=r"m@stable: version 2 is not available \(available: 1\); it stays at 1"
    ):
        await world.manager.set_label("m", "stable", 2)
    with pytest.raises(UsageError, match="no model 'other' is served; there are m"):
        await world.manager.set_label("other", "stable", 1)
    assert world.manager.routing("m").labels == {"stable": 1}


async def test_configured_labels_wait_for_their_version(world: World) -> None:
    await serving(world, 1, 2, labels={"stable": 1, "canary": 3})
    assert world.available("m") == {1, 2} and world.manager.routing("m").labels == {"stable": 1}
    await put(world, 3)
    assert world.manager.routing("m").labels == {"stable": 1, "canary": 3}
    world.configure(ModelConfig("m", labels={"stable": 4, "canary": 3}))
    await put(world, 4, "golden")
    assert world.manager.routing("m").labels == {"stable": 1, "canary": 3}  # 4 never came
    await put(world, 4, "good")
    assert world.manager.routing("m").labels == {"stable": 4, "canary": 3}


async def test_a_moved_label_holds_until_the_configuration_says_otherwise(world: World) -> None:
    await serving(world, 1, 2, policy=All(), labels={"stable": 1})
    await world.manager.set_label("m", "stable", 2)
    await world.restart()
    assert world.manager.routing("m").labels == {"stable": 2}
    world.configure(ModelConfig("m", policy=All(), labels={"stable": 1}))
    await world.settle()
    assert world.manager.routing("m").labels == {"stable": 2}  # nothing new was said
    await put(world, 3)
    world.configure(ModelConfig("m", policy=All(), labels={"stable": 3}))
    await world.settle()
    assert world.manager.routing("m").labels == {"stable": 3}
    await world.manager.remove_label("m", "stable")
    await world.restart()
    assert world.manager.routing("m").labels == {}
    with pytest.raises(UsageError, match="no such label"):
        await world.manager.remove_label("m", "stable")


async def test_a_label_that_cannot_be_recorded_stays(world: World) -> None:
    await serving(world, 1, 2, policy=All())
    await world.manager.set_label("m", "stable", 1)
    world.file.full = True
    with pytest.raises(TemporaryError, match=r"m: not changed, as it cannot be recorded: .*No space"):
        await world.manager.set_label("m", "stable", 2)
    with pytest.raises(TemporaryError, match="not changed"):
        await world.manager.remove_label("m", "stable")
    assert world.manager.routing("m").labels == {"stable": 1}
    world.file.full = False
    await world.manager.set_label("m", "stable", 2)
    assert world.file.record.models["m"].labels == {"stable": 2}


async def test_a_wish_that_cannot_be_recorded_takes_no_other_along(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two at once: the first fails on the disk, the second is recorded when it says so."""
    await serving(world, 1, 2, policy=All())
    save, fails = world.file.save, [True]

    def once(record: Record) -> None:
        if fails:
            fails.pop()
            raise OSError(28, "No space left on device")
        save(record)

    monkeypatch.setattr(world.file, "save", once)
    first = asyncio.create_task(world.manager.set_label("m", "stable", 1))
    second = asyncio.create_task(world.manager.set_label("m", "canary", 2))
    with pytest.raises(TemporaryError, match="not changed"):
        await first
    await second
    assert world.manager.routing("m").labels == world.file.record.models["m"].labels == {"canary": 2}


@pytest.mark.parametrize("failing", [1, 100])
async def test_a_copy_that_vanishes_while_it_is_measured_is_made_anew_some_times(
    world: World, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    real, times = world.loader.measure, []

    async def measure(staged: Staged) -> Need:
        times.append(staged)
        if len(times) <= failing:
            del world.staging.copies[staged.digest]
            raise UsageError(f"no bundle at {staged.path}")
        return await real(staged)

    monkeypatch.setattr(world.loader, "measure", measure)
    await serving(world, 1)
    assert [failure[2] for failure in world.traffic.failures] == ["io"]
    await world.pass_time(300)
    assert [failure[3] for failure in world.traffic.failures] == list(range(1, min(failing, RETRIES + 1) + 1))
    assert world.available("m") == (set() if failing > RETRIES else {1})


async def test_a_full_disk_is_named_and_written_later(world: World) -> None:
    world.file.full = True
    await serving(world, 1)
    assert world.available("m") == {1}
    assert any("the record of versions cannot be written" in line for line in world.manager.problems())
    world.file.full = False
    await world.pass_time(6)
    assert world.file.record.models["m"].served[0].version == 1 and world.manager.problems() == []


# --- restarts ----------------------------------------------------------------------------------------------------------


async def test_a_restart_brings_back_the_same_versions_and_labels(world: World) -> None:
    await serving(world, 1)
    await world.manager.set_label("m", "stable", 1)
    await put(world, 2)
    before = (world.available("m"), world.manager.routing("m").labels)
    await world.restart()
    assert (world.available("m"), world.manager.routing("m").labels) == before == ({1, 2}, {"stable": 1})


async def test_what_served_comes_before_a_newer_one_that_failed(world: World) -> None:
    await serving(world, 1)
    await put(world, 2, "hang")
    await world.restart()
    assert world.loader.log[0] == "load m:1" and world.available("m") == {1}
    assert world.states()["m:2"] == "loading"


async def test_a_restart_serves_from_its_copies_without_the_store(world: World) -> None:
    await serving(world, 1)
    world.store.gone = True
    world.store._last = ()
    await world.restart()
    assert world.available("m") == {1}
    world.store.gone = False
    world.store.contents["m", 2] = "good"
    await world.pass_time(1.1)
    assert world.available("m") == {2}


async def test_what_was_withdrawn_while_it_was_down_does_not_come_back(world: World) -> None:
    await serving(world, 1)
    del world.store.contents["m", 1]
    await world.restart()
    assert world.available("m") == set()
    assert world.loader.log == []


async def test_files_replaced_while_it_was_down_are_taken(world: World) -> None:
    await serving(world, 1)
    before = world.version("m", 1).digest
    world.store.contents["m", 1] = "good other"
    await world.restart()
    assert world.version("m", 1).state == "available" and world.version("m", 1).digest != before


async def test_what_a_better_version_replaced_is_not_brought_back(world: World) -> None:
    await serving(world, 1, 2, policy=Latest(2))
    world.configs = (ModelConfig("m"),)
    await world.restart()
    assert world.available("m") == {2}
    assert [served.version for served in world.file.record.models["m"].served] == [2]
    await put(world, 3)
    assert {copy.version for copy in world.staging.copies.values()} == {2, 3}  # 1 takes no room on the disk


async def test_a_model_that_was_given_up_and_comes_again_starts_anew(world: World) -> None:
    await serving(world, 1, 2, policy=All())
    await world.manager.set_label("m", "stable", 1)
    await world.restart()
    world.configure()
    await world.settle()
    await serving(world)
    assert world.available("m") == {2} and world.manager.routing("m").labels == {}


# --- memory -------------------------------------------------------------------------------------------------------------


async def test_too_little_memory_is_refused_with_the_numbers_and_the_old_one_serves(world: World) -> None:
    await serving(world, 1)
    world.box.total = SIZE + SIZE // 2
    await put(world, 2)
    parked = world.version("m", 2)
    assert (parked.state, parked.reason, parked.attempts) == ("parked", "memory", 0)
    assert parked.error is not None and "takes 10 MB (measured), 5 MB are free of 15 MB" in parked.error
    assert world.available("m") == {1}
    await world.pass_time(3 * PARKED_RETRY_S)
    assert world.traffic.failures == [("m", 2, "memory", 0)]  # said once, tried again and again
    world.box.total = 5 * SIZE
    await world.pass_time(PARKED_RETRY_S + 1)
    assert world.available("m") == {2}


async def test_what_the_box_can_never_hold_is_not_ready_and_a_word_for_the_operator(world: World) -> None:
    world.box.total = SIZE // 2
    await serving(world, 1)
    assert world.manager.unready() == [
        "m:1 is failed: memory: loading takes 10 MB (measured), models may take 5 MB on this box in all"
    ]
    assert world.loader.log == [] and len(world.traffic.failures) == 1


async def test_more_models_than_memory_are_loaded_on_demand(world: World) -> None:
    names = ["a", "b", "c"]
    world.box.total = 2 * SIZE
    world.configure(*(ModelConfig(name) for name in names))
    for name in names:
        world.store.contents[name, 1] = "good"
    await world.pass_time(1.1)
    assert [name for name in names if world.available(name)] == ["a", "b"]
    assert world.states()["c:1"] == "parked" and world.manager.unready() == []
    await world.pass_time(SETTLED_S)
    world.traffic.last_used = {("a", 1): world.clock.time, ("b", 1): world.clock.time - 5}
    world.clock.turn(1)
    world.manager.want("c")
    await world.settle()
    assert [name for name in names if world.available(name)] == ["a", "c"]
    assert "made room for c:1" in (world.version("b", 1).error or "")
    # `a` has work, and `c` came just now: nobody can go for `b`.
    world.traffic.busy = {("a", 1)}
    world.clock.turn(2)
    world.manager.want("b")
    await world.settle()
    assert [name for name in names if world.available(name)] == ["a", "c"]
    await world.pass_time(SETTLED_S)
    world.manager.want("b")
    await world.settle()
    assert [name for name in names if world.available(name)] == ["a", "b"]


async def test_no_more_versions_go_than_must(world: World) -> None:
    world.box.total = 2 * SIZE
    world.configure(*(ModelConfig(name) for name in "abc"))
    for name in "abc":
        world.store.contents[name, 1] = "good"
    await world.pass_time(1.1)
    await world.pass_time(SETTLED_S)
    world.traffic.idle.clear()  # the one that goes takes its time
    world.manager.want("c")
    await world.settle()
    await world.pass_time(5)
    assert sorted(world.states().values()) == ["available", "new", "unloading"]
    world.traffic.idle.set()
    await world.settle()
    assert sorted(world.states().values()) == ["available", "available", "parked"] and world.available("c")


async def test_a_failure_that_healed_counts_no_more_when_a_version_makes_room(world: World) -> None:
    world.store.contents["m", 2] = "flaky"
    await serving(world, 1)
    assert world.version("m", 2).attempts == 1
    world.loader.healed = True
    await world.pass_time(2)
    assert world.available("m") == {2} and world.version("m", 2).attempts == 0
    world.box.total = SIZE
    world.configure(ModelConfig("m"), ModelConfig("other"))
    world.store.contents["other", 1] = "good"
    await world.pass_time(SETTLED_S)
    world.manager.want("other")
    await world.settle()
    assert world.available("other") == {1} and world.states()["m:2"] == "parked"
    assert not world.version("m", 1).aspired  # nothing is wrong with 2, so nobody stands in for it


async def test_a_labelled_version_is_never_parked(world: World) -> None:
    world.box.total = SIZE
    world.configure(ModelConfig("a"), ModelConfig("b"))
    world.store.contents["a", 1] = world.store.contents["b", 1] = "good"
    await world.pass_time(1.1)
    await world.manager.set_label("a", "stable", 1)
    await world.pass_time(SETTLED_S + 1)
    world.manager.want("b")
    await world.settle()
    assert world.available("a") == {1} and world.states()["b:1"] == "parked"


async def test_memory_that_does_not_come_back_is_said(world: World) -> None:
    await serving(world, 1)
    world.box.leaks = True
    await put(world, 2)
    assert any("m:1: 0 MB of 10 MB came back" in line for line in world.manager.problems())
    world.box.leaks = False
    await put(world, 3)
    assert [(r.name, r.fraction) for r in world.manager.memory_returned()] == [("m:1", 0.0), ("m:2", 1.0)]


async def test_work_in_flight_holds_a_version(world: World) -> None:
    await serving(world, 1)
    world.traffic.idle.clear()
    await put(world, 2)
    assert world.states()["m:1"] == "unloading" and len(world.loader.loaded) == 2
    assert ("m", 1) not in world.traffic.serving
    world.traffic.idle.set()
    await world.settle()
    assert len(world.loader.loaded) == 1
    assert world.manager.problems() == []


async def test_work_that_never_ends_does_not_hold_it_for_ever(world: World) -> None:
    await serving(world, 1)
    world.traffic.idle.clear()
    await put(world, 2)
    await world.pass_time(35)
    assert len(world.loader.loaded) == 1
    assert any("m:1 is unloaded with work in flight" in line for line in world.manager.problems())


@pytest.mark.parametrize("error", [RuntimeError("no"), asyncio.CancelledError()])
@pytest.mark.parametrize("step", ["retire", "unload"])
async def test_what_goes_wrong_at_an_unload_is_said_and_keeps_nobody(
    world: World, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException
) -> None:
    """Also a port that is cancelled by something else: nobody wants the manager to end."""
    await serving(world, 1)

    async def fail(_: ServableInfo) -> None:
        raise error

    monkeypatch.setattr(world.traffic if step == "retire" else world.loader, step, fail)
    await put(world, 2)
    assert world.available("m") == {2} and world.states()["m:1"] == "new"
    assert len(world.manager.problems()) == 1 and f"m:1 could not be {step}" in world.manager.problems()[0]


# --- cancellation ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ticks", range(60))
async def test_cancelled_at_any_point_it_leaves_no_task_and_can_run_again(world: World, ticks: int) -> None:
    world.configure(ModelConfig("m"))
    world.store.contents["m", 1] = "good"
    await world.pass_time(1.1)
    world.store.contents["m", 2] = "good"
    world.clock.turn(1.1)
    for _ in range(ticks):
        await asyncio.sleep(0)
    await world.stop()
    assert {task.get_name() for task in asyncio.all_tasks() if "versions" in task.get_name()} == set()
    loaded = {(info.name, info.version) for info in world.loader.loaded.values()}
    assert set(world.traffic.serving) == loaded and loaded
    world.task = asyncio.ensure_future(world.manager.run())
    await world.settle()
    assert world.available("m") == {2}
    assert {info.version for info in world.loader.loaded.values()} == {2}
