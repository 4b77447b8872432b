"""The ready scenarios read; whatever a file says, it is read or refused in one line; finding, scaling, pointing elsewhere."""

import tempfile
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from penstock_models.errors import UsageError
from penstock_sim.measure import figures
from penstock_sim.measure.objectives import Objective
from penstock_sim.run import wire
from penstock_sim.run.build import Part
from penstock_sim.scenario import read
from penstock_sim.scenario.expected import choices, keys
from penstock_sim.scenario.faults import Flapping
from penstock_sim.scenario.library import find, ready

NAMES = ("capacity", "day-in-a-shop", "flaky-uplink", "hostile-devices", "overload", "smoke", "soak")
WORDS = (
    "0",
    "-1",
    "nan",
    '"x"',
    "true",
    "[]",
    "{}",
    "[[1]]",
    "1e400",
    "1979-05-27",
    '"' + "y" * 2000 + '"',
    "'''a\nb'''",
)


def test_the_ready_scenarios_are_these() -> None:
    assert sorted(ready()) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_ready_scenario_reads_and_says_what_it_is_for(name: str) -> None:
    loaded = find(name)
    assert loaded.scenario.name == name
    assert loaded.scenario.about and (
        loaded.scenario.objectives or name == "capacity"
    )  # it looks for the limit
    assert all(fault.at_s < loaded.load.seconds for fault in loaded.scenario.fault)
    assert loaded.devices >= 2 and loaded.rate_hz > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_scenario_reaches_a_worker_as_it_is(name: str) -> None:
    loaded = find(name)
    order = wire.Order(loaded, Part(1, 3), loaded.scenario.target, "run")
    again = wire.to_worker.decode(wire.line(order))
    assert isinstance(again, wire.Order)
    assert again.loaded.scenario == loaded.scenario and again.part == Part(1, 3)
    assert all((mine == theirs).all() for mine, theirs in zip(loaded.load.points, again.loaded.load.points))


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_mutated_scenario_is_read_or_refused_in_one_line_that_names_the_file(data: st.DataObject) -> None:
    lines = ready()[data.draw(st.sampled_from(NAMES))].read_text().splitlines()
    for _ in range(data.draw(st.integers(1, 2))):
        number = data.draw(st.integers(0, len(lines) - 1))
        key, equals, _ = lines[number].partition("=")
        lines[number] = data.draw(
            st.sampled_from(["", lines[number] * 2, f"{key}{equals}", f"x{lines[number]}", "[[device]]"])
            | st.sampled_from(WORDS).map(lambda word: f"{key}= {word}")  # noqa: B023, drawn at once
        )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "mutated.toml"
        file.write_text("\n".join(lines))
        try:
            read(file)
        except UsageError as error:
            assert str(error).startswith(str(file)) and "\n" not in str(error)


def test_a_name_that_is_neither_file_nor_ready_lists_what_is() -> None:
    with pytest.raises(UsageError, match=r"one of capacity, day-in-a-shop.*came 'smok'"):
        find("smok")


def test_a_scenario_is_shortened_with_its_faults() -> None:
    whole, tenth = find("flaky-uplink"), find("flaky-uplink", scale=0.1)
    assert tenth.load.seconds == pytest.approx(whole.load.seconds / 10)
    for long, short in zip(whole.scenario.fault, tenth.scenario.fault, strict=True):
        assert (short.at_s, short.ends_s) == pytest.approx((long.at_s / 10, long.ends_s / 10))
    flapping = next(f for f in tenth.scenario.fault if isinstance(f, Flapping))
    assert (flapping.down_s, flapping.up_s) == pytest.approx((0.1, 0.2))
    assert tenth.load.tau(tenth.load.seconds) == pytest.approx(whole.load.tau(whole.load.seconds) / 10)


def test_a_scenario_is_pointed_elsewhere() -> None:
    target = find("smoke", url="mqtt://box:1883", status="http://box:8600").scenario.target
    assert (target.url, target.status, target.site) == ("mqtt://box:1883", "http://box:8600", "home")


def test_what_may_stand_at_a_place_follows_the_kind_that_stands_there() -> None:
    file = {"phase": [{"kind": "ramp"}, {"kind": "?"}], "device": [{"stream": [{"source": {"kind": "csv"}}]}]}
    assert keys(file, ("phase", 0)) == ("kind", "seconds", "from", "to")
    assert keys(file, ("phase", 1)) == keys(file, ("phase", 9)) == keys(file, ("nothing",)) == ()
    assert "timestamp" in keys(file, ("device", 0, "stream", 0, "source"))
    assert choices(file, ("phase", 0, "kind")) == ("steady", "ramp", "burst", "diurnal", "replay")
    assert choices(file, ("device", 0, "qos")) == ("0", "1")
    assert choices(file, ("name",)) == ()


def test_figures_have_names_of_their_own() -> None:
    assert len(set(figures.NAMES)) == len(figures.NAMES)
    assert {*figures.OF_RUN, *figures.SHARES} <= set(figures.NAMES)


@pytest.mark.parametrize("figure", figures.NAMES)
def test_every_figure_can_be_asked_for_of_the_run_and_where_it_is_there_of_a_mix(figure: str) -> None:
    figures.fits(Objective.parse(f"{figure} >= 1", ["cam"], figures.NAMES))
    of_mix = Objective.parse(f"cam.{figure} >= 1", ["cam"], figures.NAMES)
    if figure in figures.OF_RUN:
        with pytest.raises(UsageError, match="without a mix"):
            figures.fits(of_mix)
    else:
        figures.fits(of_mix)
