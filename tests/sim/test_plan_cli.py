"""`penstock plan` as it is called, and the work that it reads from a scenario and a configuration."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from penstock_models.errors import PenstockError, UsageError
from penstock_models.main import _call
from penstock_sim.load.lane import Sending as LoadSending
from penstock_sim.load.schedule import merge
from penstock_sim.plan.cli import plan
from penstock_sim.plan.measuring import compared
from penstock_sim.plan.work import work_of
from penstock_sim.run.build import Part, build
from penstock_sim.scenario.library import find
from tests.sim.plan_site import report

GATEWAY = """
site = "home"
gateway = "gw1"
threads = 3
[mqtt]
url = "embedded"
[models]
path = "not-here"
[[route]]
topic = "penstock/v1/home/dev/{device}/{stream}/frame"
model = "big"
deadline_ms = 300
[[route]]
topic = "penstock/v1/home/dev/{device}/{stream}/data"
model = "tiny"
mode = "every"
queue = 500
"""
SCENARIO = """
name = "shop"
seed = 5
objectives = ["p99_ms < 100", "lost == 0"]
[target]
gateway = "gateway.toml"
[[device]]
name = "cam"
count = 8
[[device.stream]]
source = { kind = "scene" }
rate_hz = 10
arrivals = "poisson"
[[device]]
name = "pump"
count = 2
[[device.stream]]
name = "vib"
source = { kind = "vibration" }
rate_hz = 20
jitter_ms = 5
deadline_ms = 50
[[phase]]
kind = "ramp"
seconds = 5
from = 0.5
to = 1
[[phase]]
kind = "steady"
seconds = 20
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "gateway.toml").write_text(GATEWAY)
    (tmp_path / "shop.toml").write_text(SCENARIO)
    edge = [report("big", 0.015), report("small", 0.004), report("tiny", 0.0005)]
    cloud = [report("big", 0.002), report("tiny", 0.0001)]
    (tmp_path / "edge.json").write_text(
        "\n".join(msgspec.json.encode(one).decode() for one in edge) + '{"cores": 3}'
    )
    (tmp_path / "cloud.json").write_text(
        "\n".join(msgspec.json.encode(one).decode() for one in cloud)
        + '\n{"slots": 4, "before_ms": 15, "after_ms": 15, "per_hour": 4, "per_request": 0.00001}\n'
    )
    return tmp_path


def call(
    capsys: pytest.CaptureFixture[str], folder: Path, *words: object, profile: str = "edge.json"
) -> tuple[int, str]:
    arguments = [
        str(folder / "shop.toml"),
        "--profile",
        f"edge={folder / profile}",
        "--frames",
        "1500",
        *map(str, words),
    ]
    code = _call(plan, "plan", arguments)
    return code, capsys.readouterr().out


def test_a_plan_that_holds(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    code, out = call(capsys, folder)
    assert code == 0
    assert "cheapest that meets all objectives: 1 box: big, tiny" in out
    assert "'lost == 0' is left out: only a run can tell" in out
    assert "busiest, and first to give out: edge slots" in out


def test_a_smaller_model_where_the_large_one_does_not_do(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    words = ("--objective", "cam.p99_ms < 18", "--objective", "missed < 1%", "--model", "big=small", "--json")
    code, out = call(capsys, folder, *words)
    found = json.loads(out)
    chosen = found["candidates"][found["chosen"]]
    assert code == 0
    assert chosen["plan"]["models"] == ["small", "tiny"]
    assert chosen["figures"]["cam"]["p99_ms"] < 18
    assert not found["candidates"][0]["meets"]
    assert found["complete"] is True
    assert found["objectives"] == ["cam.p99_ms < 18", "missed < 1%"]


def test_nothing_that_meets_is_said_with_the_nearest_miss(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    code, out = call(capsys, folder, "--objective", "p99_ms < 2", "--edges", 3)
    assert code == 1
    assert "meets all objectives; the nearest one misses by" in out
    assert "  p99_ms < 2: " in out


def test_a_cloud_tier_takes_what_the_edge_cannot(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    cloud = ("--profile", f"cloud={folder / 'cloud.json'}")
    code, out = call(
        capsys,
        folder,
        *cloud,
        "--objective",
        "cam.p50_ms > 30",
        "--objective",
        "offloaded_share > 50%",
        "--json",
    )
    found = json.loads(out)
    chosen = found["candidates"][found["chosen"]]
    assert code == 0
    assert "cloud" in chosen["plan"]["where"]
    figures = chosen["figures"][""]
    per_request = figures["offloaded"] / found["seconds"] * 3600 * 0.00001
    assert figures["cost_per_hour"] == pytest.approx(1 + 4 + per_request, rel=1e-4)


def test_without_objectives_it_predicts_what_is_configured(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    scenario = folder / "shop.toml"
    scenario.write_text(SCENARIO.replace('objectives = ["p99_ms < 100", "lost == 0"]', ""))
    code, out = call(capsys, folder, "--json")
    found = json.loads(out)
    assert code == 0
    assert [candidate["plan"]["edge"] for candidate in found["candidates"]] == [1]
    figures = found["candidates"][0]["figures"]
    assert set(figures) == {"", "cam", "pump"}
    assert figures[""]["sent"] == figures["cam"]["sent"] + figures["pump"]["sent"] == found["frames"]


ERRORS: dict[str, tuple[list[str], str]] = {
    "objective": (["--objective", "fast"], "expected an objective such as"),
    "figure": (["--objective", "p98_ms < 1"], "did you mean p99_ms or p95_ms"),
    "unpredictable": (["--objective", "gateway_cpu < 1"], "expected a known figure"),
    "mix": (["--objective", "door.p99_ms < 1"], "expected a mix of cam, pump, came 'door'"),
    "tier": (["--profile", "fog=x.json"], "expected a profile as edge=FILE or cloud=FILE, came 'fog=x.json'"),
    "no file": (["--profile", "cloud=none.json"], "expected a readable profile at none.json"),
    "alternative": (["--model", "big"], "expected --model NAME=OTHER, came 'big'"),
    "alternative of nothing": (["--model", "huge=small"], "expected a model of a route (big, tiny)"),
    "unmeasured": (
        ["--model", "big=other"],
        "the profile edge has no model 'other'; it has big, small, tiny",
    ),
    "place": (["--where", "moon"], "expected --where edge, overflow, cloud, came 'moon'"),
    "no cloud": (["--where", "overflow"], "expected --profile cloud=FILE"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_what_is_wrong_is_said_in_one_line(
    case: str, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    words, expected = ERRORS[case]
    with pytest.raises(PenstockError) as error:
        call(capsys, folder, *words)
    assert error.value.exit_code == 2
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_help_has_an_example_and_says_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert _call(plan, "plan", ["--help"]) == 0
    out = capsys.readouterr().out
    assert "Example:" in out
    assert "--json" in out


def test_no_profile(folder: Path) -> None:
    with pytest.raises(UsageError, match="expected --profile edge=FILE"):
        _call(plan, "plan", [str(folder / "shop.toml")])


def test_the_scenarios_model_must_be_in_the_profile(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    (folder / "other.json").write_text(msgspec.json.encode(report("big", 0.01)).decode())
    with pytest.raises(UsageError, match="the profile edge has no model 'tiny'; it has big"):
        call(capsys, folder, profile="other.json")


def test_the_work_is_what_the_configuration_says(folder: Path) -> None:
    asked = work_of(find(str(folder / "shop.toml")))
    assert [(r.model, r.mode, r.deadline_s, r.queue) for r in asked.routes] == [
        ("big", "latest", 0.3, 10_000),
        ("tiny", "every", 1.0, 500),
    ]
    assert asked.threads == 3
    assert [s.mix for s in asked.streams] == ["cam"] * 8 + ["pump"] * 2
    assert {s.deadline_s for s in asked.streams} == {0.3, 0.05}
    assert len(asked.times) == pytest.approx((5 * 0.75 + 20) * (8 * 10 + 2 * 20), rel=0.05)


def test_the_arrivals_are_those_of_a_run(folder: Path) -> None:
    """A prediction is made for the very frames that `sim run` sends with one process."""
    loaded = find(str(folder / "shop.toml"))
    asked = work_of(loaded)
    target = msgspec.structs.replace(loaded.scenario.target, url="mqtt://127.0.0.1:1")
    built = build(loaded, Part(), target, "run", LoadSending())
    times, owners = merge(built.schedules, loaded.load.seconds)
    np.testing.assert_allclose(asked.times, times)
    np.testing.assert_array_equal(asked.owners, owners)


def test_many_frames_are_played_faster(folder: Path) -> None:
    asked = work_of(find(str(folder / "shop.toml")), frames=500)
    assert len(asked.times) == pytest.approx(500, rel=0.15)
    assert asked.seconds < 6


def test_a_stream_that_no_route_takes(folder: Path) -> None:
    gateway = folder / "gateway.toml"
    gateway.write_text(gateway.read_text().replace("/data", "/other"))
    with pytest.raises(
        UsageError, match=r"expected a route of .* that takes penstock/v1/home/dev/pump-0000/vib/data"
    ):
        work_of(find(str(folder / "shop.toml")))


def test_a_chain_is_refused(folder: Path) -> None:
    gateway = folder / "gateway.toml"
    gateway.write_text(gateway.read_text().replace("deadline_ms = 300", 'chain = ["crop", "tiny"]'))
    with pytest.raises(UsageError, match="expected a route without a chain"):
        work_of(find(str(folder / "shop.toml")))


def test_predicted_and_measured_stand_side_by_side() -> None:
    predicted = {"": {"p99_ms": 12.0, "answered": 100.0, "expired": 0.0}}
    measured: dict[str, dict[str, float | None]] = {"": {"p99_ms": 10.0, "answered": 100.0, "expired": 0.0}}
    texts = {line.figure: line.text for line in compared(predicted, measured)}
    assert texts["p99_ms"] == "all.p99_ms: predicted 12, measured 10 (+20%)"
    assert texts["expired"] == "all.expired: predicted 0, measured 0"
    assert texts["p50_ms"] == "all.p50_ms: predicted -, measured -"


@pytest.mark.parametrize("words", [["plan", "smoke"], ["sim", "run", "smoke"]])
def test_a_missing_extra_is_named(words: list[str]) -> None:
    """In a process of its own, which has imported nothing yet."""
    program = f"import sys; sys.modules['hdrh'] = None\nfrom penstock_models.main import main\nsys.exit(main({words}))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=30
    )
    needs = f"penstock: `penstock {words[0]}` needs hdrh: pip install 'penstock[sim]'"
    assert (done.returncode, done.stderr.strip()) == (2, needs)
