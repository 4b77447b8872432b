"""The version manager, told as it goes: labels, and what a restart brings back."""

import asyncio

import pytest

from penstock_models.errors import TemporaryError, UsageError
from penstock_models.versions.config import ModelConfig
from penstock_models.versions.policy import All, Latest
from penstock_models.versions.record import Record

from .version_world import World


async def test_a_label_holds_its_version_and_moves_without_a_load(world: World) -> None:
    await world.serve(1)
    await world.manager.set_label("m", "stable", 1)
    await world.put(2)
    assert world.available("m") == {1, 2}
    log = list(world.loader.log)
    await world.manager.set_label("m", "stable", 2)
    assert world.manager.routing("m").labels == {"stable": 2}
    await world.settle()
    assert world.available("m") == {2} and world.loader.log == [*log, "unload m:1"]


async def test_a_label_holds_a_version_that_the_store_has_no_more(world: World) -> None:
    await world.serve(1)
    await world.manager.set_label("m", "stable", 1)
    await world.put(2)
    del world.store.contents["m", 1]
    await world.pass_time(3)
    assert world.available("m") == {1, 2} and world.manager.routing("m").labels == {"stable": 1}
    await world.restart()
    assert world.available("m") == {1, 2} and world.manager.routing("m").labels == {"stable": 1}
    await world.manager.remove_label("m", "stable")
    await world.settle()
    assert world.available("m") == {2}


async def test_a_label_does_not_move_to_what_is_not_loaded(world: World) -> None:
    await world.serve(1)
    await world.manager.set_label("m", "stable", 1)
    await world.put(2, "golden")
    with pytest.raises(
        UsageError, match=r"m@stable: version 2 is not available \(available: 1\); it stays at 1"
    ):
        await world.manager.set_label("m", "stable", 2)
    with pytest.raises(UsageError, match="no model 'other' is served; there are m"):
        await world.manager.set_label("other", "stable", 1)
    assert world.manager.routing("m").labels == {"stable": 1}


async def test_configured_labels_wait_for_their_version(world: World) -> None:
    await world.serve(1, 2, labels={"stable": 1, "canary": 3})
    assert world.available("m") == {1, 2} and world.manager.routing("m").labels == {"stable": 1}
    await world.put(3)
    assert world.manager.routing("m").labels == {"stable": 1, "canary": 3}
    world.configure(ModelConfig("m", labels={"stable": 4, "canary": 3}))
    await world.put(4, "golden")
    assert world.manager.routing("m").labels == {"stable": 1, "canary": 3}  # 4 never came
    await world.put(4, "good")
    assert world.manager.routing("m").labels == {"stable": 4, "canary": 3}


async def test_a_moved_label_holds_until_the_configuration_says_otherwise(world: World) -> None:
    await world.serve(1, 2, policy=All(), labels={"stable": 1})
    await world.manager.set_label("m", "stable", 2)
    await world.restart()
    assert world.manager.routing("m").labels == {"stable": 2}
    world.configure(ModelConfig("m", policy=All(), labels={"stable": 1}))
    await world.settle()
    assert world.manager.routing("m").labels == {"stable": 2}  # nothing new was said
    await world.put(3)
    world.configure(ModelConfig("m", policy=All(), labels={"stable": 3}))
    await world.settle()
    assert world.manager.routing("m").labels == {"stable": 3}
    world.configure(ModelConfig("m", policy=All(), labels={"stable": 1}))
    await world.settle()
    assert world.manager.routing("m").labels == {"stable": 1}  # and not 2 again
    await world.manager.remove_label("m", "stable")
    await world.restart()
    assert world.manager.routing("m").labels == {}
    with pytest.raises(UsageError, match="no such label"):
        await world.manager.remove_label("m", "stable")


async def test_labels_that_come_and_go_leave_nothing_in_the_record(world: World) -> None:
    await world.serve(1)
    for label in ("first", "second"):
        await world.manager.set_label("m", label, 1)
        await world.manager.remove_label("m", label)
    await world.settle()
    assert world.file.record.models["m"].moved == {}


async def test_a_label_that_cannot_be_recorded_stays(world: World) -> None:
    await world.serve(1, 2, policy=All())
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
    await world.serve(1, 2, policy=All())
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


async def test_a_full_disk_is_named_and_written_later(world: World) -> None:
    world.file.full = True
    await world.serve(1)
    assert world.available("m") == {1}
    assert any("the record of versions cannot be written" in line for line in world.manager.problems())
    world.file.full = False
    await world.pass_time(6)
    assert world.file.record.models["m"].served[0].version == 1 and world.manager.problems() == []


# --- restarts --------------------------------------------------------------------------------------------------------


async def test_a_restart_brings_back_the_same_versions_and_labels(world: World) -> None:
    await world.serve(1)
    await world.manager.set_label("m", "stable", 1)
    await world.put(2)
    before = (world.available("m"), world.manager.routing("m").labels)
    await world.restart()
    assert (world.available("m"), world.manager.routing("m").labels) == before == ({1, 2}, {"stable": 1})


async def test_what_served_comes_before_a_newer_one_that_failed(world: World) -> None:
    await world.serve(1)
    await world.put(2, "hang")
    await world.restart()
    assert world.loader.log[0] == "load m:1" and world.available("m") == {1}
    assert world.states()["m:2"] == "loading"


async def test_a_restart_serves_from_its_copies_without_the_store(world: World) -> None:
    await world.serve(1)
    world.store.gone = True
    world.store._last = ()
    await world.restart()
    assert world.available("m") == {1}
    world.store.gone = False
    world.store.contents["m", 2] = "good"
    await world.pass_time(1.1)
    assert world.available("m") == {2}


async def test_what_was_withdrawn_while_it_was_down_does_not_come_back(world: World) -> None:
    await world.serve(1)
    del world.store.contents["m", 1]
    await world.restart()
    assert world.available("m") == set()
    assert world.loader.log == []


async def test_files_replaced_while_it_was_down_are_taken(world: World) -> None:
    await world.serve(1)
    before = world.version("m", 1).digest
    world.store.contents["m", 1] = "good other"
    await world.restart()
    assert world.version("m", 1).state == "available" and world.version("m", 1).digest != before


async def test_what_a_better_version_replaced_is_not_brought_back(world: World) -> None:
    await world.serve(1, 2, policy=Latest(2))
    world.configs = (ModelConfig("m"),)
    await world.restart()
    assert world.available("m") == {2}
    assert [served.version for served in world.file.record.models["m"].served] == [2]
    await world.put(3)
    assert {copy.version for copy in world.staging.copies.values()} == {2, 3}  # 1 takes no room on the disk


async def test_a_model_that_was_given_up_and_comes_again_starts_anew(world: World) -> None:
    await world.serve(1, 2, policy=All())
    await world.manager.set_label("m", "stable", 1)
    await world.restart()
    world.configure()
    await world.settle()
    await world.serve()
    assert world.available("m") == {2} and world.manager.routing("m").labels == {}
