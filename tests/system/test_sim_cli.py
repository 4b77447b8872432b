"""`penstock sim` as its user calls it: what it prints, what it leaves behind, how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from penstock_sim.run.records import load
from tests.fakes.broker import mosquitto

pytestmark = [pytest.mark.system, pytest.mark.slow]

WAIT_S = 50
NOBODY = "mqtt://127.0.0.1:1"
QUICK = """
name = "quick"
objectives = [{objectives}]
[[device]]
name = "vib"
qos = 1
store = 100
[[device.stream]]
name = "vib"
source = {{ kind = "vibration", windows = 4 }}
rate_hz = 20
[[phase]]
kind = "steady"
seconds = {seconds}
"""


def quick(folder: Path, seconds: float = 1.5, *objectives: str) -> Path:
    file = folder / "quick.toml"
    file.write_text(QUICK.format(seconds=seconds, objectives=", ".join(map(json.dumps, objectives))))
    return file


@contextmanager
def started(folder: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    command = (sys.executable, "-m", "penstock_models.main", "sim", *words)
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def sim(folder: Path, *words: str) -> tuple[int, str, str]:
    with started(folder, *words) as process:
        out, err = process.communicate(timeout=WAIT_S)
    return process.returncode, out, err


def test_a_run_that_holds(tmp_path: Path) -> None:
    scenario = quick(tmp_path, 1.5, "lost == 0", "vib.answered_share == 100%")
    code, out, err = sim(tmp_path, "run", str(scenario), "-o", "run", "--json")
    summary = json.loads(out)
    assert (code, summary["ok"], summary["differences"]) == (0, True, [])
    assert summary["figures"]["vib"]["answered"] == summary["figures"]["vib"]["sent"] == 30
    assert [verdict["met"] for verdict in summary["objectives"]] == [True, True]
    assert {"scenario.toml", "series.ndjson", "events.ndjson", "run.json"} <= files(tmp_path / "run")
    assert "starting a broker and a gateway" in err


def test_an_objective_that_does_not_hold_is_exit_1(tmp_path: Path) -> None:
    code, out, _ = sim(tmp_path, "run", str(quick(tmp_path, 1, "p99_ms < 0.1")), "-o", "run")
    assert code == 1
    assert "FAILED p99_ms < 0.1 (came " in out
    assert "the books of the devices and the gateway's ledger agree" in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_load_and_closes_the_books(number: signal.Signals, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with started(tmp_path, "run", str(quick(tmp_path, 300)), "-o", "run") as process:
        wait_for_rows(folder, 2)
        process.send_signal(number)
        out, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == 1
    assert "stopped before its end" in out and "agree" in out
    summary = load(folder).summary
    assert summary is not None and summary.stopped and summary.differences == ()


def test_a_run_that_is_killed_keeps_what_it_had_and_leaves_nobody_behind(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with started(tmp_path, "run", str(quick(tmp_path, 300)), "-o", "run") as process:
        wait_for_rows(folder, 2)
        process.kill()
        process.wait(WAIT_S)
    recorded = load(folder)
    assert recorded.summary is None and len(recorded.rows) >= 2
    deadline = time.monotonic() + WAIT_S
    while left := processes_in(folder):
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.05)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 12 kB: the first rows of a run, and no more."""
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=12k", "tmpfs", str(path)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_a_full_disk_is_one_line_and_keeps_what_was_there(small_disk: Path, tmp_path: Path) -> None:
    folder = small_disk / "run"
    scenario = quick(tmp_path, 12)
    scenario.write_text(scenario.read_text().replace("store = 100", ""))  # nobody gives receipts
    with mosquitto(folder=tmp_path) as broker:
        code, out, err = sim(tmp_path, "run", str(scenario), "-o", str(folder), "--url", broker.url)
    assert (code, out) == (1, "")
    why = "the disk is full; what is there is kept, and is not complete"
    assert err.strip().splitlines()[-1] == f"penstock: expected to write {folder}: {why}"
    recorded = load(folder)
    assert recorded.summary is None and recorded.rows
    code, out, _ = sim(tmp_path, "report", str(folder), "-o", str(tmp_path / "page.html"))
    assert code == 1 and out.startswith("INCOMPLETE")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name = 'x'\nseconds = 3\n", "bad.toml:2: seconds: unknown key"),
        (QUICK.format(seconds=0, objectives=""), "bad.toml:14: phase[0].seconds: "),
        ("name = [", "bad.toml:1: "),
    ],
)
def test_a_wrong_scenario_is_exit_2_and_names_the_line(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text(text)
    code, _, err = sim(tmp_path, "run", "bad.toml")
    assert code == 2
    assert words in err and len(err.strip().splitlines()) == 1
    assert not (tmp_path / "sim").exists()


def test_the_ready_scenarios_are_listed(tmp_path: Path) -> None:
    code, out, _ = sim(tmp_path, "list", "--json")
    listed: dict[str, Any] = json.loads(out)
    assert code == 0 and {"smoke", "capacity", "soak"} <= set(listed)
    assert all(Path(one["file"]).is_file() and one["about"] for one in listed.values())


def test_a_capacity_is_searched_and_held(tmp_path: Path) -> None:
    options = ("--route", "vib", "--deadline", "1000", "--most", "2", "--probe", "2", "--dwell", "3")
    code, out, _ = sim(tmp_path, "capacity", str(quick(tmp_path)), *options, "-o", "found", "--json")
    found = json.loads(out)
    assert (code, found["devices"], found["frames_per_s"], found["limit"]["part"]) == (0, 2, 40.0, "none")
    assert [(step["devices"], step["seconds"]) for step in found["steps"]] == [(1, 2.0), (2, 2.0), (2, 3.0)]
    assert json.loads((tmp_path / "found" / "capacity.json").read_text()) == found


def test_nothing_is_held_within_a_deadline_that_nobody_meets(tmp_path: Path) -> None:
    options = ("--route", "vib", "--deadline", "1", "--missed", "0", "--most", "1", "--probe", "2")
    code, out, err = sim(tmp_path, "capacity", str(quick(tmp_path)), *options, "-o", "found")
    assert code == 1
    assert "no load of vib was held within 1 ms" in out and "saturates first: " in out
    assert "had no answer within 1 ms" in err


def test_a_capacity_search_that_is_stopped_keeps_what_it_had(tmp_path: Path) -> None:
    options = ("--route", "vib", "--deadline", "1000", "--probe", "2")
    with started(tmp_path, "capacity", str(quick(tmp_path)), *options, "-o", "found") as process:
        wait_for_rows(tmp_path / "found" / "001-probe-2", 1)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == 1
    assert "stopped: 1 devices of vib passed a probe, and nothing was held for 60 s" in out
    found = json.loads((tmp_path / "found" / "capacity.json").read_text())
    assert found["stopped"] and [step["devices"] for step in found["steps"]] == [1]


def test_a_capacity_search_goes_into_a_new_folder(tmp_path: Path) -> None:
    (tmp_path / "found").mkdir()
    options = ("--route", "vib", "--deadline", "1000", "-o", "found")
    code, out, err = sim(tmp_path, "capacity", str(quick(tmp_path)), *options)
    assert (code, out) == (2, "")
    assert err == "penstock: expected to write the search's results to found: File exists\n"
    code, _, err = sim(tmp_path, "capacity", str(quick(tmp_path)), *options, "-o", "new", "--url", NOBODY)
    assert code == 1 and "nobody listens there" in err and not (tmp_path / "new").exists()


def files(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def wait_for_rows(folder: Path, count: int) -> None:
    deadline = time.monotonic() + WAIT_S
    series = folder / "series.ndjson"
    while not series.exists() or series.read_bytes().count(b"\n") < count:
        assert time.monotonic() < deadline, "no rows came"
        time.sleep(0.05)


def processes_in(folder: Path) -> list[str]:
    """Command lines of processes that name a folder, workers of the simulator among them."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            cwd = str((process / "cwd").readlink())
        except OSError:
            continue
        if str(folder) in words or cwd == str(folder.parent):
            found.append(words)
    return found
