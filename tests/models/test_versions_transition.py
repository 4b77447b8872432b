"""The next step of a model, and how a new version may differ from the one that serves."""

import math
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_models.manifest import Manifest, TensorSpec, Variant
from penstock_models.manifest import State as Carried
from penstock_models.steps.specs import Cast, Resize
from penstock_models.versions.drift import breaking
from penstock_models.versions.life import Life, State
from penstock_models.versions.memory import Need
from penstock_models.versions.staging import Staged
from penstock_models.versions.transition import (
    Action,
    Load,
    Prepare,
    Transition,
    Unload,
    Wait,
    next_action,
)

NOW = 100.0
LATER = 105.0


X, Y = TensorSpec("x", "float32", (1, 4)), TensorSpec("y", "float32", (1, 10))
MANIFEST = Manifest("m", 1, "raw", (Variant("model.onnx", "onnx", (X,), (Y,)),), ())


def life(version: int, state: State, *, aspired: bool = True, ready: bool = True, **facts: Any) -> Life:
    made = Life("m", version, 0.0, state=state, aspired=aspired, **facts)
    if ready:
        made.staged, made.need = Staged("m", version, "", Path(), "", MANIFEST), Need(1, 1)
    return made


def new(version: int, **facts: Any) -> Life:
    return life(version, "new", **facts)


def available(version: int, **facts: Any) -> Life:
    return life(version, "available", **facts)


def failed(version: int, due: float, **facts: Any) -> Life:
    return life(version, "failed", due=due, **facts)


@pytest.mark.parametrize(
    ("lives", "availability", "resource"),
    [
        ([], Wait(), Wait()),
        ([new(1), new(2)], Load(2), Load(2)),
        ([new(1), new(2, ready=False)], Prepare(2), Prepare(2)),
        ([new(1, kept=True), new(2, ready=False)], Load(1), Load(1)),  # what served before a restart
        ([new(1, aspired=False)], Wait(), Wait()),
        # Availability keeps the old one until the new one is there; resource makes room first, once the new one is good.
        ([available(1, aspired=False), new(2)], Load(2), Unload(1)),
        ([available(1, aspired=False), new(2, ready=False)], Prepare(2), Prepare(2)),
        ([available(1, aspired=False), available(2)], Unload(1), Unload(1)),
        ([available(1, aspired=False)], Unload(1), Unload(1)),  # nothing is aspired any more
        ([available(1, aspired=False), available(2, aspired=False), new(3)], Unload(1), Unload(1)),
        ([life(1, "unloading", aspired=False), new(2)], Load(2), Wait()),
        ([life(1, "loading", aspired=False), new(2)], Load(2), Wait()),
        ([available(1), new(2)], Load(2), Load(2)),  # both are wanted
        ([available(1), available(2)], Wait(), Wait()),
        # One that a label keeps does not stand in for the one that a newer is to replace.
        ([available(1), available(2, aspired=False), new(3, ready=False)], Prepare(3), Prepare(3)),
        ([available(1), available(2, aspired=False), new(3)], Load(3), Unload(2)),
        ([available(1), available(2, aspired=False), life(3, "loading")], Wait(), Wait()),
        ([available(1), available(2, aspired=False), failed(3, math.inf)], Unload(2), Unload(2)),
        # A step back waits for nothing.
        ([available(1), available(3, aspired=False), new(2)], Unload(3), Unload(3)),
        # A failed one waits for its time, and costs the old one nothing.
        ([available(1, aspired=False), failed(2, LATER)], Wait(LATER), Wait(LATER)),
        ([available(1, aspired=False), failed(2, math.inf)], Wait(), Wait()),
        ([available(1, aspired=False), failed(2, NOW)], Load(2), Unload(1)),
        ([failed(2, NOW, ready=False)], Prepare(2), Prepare(2)),
        ([life(2, "parked", due=LATER), new(1)], Load(1), Load(1)),
        ([life(2, "parked", due=LATER)], Wait(LATER), Wait(LATER)),
    ],
)
def test_the_next_step(lives: list[Life], availability: Action, resource: Action) -> None:
    assert next_action(lives, "availability", NOW, busy=False) == availability
    assert next_action(lives, "resource", NOW, busy=False) == resource


def test_only_unloads_while_another_version_is_loaded() -> None:
    assert next_action([new(1)], "availability", NOW, busy=True) == Wait()
    assert next_action([available(1, aspired=False), available(2)], "availability", NOW, busy=True) == Unload(
        1
    )


@given(
    st.lists(
        st.builds(
            life,
            st.integers(1, 6),
            st.sampled_from(get_args(State)),
            aspired=st.booleans(),
            ready=st.booleans(),
            due=st.sampled_from([0.0, LATER, math.inf]),
            kept=st.booleans(),
        ),
        unique_by=lambda life: life.version,
        max_size=6,
    ),
    st.sampled_from(["availability", "resource"]),
    st.booleans(),
)
def test_whatever_the_states(lives: list[Life], transition: Transition, busy: bool) -> None:
    action = next_action(lives, transition, NOW, busy=busy)
    by_version = {life.version: life for life in lives}
    serving = [s for s in lives if s.state == "available"]
    match action:
        case Unload(version=version):
            gone = by_version[version]
            assert gone.state == "available" and not gone.aspired
            if transition == "availability" and any(s.aspired for s in lives):
                assert len(serving) > 1  # never none where there was one
        case Load(version=version) | Prepare(version=version):
            started = by_version[version]
            assert not busy and started.aspired and started.idle
            assert started.due <= NOW
            assert started.ready == isinstance(action, Load)
            if isinstance(action, Load) and transition == "resource":
                holding = [s for s in lives if s.state in ("loading", "available", "unloading")]
                assert all(s.aspired for s in holding)
        case Wait(until=until):
            assert until > NOW
            moving = [s for s in lives if s.state in ("preparing", "loading", "unloading")]
            if not busy and not moving:  # nothing that could be done is left undone
                assert all(s.due >= until for s in lives if s.aspired and s.idle)


# --- drift -------------------------------------------------------------------------------------------------------------

PICTURE = (Resize(224, 224),)


def tensor(name: str, *shape: int | None, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name, dtype, shape)


def manifest(
    inputs: tuple[TensorSpec, ...] = (X,),
    outputs: tuple[TensorSpec, ...] = (Y,),
    task: str = "raw",
    **more: Any,
) -> Manifest:
    variant = Variant("model.onnx", "onnx", inputs, outputs)
    return Manifest("m", 1, task, (variant,), (), **more)  # type: ignore[arg-type]


STATE = Carried("h", "h2", "float32", (1, 2))
CLASSES = manifest(task="classification", labels=("cat", "dog", "owl"))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (manifest(), manifest(), ""),
        (manifest(), manifest(task="anomaly"), "task: was raw, is anomaly"),
        (manifest(), manifest((tensor("z", 1, 4),)), "input x: is gone, has z"),
        (manifest(), manifest((X, tensor("more", 1, 4))), "input more: is new"),
        (manifest(), manifest(outputs=(tensor("z", 1, 10),)), "output y: is gone, has z"),
        (manifest(), manifest(outputs=(Y, tensor("z", 1))), ""),
        (manifest(), manifest((tensor("x", 1, 5),)), "input x: shape was 1×4, is 1×5"),
        (manifest(), manifest((tensor("x", 1, 4, 1),)), "input x: shape was 1×4, is 1×4×1"),
        (manifest(), manifest((tensor("x", None, 4),)), ""),  # the batch axis
        (manifest(), manifest((tensor("x", 1, None),)), ""),  # takes more than before
        (manifest((tensor("x", 1, None),)), manifest(), "input x: shape was 1×?, is 1×4"),
        (manifest(), manifest((tensor("x", 1, 4, dtype="int8"),)), "input x: dtype was float32, is int8"),
        (manifest(), manifest((tensor("x", 1, 4, dtype="int8"),), preprocess=(Cast("int8"),)), ""),
        (
            manifest(),
            manifest(outputs=(tensor("y", 1, 10, dtype="int8"),)),
            "output y: dtype was float32, is int8",
        ),
        (manifest(), manifest(outputs=(tensor("y", 1, 11),)), "output y: shape was 1×10, is 1×11"),
        (
            msgspec.structs.replace(CLASSES, preprocess=PICTURE),
            manifest(
                (tensor("x", 1, 8, dtype="int8"),),
                (tensor("y", 1, 10, dtype="int8"),),
                "classification",
                labels=CLASSES.labels,
                preprocess=PICTURE,
            ),
            "",  # it resizes pictures itself, and makes classes of its output: quantized now, nobody sees it
        ),
        (
            manifest(),
            manifest((X, tensor("h", 1, 2)), (Y, tensor("h2", 1, 2)), states=(STATE,)),
            "",  # carried state is nobody's tensor
        ),
        (CLASSES, msgspec.structs.replace(CLASSES, labels=("cat", "dog", "owl", "fox")), ""),
        (
            CLASSES,
            msgspec.structs.replace(CLASSES, labels=("dog", "cat", "owl")),
            "labels: in another order, class 0 was 'cat', is 'dog'",
        ),
        (CLASSES, msgspec.structs.replace(CLASSES, labels=("cat", "dog")), "labels: 1 gone, such as 'owl'"),
        (CLASSES, msgspec.structs.replace(CLASSES, labels=()), "labels: 3 gone, such as 'cat'"),
        (
            manifest(labels=("cat", "dog", "cat")),
            manifest(labels=("cat", "dog")),
            "labels: 1 gone, such as 'cat'",
        ),
        (
            CLASSES,
            msgspec.structs.replace(CLASSES, labels=("cat", "fox", "dog", "owl")),
            "labels: new ones among the old, class 1 was 'dog', is 'fox'",
        ),
    ],
)
def test_what_breaks_clients(old: Manifest, new: Manifest, expected: str) -> None:
    assert breaking(old, new) == expected
