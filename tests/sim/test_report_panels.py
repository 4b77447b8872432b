"""What is plotted, and how it becomes a figure."""

import json
from collections.abc import Sequence

import numpy as np
import pytest

from penstock_sim.report import panels, plots
from penstock_sim.report.panels import Band
from penstock_sim.report.series import series
from penstock_sim.run.records import Event, Row
from tests.fakes.recorded import FAULTS, mix_second, row, rows


def drawn(made: Sequence[Row]) -> dict[str, panels.Panel]:
    return {panel.title: panel for panel in panels.of_run(series(made, 1))}


def test_a_run_has_every_panel() -> None:
    found = drawn(rows(30))
    assert list(found) == [
        "latency of cam", "latency of vib", "throughput", "results by fate", "queue", "CPU", "memory", "connected",
    ]  # fmt: skip
    assert [line.name for line in found["latency of cam"].lines] == ["p50", "p95", "p99"]
    assert [line.name for line in found["CPU"].lines] == ["gateway", "broker", "generator"]


def test_a_percentile_is_a_hole_where_nothing_was_answered() -> None:
    p99 = drawn(rows(30))["latency of cam"].lines[2].y
    assert np.isnan(p99[10:18]).all() and np.isfinite(p99[:10]).all()
    assert p99[18] > 4 * p99[5]


def test_what_was_not_measured_has_no_panel() -> None:
    found = drawn([row(n, {}, processes={}, gateway=None) for n in range(3)])
    assert list(found) == ["throughput", "queue", "connected"]
    assert [line.name for line in found["queue"].lines] == ["held by devices"]


def test_fates_are_stacked_and_the_rarest_are_one() -> None:
    fates = {f"rejected__{name}": 20 - number for number, name in enumerate("abcdefghij")}
    found = drawn([row(0, {"cam": mix_second([1.0] * 50, **fates)})])["results by fate"]
    names = [line.name for line in found.lines]
    assert found.stacked and names[0] == "ok" and names[-1] == "3 others"
    assert len(names) == panels.MOST_FATES + 1
    assert sum(line.y[0] for line in found.lines) == 50 + sum(fates.values())


def test_of_many_mixes_those_answered_most_have_panels() -> None:
    mixes = {f"m{number}": mix_second([5.0] * number) for number in range(10)}
    found = [title for title in drawn([row(0, mixes)]) if title.startswith("latency")]
    assert found == [f"latency of m{number}" for number in range(4, 10)]


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        (FAULTS, [(10.0, 18.0), (30.0, 30.0)]),
        ([Event(5.0, "flapping", "x")], [(5.0, 60.0)]),
        ([Event(5.0, "stage", "x"), Event(6.0, "warning", "x")], []),
        ([Event(5.0, "a", "x", begins=False)], []),
        (
            [
                Event(1.0, "a", "x"),
                Event(2.0, "a", "x"),
                Event(3.0, "a", "x", False),
                Event(9.0, "a", "x", False),
            ],
            [(1.0, 3.0), (2.0, 9.0)],
        ),
        ([Event(70.0, "a", "after the last row")], [(70.0, 70.0)]),
    ],
)
def test_bands(events: Sequence[Event], expected: list[tuple[float, float]]) -> None:
    assert [(band.begin_s, band.end_s) for band in panels.bands(events, 60.0)] == expected


def test_a_figure_has_every_fault_on_every_panel() -> None:
    made = panels.of_run(series(rows(60), 1))
    found = json.loads(plots.figure(made, panels.bands(FAULTS, 60.0), 60.0).to_json())["layout"]
    shapes = [(shape["yref"], shape["label"]["text"]) for shape in found["shapes"]]
    assert len(shapes) == len(set(shapes)) == 2 * len(made)
    assert {axis for axis, _ in shapes} == {"y domain", *(f"y{n} domain" for n in range(2, len(made) + 1))}


def test_a_moment_is_wide_enough_to_see() -> None:
    made = panels.of_run(series(rows(60), 1))
    shape = plots.figure(made, [Band(30.0, 30.0, "reboot", "")], 60.0).layout.shapes[0]
    assert shape.x0 == 30 and 30.2 < shape.x1 < 31


@pytest.mark.parametrize(("end_s", "last", "unit"), [(60, 60, "s"), (3600, 60, "min"), (86_400, 24, "h")])
def test_the_time_axis_has_a_fitting_unit(end_s: float, last: float, unit: str) -> None:
    made = panels.of_run(series(rows(3), 1))
    axis = plots.figure(made, [Band(end_s / 2, end_s, "a", "")], end_s).layout
    assert axis.xaxis.range == (0, last) and axis.xaxis.title.text.startswith(f"{unit} ")
    assert (axis.shapes[0].x0, axis.shapes[0].x1) == (last / 2, last)


def test_text_of_a_figure_is_text() -> None:
    """Plotly's own little HTML is not spoken by names."""
    mixes = {"<b>m</b>": mix_second([1.0], **{'failed__<a href="javascript:x">': 1})}
    made = panels.of_run(series([row(0, mixes)], 1))
    text = plots.as_json(plots.figure(made, [Band(0.0, 1.0, "<i>", "")], 1.0))
    assert not set("<>&") & set(text)
    found = json.loads(text)
    assert 'failed: &lt;a href="javascript:x"&gt;' in [trace["name"] for trace in found["data"]]
    assert found["layout"]["shapes"][0]["label"]["text"] == "&lt;i&gt;"
    assert found["layout"]["annotations"][0]["text"] == "<b>latency of &lt;b&gt;m&lt;/b&gt;, ms</b>"


def test_two_runs_lie_over_each_other() -> None:
    a, b = series(rows(30, 1), 1), series(rows(40, 2), 1)
    found = {panel.title: [line.name for line in panel.lines] for panel in panels.of_two(a, b)}
    assert found["latency of cam"] == ["A p50", "A p99", "B p50", "B p99"]
    assert found["answered"] == found["CPU of the gateway"] == ["A", "B"]
    assert panels.shown_mixes(a, series([row(0, {"vib": mix_second([1.0])})], 1)) == ["vib"]
