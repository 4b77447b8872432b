"""`penstock plan --measure`: profiles of this machine, a prediction, and a real gateway that answers the very frames predicted."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from penstock_models.main import _call
from penstock_models.measure import measure
from penstock_sim.plan.cli import plan
from tests.conftest import ROOT

SCENARIO = """
name = "short"
[[device]]
name = "cam"
count = 2
[[device.stream]]
source = { kind = "scene", width = 160, height = 120, frames = 3 }
rate_hz = 4
[[device]]
name = "vib"
qos = 1
[[device.stream]]
name = "vib"
source = { kind = "vibration" }
rate_hz = 20
arrivals = "poisson"
[[phase]]
kind = "steady"
seconds = 3
"""

pytestmark = pytest.mark.system


@pytest.mark.slow
def test_what_is_predicted_of_this_machine_is_answered(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    bundles = sorted((ROOT / "models" / "penstock_models" / "demo").glob("*.bundle"))
    reports = [measure(bundle, None, 0.05, lambda part: None, [1, 2, 4]) for bundle in bundles]
    profile, scenario = tmp_path / "edge.json", tmp_path / "short.toml"
    profile.write_text("\n".join(msgspec.json.encode(one).decode() for one in reports))
    scenario.write_text(SCENARIO)
    code = _call(plan, "plan", [str(scenario), "--profile", f"edge={profile}", "--measure", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert code == 0
    measured = {(line["mix"], line["figure"]): line for line in found["measured"]}
    assert found["frames"] == measured["", "answered"]["predicted"] == measured["", "answered"]["measured"]
    for mix in ("cam", "vib"):
        assert measured[mix, "answered"]["predicted"] == measured[mix, "answered"]["measured"] > 0
        assert measured[mix, "p50_ms"]["measured"] > 0
        assert measured[mix, "p50_ms"]["predicted"] > 0
