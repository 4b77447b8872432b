"""`penstock sim report` and `penstock sim compare` as they are called."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as xml

import pytest

from penstock_models.errors import UsageError
from penstock_models.main import _call, main
from penstock_sim.cli import sim
from tests.fakes.recorded import rows, summary, written


def call(*words: object) -> int:
    return _call(sim, "sim", [str(word) for word in words])


@pytest.fixture
def passed(tmp_path: Path) -> Path:
    return written(tmp_path / "passed", rows(40), closing=summary()).folder


def test_a_page_in_the_runs_folder(passed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("report", passed) == 0
    out = capsys.readouterr().out
    assert out.startswith("PASSED\n") and str(passed / "report.html") in out
    assert "<title>PASSED: made-up</title>" in (passed / "report.html").read_text()


def test_page_and_junit_where_they_are_wanted(passed: Path, tmp_path: Path) -> None:
    assert call("report", passed, "-o", tmp_path / "p.html", "--junit", tmp_path / "j.xml") == 0
    assert (tmp_path / "p.html").stat().st_size > 1_000_000
    assert xml.parse(tmp_path / "j.xml").getroot().get("tests") == "5"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["j.xml", "p.html", "passed"]


def test_json_is_the_summary_and_nothing_else(passed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("report", passed, "--json") == 0
    assert json.loads(capsys.readouterr().out) == json.loads((passed / "run.json").read_text())
    assert not (passed / "report.html").exists()


@pytest.mark.parametrize(
    "changes",
    [{"ok": False, "stopped": True}, {"ok": False, "on_time": False}, None],
    ids=["failed", "void", "cut off"],
)
def test_a_run_that_did_not_pass_is_exit_1(
    changes: dict[str, object] | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    closing = summary(**changes) if changes is not None else None
    folder = written(tmp_path / "run", rows(12), closing=closing).folder
    assert call("report", folder) == 1
    assert call("report", folder, "--json") == 1
    plain = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert plain["ok"] is False and plain.get("incomplete", False) is (closing is None)


def test_open_shows_the_page(passed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr("webbrowser.open", shown.append)
    assert call("report", passed, "--json", "--open") == 0
    assert shown == [(passed / "report.html").as_uri()] and (passed / "report.html").exists()


@pytest.mark.parametrize(
    "words",
    [("report", "nowhere"), ("compare", "nowhere", "nowhere")],
)
def test_no_such_run_is_one_line(words: Sequence[str]) -> None:
    with pytest.raises(UsageError, match="expected a run's folder at nowhere"):
        call(*words)


def test_a_file_that_cannot_be_written_is_one_line(passed: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected to write .*missing/p.html: No such file"):
        call("report", passed, "-o", tmp_path / "missing" / "p.html")
    assert call("report", passed, "--nonsense") == 2


def test_compare(passed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slower = written(tmp_path / "slower", rows(40, 2, median_ms=80.0), closing=summary()).folder
    assert call("compare", passed, slower, "--html", tmp_path / "c.html") == 1
    assert "B is worse" in capsys.readouterr().out
    assert "<title>B is worse" in (tmp_path / "c.html").read_text()
    assert call("compare", slower, passed, "--json") == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain["better"] is True and plain["a"]["word"] == "PASSED"


def test_a_missing_extra_is_named(
    passed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "penstock_sim.report.page", raising=False)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert main(["sim", "report", str(passed)]) == 2
    words = "penstock: `penstock sim` needs jinja2: pip install 'penstock[sim]'"
    assert capsys.readouterr().err.strip() == words
