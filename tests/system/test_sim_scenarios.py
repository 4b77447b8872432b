"""The ready scenarios against a real broker and a real gateway: in a short form, and whole in the soak."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from penstock_sim.run.records import Summary, load
from penstock_sim.scenario import faults
from penstock_sim.scenario.library import find, ready
from tests.fakes.sim_runs import Watcher, run

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.soak]

SHORT = {
    "capacity": 0.15,
    "day-in-a-shop": 0.012,
    "flaky-uplink": 0.2,
    "hostile-devices": 0.2,
    "smoke": 0.5,
    "soak": 0.004,
    "overload": 0.2,
}
"""Times the seconds of the scenario."""

LONG = dict.fromkeys(SHORT, 1.0) | {"soak": 0.25}


def test_every_ready_scenario_is_run_here() -> None:
    assert set(ready()) == set(SHORT)


@pytest.mark.timeout(2400)  # the long form is half an hour of scenarios
async def test_the_ready_scenarios_close_their_books(
    tmp_path: Path, soak: bool, record_property: Callable[[str, object], None]
) -> None:
    if soak:
        for name, scale in LONG.items():
            summary = await closes(name, scale, tmp_path / name)
            assert [verdict.text for verdict in summary.objectives if not verdict.met] == []
            record_property(f"sim_{name}", summary.figures[""])
        return
    *easy, heavy = SHORT
    async with asyncio.TaskGroup() as group:
        for name in easy:
            group.create_task(closes(name, SHORT[name], tmp_path / name), name=name)
    await closes(heavy, SHORT[heavy], tmp_path / heavy)


async def closes(name: str, scale: float, folder: Path) -> Summary:
    loaded = find(name, scale=scale)
    view = Watcher()
    summary = await run(loaded, folder, view)
    assert [str(difference) for difference in summary.differences] == [], name
    # How fast and how much says nothing here: seconds were cut to moments, and several runs share the machine.
    exact = [verdict for verdict in summary.objectives if "==" in verdict.text]
    assert [verdict.text for verdict in exact if not verdict.met] == [], name
    begun = [event.kind for event in view.events if event.begins]
    assert sorted(begun) == sorted(faults.kind(fault) for fault in loaded.scenario.fault), name
    recorded = load(folder)
    assert recorded.summary == summary
    assert len(recorded.rows) >= int(loaded.load.seconds)
    assert sum(mix.sent for row in recorded.rows for mix in row.mixes.values()) == summary.figures[""]["sent"]
    return summary
