"""A run on disk: read back as it was written, also where it was cut off, where the disk was full, or is another's."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock_models.errors import UsageError
from penstock_sim.measure.closing import Difference
from penstock_sim.measure.objectives import Verdict
from penstock_sim.measure.window import MixSecond
from penstock_sim.run.records import Event, Machine, Row, Summary, Writer, load
from penstock_sim.run.sampler import GatewaySample, NetworkSample, ProcessSample

TEXT = 'name = "größe"\n'
MACHINE = Machine("a processor", 2, 4.0, "3.11", "0.1")
EVENT = Event(1.5, "link_cut", "for_s 2")


def row(second: int) -> Row:
    return Row(
        second=second, mixes={"cam": MixSecond(3, 2, 1, {"ok": 2}, "")}, connected=1, held=0, unsent=0,
        lag_p99_ms=None, processes={"gateway": ProcessSample(0.5, 90.0)},
        network={"broker": NetworkSample(1.5, 2.0)}, gateway=GatewaySample(3, 1, 0),
    )  # fmt: skip


def summary(**keys: Any) -> Summary:
    values: dict[str, Any] = {
        "name": "x", "run": "abcd", "seed": 1, "began": 5, "seconds": 2.0, "ok": True, "on_time": True,
        "stopped": False, "objectives": (Verdict("lost == 0", 0.0, True),),
        "differences": (Difference("cam/a", "frames lost", 0, 1),), "figures": {"": {"sent": 1.0, "p99_ms": None}},
        "fates": {}, "answered_by": {}, "unsent": {}, "lost_connections": {}, "ledger": None, "streams": {},
        "workers": 1, "machine": MACHINE, "offset_ms": (-1.0, 2.0), "notes": ("a note",),
    }  # fmt: skip
    return Summary(**values | keys)


def written(folder: Path, rows: int = 3, ended: bool = True) -> Path:
    writer = Writer(folder, TEXT)
    for number in range(rows):
        writer.row(row(number))
    writer.event(EVENT)
    writer.close(summary() if ended else None)
    assert not writer.problem
    return folder


def test_a_run_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    found = load(written(tmp_path / "deep" / "run"))
    assert found.rows == tuple(row(n) for n in range(3))
    assert (found.events, found.summary, found.scenario) == ((EVENT,), summary(), TEXT)
    assert not list((tmp_path / "deep" / "run").glob("*.tmp"))


def test_rows_are_on_disk_as_they_come(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "run", TEXT)
    for number in range(3):
        writer.row(row(number))
        assert len(load(tmp_path / "run").rows) == number + 1
    writer.close(None)


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_last_line_that_was_cut_off_is_left_out(tmp_path: Path, cut: int) -> None:
    folder = written(tmp_path / "run", ended=False)
    series = folder / "series.ndjson"
    series.write_bytes(series.read_bytes()[:-cut])
    found = load(folder)
    assert [one.second for one in found.rows] == [0, 1]
    assert found.summary is None


def test_a_run_that_had_no_second_yet_is_one(tmp_path: Path) -> None:
    folder = written(tmp_path / "run", rows=0, ended=False)
    (folder / "events.ndjson").write_bytes(b'{"at_s"')
    found = load(folder)
    assert (found.rows, found.events, found.summary) == ((), (), None)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("series.ndjson", None, "expected a run's folder at {}: {}/series.ndjson: No such file"),
        ("scenario.toml", None, "{}/scenario.toml: No such file"),
        ("scenario.toml", b"\xff", "expected a run's files in {}: scenario.toml: "),
        ("series.ndjson", b"{]\n{}\n", "expected a run's files in {}: series.ndjson:1: "),
        ("series.ndjson", b'{"second": "one"}\n', "expected a run's files in {}: series.ndjson:1: "),
        ("events.ndjson", msgspec.json.encode(EVENT) + b"\n\n", "expected a run's files in {}: events.ndjson:2: "),
        ("run.json", b"", "expected a run's files in {}: run.json: "),
        ("run.json", b'{"v": 1}', "expected a run's files in {}: run.json: "),
        ("run.json", b'{"v": 2, "name": 7}', "{}: expected a run of version 1 or older, came version 2"),
        ("run.json", b'{"v": "1"}', "expected a run's files in {}: run.json: "),
    ],
)  # fmt: skip
def test_what_is_no_run_is_refused_in_one_line(
    tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    folder = written(tmp_path / "run")
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(UsageError) as caught:
        load(folder)
    assert said.format(folder, folder) in str(caught.value) and "\n" not in str(caught.value)


def test_an_older_run_that_knows_less_still_opens(tmp_path: Path) -> None:
    folder = written(tmp_path / "run")
    older = json.loads((folder / "run.json").read_text())
    for key in ("v", "notes", "offset_ms"):
        del older[key]
    (folder / "run.json").write_text(json.dumps(older | {"later": 1}))
    assert load(folder).summary == summary(notes=(), offset_ms=None)


def test_a_folder_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    folder = written(tmp_path / "run")
    with pytest.raises(UsageError, match=r"expected to write the run's results to .*run: File exists"):
        Writer(folder, TEXT)
    assert load(folder).summary == summary()
    with pytest.raises(UsageError, match="Not a directory"):
        Writer(folder / "run.json" / "below", TEXT)


FULL = """
import json, resource, sys
from pathlib import Path
from tests.sim.test_run_records import EVENT, TEXT, Writer, row, summary
writer = Writer(Path(sys.argv[1]), TEXT)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
for number in range(50):
    writer.row(row(number))
    writer.event(EVENT)
writer.close(summary())
print(writer.problem)
"""


@pytest.mark.parametrize("limit", [3000, 700])
def test_where_no_more_can_be_written_what_is_there_is_kept_and_marked(tmp_path: Path, limit: int) -> None:
    """A file size limit stops the real write in mid-line, as a full disk does."""
    folder = tmp_path / "run"
    ran = subprocess.run(
        [sys.executable, "-c", FULL, str(folder), str(limit)], capture_output=True, text=True, check=True
    )
    assert ran.stderr == ""
    (line,) = ran.stdout.splitlines()
    assert line == f"expected to write {folder}: File too large; what is there is kept, and is not complete"
    size = len(msgspec.json.encode(row(0))) + 1
    found = load(folder)
    assert [one.second for one in found.rows] == list(range(limit // size))
    assert found.summary is None


def test_a_summary_that_does_not_fit_leaves_no_half_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    few = FULL.replace("range(50)", "range(2)").replace("summary()", 'summary(notes=("x" * 9000,))')
    ran = subprocess.run(
        [sys.executable, "-c", few, str(folder), "4000"], capture_output=True, text=True, check=True
    )
    assert "File too large" in ran.stdout
    assert sorted(file.name for file in folder.iterdir()) == [
        "events.ndjson",
        "scenario.toml",
        "series.ndjson",
    ]
    assert (len(load(folder).rows), load(folder).summary) == (2, None)


@pytest.mark.parametrize("name", ["series.ndjson", "events.ndjson"])
def test_a_full_disk_is_called_so_and_ends_the_writing_alone(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/dev/full answers every write with ENOSPC."""
    opened = Path.open
    monkeypatch.setattr(
        Path, "open", lambda path, *mode, **keys: opened(Path("/dev/full") if path.name == name else path, *mode, **keys)
    )  # fmt: skip
    writer = Writer(tmp_path / "run", TEXT)
    monkeypatch.undo()
    for number in range(3):
        writer.row(row(number))
        writer.event(EVENT)
    writer.close(summary())
    assert writer.problem == (
        f"expected to write {tmp_path / 'run'}: the disk is full; what is there is kept, and is not complete"
    )
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_run_that_never_began_leaves_nothing_but_the_logs_of_others(tmp_path: Path) -> None:
    for name, others in (("run", ()), ("logged", ("gateway.log",))):
        writer = Writer(tmp_path / name, TEXT)
        for other in others:
            (tmp_path / name / other).write_text("why")
        writer.close(None)
        left = sorted(file.name for file in tmp_path.glob(f"{name}/*"))
        assert (left, (tmp_path / name).exists(), writer.problem) == ([*others], bool(others), "")
