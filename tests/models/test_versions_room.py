"""The version manager, told as it goes: memory, and more models than it holds."""

from penstock_models.versions.config import ModelConfig
from penstock_models.versions.life import PARKED_RETRY_S
from penstock_models.versions.residency import SETTLED_S

from .version_world import SIZE, World


async def test_too_little_memory_is_refused_with_the_numbers_and_the_old_one_serves(world: World) -> None:
    await world.serve(1)
    world.box.total = SIZE + SIZE // 2
    await world.put(2)
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
    await world.serve(1)
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
    await world.serve(1)
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
    await world.serve(1)
    world.box.leaks = True
    await world.put(2)
    assert any("m:1: 0 MB of 10 MB came back" in line for line in world.manager.problems())
    world.box.leaks = False
    await world.put(3)
    assert [(r.name, r.fraction) for r in world.manager.memory_returned()] == [("m:1", 0.0), ("m:2", 1.0)]
