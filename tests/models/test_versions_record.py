"""The record of versions and labels, on real disks: kills at any point, files that somebody wrote in."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from penstock_models.versions.record import ModelRecord, Moved, Record, RecordFile, Served

MOVED = {"stable": Moved(3, 2), "old": Moved(0)}
RECORD = Record({"person": ModelRecord((Served(3, "sha256:ab", "cd"),), {"stable": 3}, MOVED)})


def test_a_record_comes_back(tmp_path: Path) -> None:
    file = RecordFile(tmp_path / "state" / "versions.json")
    assert file.load() == (Record(), "")
    file.save(RECORD)
    assert file.load() == (RECORD, "")
    file.save(Record())
    assert file.load() == (Record(), "")
    assert [p.name for p in (tmp_path / "state").iterdir()] == ["versions.json"]


def test_drafts_of_killed_writers_go_once_they_are_old(tmp_path: Path) -> None:
    file = RecordFile(tmp_path / "versions.json")
    old, young = (tmp_path / f".versions.json.{number:08x}.tmp" for number in range(2))
    for draft in (old, young):
        draft.write_text("half")
    os.utime(old, (0, 0))
    (tmp_path / ".other.tmp").write_text("somebody else's")
    assert file.load() == (Record(), "")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.tmp", young.name]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "labels start anew"),
        (b'{"v":1,"models":{"person":{"served":[{"ver', "labels start anew"),
        (b'{"v":1,"models":{"person":{"labels":{"stable":"x"}}}}', r"\$\.models"),
        (b"\xff\xfe", "labels start anew"),
        (b'{"v":2,"models":{}}', "format v 2, this penstock reads up to v 1"),
        (b"[]", "labels start anew"),
    ],
)
def test_a_bad_record_is_named_and_left_out(tmp_path: Path, data: bytes, expected: str) -> None:
    file = RecordFile(tmp_path / "versions.json")
    (tmp_path / "versions.json").write_bytes(data)
    found, problem = file.load()
    assert found == Record()
    assert re.search(expected, problem)
    file.save(RECORD)
    assert file.load() == (RECORD, "")


def test_unknown_keys_of_a_record_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "versions.json").write_bytes(
        b'{"v":1,"more":2,"models":{"a":{"labels":{"stable":4},"extra":{}}}}'
    )
    assert RecordFile(tmp_path / "versions.json").load() == (
        Record({"a": ModelRecord(labels={"stable": 4})}),
        "",
    )


KILLED = """
import sys
from pathlib import Path
from penstock_models.versions.record import ModelRecord, Record, RecordFile
file = RecordFile(Path(sys.argv[1]))
print("ready", flush=True)
for turn in range(1, 10**9):
    file.save(Record({f"model-{i}": ModelRecord(labels={"stable": turn}) for i in range(200)}))
"""


def test_a_kill_leaves_the_old_record_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "versions.json"
    for _ in range(4):
        writer = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE)
        assert writer.stdout is not None and writer.stdout.readline() == b"ready\n"
        first: Any = path.stat().st_ino if path.exists() else 0
        while not path.exists() or path.stat().st_ino == first:
            pass
        writer.kill()
        writer.wait()
        writer.stdout.close()
        found, problem = RecordFile(path).load()
        assert problem == "" and len(found.models) == 200
        assert len({model.labels["stable"] for model in found.models.values()}) == 1
