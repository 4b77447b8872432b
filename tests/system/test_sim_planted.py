"""Faults that are planted in a gateway, each once: the books of the devices find them, and say what they are."""

import sys
from pathlib import Path

import pytest

from penstock_sim.site import gateway
from tests.fakes.sim_runs import run, scenario

pytestmark = [pytest.mark.system, pytest.mark.slow]

NAMES = ("none", "lost", "duplicate", "late", "count")

DEVICES = """
[[device]]
name = "{name}"
[[device.stream]]
source = {{ kind = "scene", width = 160, height = 120, frames = 4 }}
rate_hz = 10
deadline_ms = 400
"""

SCENARIO = """
name = "planted"
objectives = ["answered_share > 90%"]
[[phase]]
kind = "steady"
seconds = 3
""" + "".join(DEVICES.format(name=name) for name in NAMES)


async def test_each_planted_fault_is_found_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "COMMAND", (sys.executable, "-m", "tests.fakes.planted_gateway"))
    summary = await run(scenario(tmp_path, SCENARIO), tmp_path / "run")
    found = {one.stream: one for one in summary.differences}
    assert len(found) == len(summary.differences)
    words = {stream.partition("-")[0]: str(one).partition(": ")[2] for stream, one in found.items()}
    booked = summary.streams["count-0000/cam"].answered
    assert words == {
        "lost": "frames lost: expected 0, came 1",
        "duplicate": "frames with a second result: expected 0, came 1",
        "late": "answers after their deadline that the ledger counts as late: expected 0, came 1",
        "count": f"results answered: expected {booked - 1}, came {booked}",
    }
    assert all(verdict.met for verdict in summary.objectives)
    assert not summary.ok


async def test_without_one_the_same_run_passes(tmp_path: Path) -> None:
    summary = await run(scenario(tmp_path, SCENARIO), tmp_path / "run")
    assert [str(one) for one in summary.differences] == []
    sent = summary.figures[""]["sent"]
    assert sent is not None and sent >= 29 * len(NAMES)
    assert summary.figures[""]["answered"] == sent
