"""The version manager, told as it goes: swaps, failures, unloads, cancellation."""

import asyncio

import pytest

from penstock_models.errors import UsageError
from penstock_models.items import ServableInfo
from penstock_models.versions.config import ModelConfig
from penstock_models.versions.memory import Need
from penstock_models.versions.offers import Offers
from penstock_models.versions.policy import All, Latest, Specific
from penstock_models.versions.retry import RETRIES
from penstock_models.versions.staging import Staged

from .version_world import World


async def test_the_newest_is_served_and_a_newer_one_takes_over_without_a_gap(world: World) -> None:
    await world.serve(1, 2)
    assert world.available("m") == {2} and world.manager.unready() == []
    world.loader.at_once.clear()
    await world.put(3)
    assert world.states()["m:3"] == "loading" and world.available("m") == {2}
    world.loader.at_once.set()
    await world.settle()
    assert world.available("m") == {3} and set(world.traffic.serving) == {("m", 3)}
    assert world.loader.log == ["load m:2", "load m:3", "unload m:2"]


async def test_a_version_that_a_label_keeps_does_not_stand_in_for_the_newest(world: World) -> None:
    await world.serve(1, labels={"stable": 1})
    await world.put(2)
    world.loader.at_once.clear()
    await world.put(3)
    assert world.states()["m:3"] == "loading" and world.available("m") == {1, 2}
    world.loader.at_once.set()
    await world.settle()
    assert world.available("m") == {1, 3}
    assert world.loader.log == ["load m:1", "load m:2", "load m:3", "unload m:2"]


async def test_resource_makes_room_first(world: World) -> None:
    await world.serve(1, transition="resource")
    await world.put(2)
    assert world.loader.log == ["load m:1", "unload m:1", "load m:2"]


@pytest.mark.parametrize("transition", ["availability", "resource"])
@pytest.mark.parametrize("word", ["corrupt", "golden", "flaky", "cancels", "drift", "hang"])
async def test_a_bad_newer_version_leaves_the_old_one(world: World, word: str, transition: str) -> None:
    await world.serve(1, transition=transition)
    await world.put(2, word)
    await world.pass_time(700)  # past every retry, and the time limit of a load
    assert world.available("m") == {1}
    failed = world.version("m", 2)
    assert failed.state in ("failed", "loading") and failed.error
    if transition == "availability":
        assert "unload m:1" not in world.loader.log


async def test_retries_are_counted_and_end(world: World) -> None:
    await world.serve(1)
    await world.put(2, "flaky")
    assert world.version("m", 2).attempts == 1 and world.version("m", 2).next_try is not None
    await world.pass_time(200)
    failed = world.version("m", 2)
    assert (failed.attempts, failed.reason, failed.next_try) == (6, "io", None)
    assert [attempt for *_, attempt in world.traffic.failures] == [1, 2, 3, 4, 5, 6]
    world.loader.healed = True
    await world.pass_time(100)
    assert world.available("m") == {1}  # given up: only other files, or a restart, start it anew
    await world.put(2, "good again")
    assert world.available("m") == {2} and world.version("m", 2).attempts == 0


async def test_a_transient_failure_heals_by_itself(world: World) -> None:
    await world.serve(1)
    await world.put(2, "flaky")
    world.loader.healed = True
    await world.pass_time(2)
    assert world.available("m") == {2}


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
    await world.serve(1)
    assert [failure[2] for failure in world.traffic.failures] == ["io"]
    await world.pass_time(300)
    assert [failure[3] for failure in world.traffic.failures] == list(range(1, min(failing, RETRIES + 1) + 1))
    assert world.available("m") == (set() if failing > RETRIES else {1})


async def test_at_a_first_start_the_next_best_stands_in(world: World) -> None:
    world.store.contents["m", 1] = "good"
    world.store.contents["m", 2] = "golden"
    await world.serve()
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
    await world.serve(1)
    before = world.version("m", 1).digest
    await world.put(1, "good other")
    now = world.version("m", 1)
    assert (now.state, now.digest) == ("available", before)
    assert now.note is not None and "give other contents a new version number" in now.note
    await world.put(1, "good")
    assert world.version("m", 1).note is None
    assert world.loader.log == ["load m:1"]


async def test_a_half_copied_replacement_withdraws_nothing(world: World) -> None:
    await world.serve(1)
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
    await world.serve(1)
    world.configure(ModelConfig("other"))
    await world.settle()
    assert world.loader.loaded == {} and [m.name for m in world.manager.snapshot()] == ["other"]
    await world.serve(1)
    assert world.available("m") == {1}


async def test_a_model_that_is_wanted_while_the_source_is_looked_at_does_not_wait_for_the_next_look(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.serve(1)
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
    await world.serve(1, 2, 3, policy=Latest(2))
    assert world.available("m") == {2, 3}
    world.configure(ModelConfig("m", policy=All()))
    await world.pass_time(1.1)
    assert world.available("m") == {1, 2, 3}
    world.configure(ModelConfig("m", policy=Specific((1, 9))))
    await world.pass_time(1.1)
    assert world.available("m") == {1}


# --- drift -----------------------------------------------------------------------------------------------------------


async def test_drift_is_refused_by_name_unless_the_version_is_named(world: World) -> None:
    await world.serve(1)
    await world.put(2, "drift")
    refused = world.version("m", 2)
    assert refused.reason == "drift" and refused.next_try is None
    assert refused.error is not None and "task: was raw, is anomaly; name the version" in refused.error
    world.configure(ModelConfig("m", named=(2,)))
    await world.pass_time(1.1)
    assert world.available("m") == {2}


async def test_a_first_version_and_a_listed_one_may_be_anything(world: World) -> None:
    world.store.contents["m", 1] = "drift"
    await world.serve()
    assert world.available("m") == {1}
    await world.put(2)
    assert world.version("m", 2).reason == "drift"
    world.configure(ModelConfig("m", policy=Specific((2,))))
    await world.pass_time(1.1)
    assert world.available("m") == {2}


# --- unloads ---------------------------------------------------------------------------------------------------------


async def test_work_in_flight_holds_a_version(world: World) -> None:
    await world.serve(1)
    world.traffic.idle.clear()
    await world.put(2)
    assert world.states()["m:1"] == "unloading" and len(world.loader.loaded) == 2
    assert ("m", 1) not in world.traffic.serving
    world.traffic.idle.set()
    await world.settle()
    assert len(world.loader.loaded) == 1
    assert world.manager.problems() == []


async def test_work_that_never_ends_does_not_hold_it_for_ever(world: World) -> None:
    await world.serve(1)
    world.traffic.idle.clear()
    await world.put(2)
    await world.pass_time(35)
    assert len(world.loader.loaded) == 1
    assert any("m:1 is unloaded with work in flight" in line for line in world.manager.problems())


@pytest.mark.parametrize("error", [RuntimeError("no"), asyncio.CancelledError()])
@pytest.mark.parametrize("step", ["retire", "unload"])
async def test_what_goes_wrong_at_an_unload_is_said_and_keeps_nobody(
    world: World, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException
) -> None:
    """Also a port that is cancelled by something else: nobody wants the manager to end."""
    await world.serve(1)

    async def fail(_: ServableInfo) -> None:
        raise error

    monkeypatch.setattr(world.traffic if step == "retire" else world.loader, step, fail)
    await world.put(2)
    assert world.available("m") == {2} and world.states()["m:1"] == "new"
    assert len(world.manager.problems()) == 1 and f"m:1 could not be {step}" in world.manager.problems()[0]


# --- cancellation ----------------------------------------------------------------------------------------------------


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
