"""The parts of the device kit: what a stream keeps over boots, what is fresh, the wire's form, the disk."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import cbor2
import msgspec
import numpy as np
import pytest

from penstock_gateway.wire import LatencyMs, Result
from penstock_models.errors import PenstockError, UsageError
from penstock_sim.device import Limits, tensor
from penstock_sim.device.disk import FORMAT, Disk
from penstock_sim.device.fresh import Fresh
from penstock_sim.device.kept import Kept
from penstock_sim.device.message import Frame, check, image_type, is_numbered, message
from penstock_sim.device.results import Results
from penstock_sim.device.shared import Shared
from penstock_sim.store import Receipt
from tests.fakes.powercut import PowerCutDisk

JPEG = b"\xff\xd8\xff\xe0rest"


def frame(seq: int = 0, boot: str = "new", payload: bytes = b"x" * 100, **keys: object) -> Frame:
    return msgspec.structs.replace(Frame("vib", "data", boot, seq, 1_700_000_000_000, payload), **keys)


# --- what a stream keeps


def test_an_old_boot_is_finished_before_the_next_begins() -> None:
    kept: Kept[Frame] = Kept(Limits())
    for seq in (5, 6):
        kept.add(frame(seq, "old"), sent=True)
    kept.add(frame(0, "new"))
    assert kept.take() == frame(5, "old") and kept.take() is None
    assert kept.hear(Receipt("new", 9)) == []  # of a boot that was not begun
    assert kept.hear(Receipt("other", 9)) == []
    assert kept.hear(Receipt("old", 5)) == [frame(5, "old")]
    assert kept.take() == frame(6, "old") and kept.take() is None
    assert kept.hear(Receipt("old", 6)) == [frame(6, "old")]
    assert kept.take() == frame(0, "new")
    assert len(kept) == kept.out == 1


def test_a_retained_receipt_spares_the_sending_of_what_an_earlier_run_sent() -> None:
    kept: Kept[Frame] = Kept(Limits())
    for seq in range(4):
        kept.add(frame(seq, "old"), sent=True)
    assert [f.seq for f in kept.hear(Receipt("old", 3, ((2, 2),)))] == [0, 1, 3]
    assert kept.take() == frame(2, "old") and kept.take() is None


@pytest.mark.parametrize(
    ("limits", "stays"),
    [
        (Limits(3, 1 << 20), [("new", 0), ("new", 1), ("new", 2)]),
        (Limits(100, 2 * frame().nbytes), [("new", 1), ("new", 2)]),
        (Limits(100, 2 * frame().nbytes - 1), [("new", 2)]),
        (Limits(4, 1 << 20), [("old", 1), ("new", 0), ("new", 1), ("new", 2)]),
    ],
)
def test_where_a_limit_is_reached_the_oldest_goes_and_is_counted(
    limits: Limits, stays: list[tuple[str, int]]
) -> None:
    kept: Kept[Frame] = Kept(limits)
    made = [frame(0, "old"), frame(1, "old"), frame(0), frame(1), frame(2)]
    gone = [lost for one in made for lost in kept.add(one)]
    assert gone == made[: len(made) - len(stays)]
    assert (kept.forgotten, len(kept)) == (len(gone), len(stays))
    left = [(found.boot, found.seq) for found in drain(kept)]
    assert left == stays and len(kept) == 0 and kept.has_room(frame().nbytes)


def drain(kept: Kept[Frame]) -> list[Frame]:
    """Send all of it to a gateway that answers each frame at once."""
    sent = []
    while (found := kept.take()) is not None:
        kept.posted(found)
        sent.append(found)
        assert kept.hear(Receipt(found.boot, found.seq)) == [found]
    return sent


def test_a_frame_that_cannot_be_numbered_is_let_go_once() -> None:
    kept: Kept[Frame] = Kept(Limits())
    kept.add(frame())
    assert kept.take() == frame()
    assert kept.release(frame()) and not kept.release(frame())
    assert len(kept) == 0 and kept.forgotten == 0


# --- what is fresh


def test_a_frame_that_is_too_old_is_not_sent() -> None:
    fresh: Fresh[str] = Fresh(2.0)
    fresh.put("old", 0.0)
    fresh.put("just right", 1.0)
    assert fresh.take(3.0) == "just right"
    assert fresh.stale == 1


def test_one_frame_at_a_time_is_on_its_way_and_the_newest_few_wait() -> None:
    fresh: Fresh[int] = Fresh(2.0, limit=2)
    for number in range(5):
        fresh.put(number, 0.0)
    assert (fresh.take(0.0), fresh.take(0.0)) == (3, None)
    assert (len(fresh), fresh.stale) == (2, 3)
    fresh.written()
    assert (fresh.take(0.0), len(fresh)) == (4, 1)


# --- the wire


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "int32", "int64", "float16", "float32", "float64", ">f4"])  # fmt: skip
def test_an_array_becomes_little_endian_bytes_with_shape_and_dtype(dtype: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype)
    made = tensor(array)
    read = np.frombuffer(made.data, np.dtype(array.dtype.name).newbyteorder("<")).reshape(made.sh)
    assert np.array_equal(read, array)
    assert made.dt == f"{array.dtype.kind}{8 * array.dtype.itemsize}"


def test_lists_and_single_numbers_are_tensors_too_and_texts_are_none() -> None:
    assert (tensor([[1.5, 2.5]]).sh, tensor([[1.5, 2.5]]).dt) == ((1, 2), "f64")
    assert tensor(3.5).sh == (1,)
    with pytest.raises(UsageError, match=r"expected an array of one of uint8, .* came str"):
        tensor(["a"])


def test_on_mqtt_5_number_and_form_are_user_properties() -> None:
    made = message(frame(7, dl=300, pr=9, sh=(1, 100), dt="u8"), "t", 1, 5)
    assert dict(made.user) == {
        "boot": "new", "seq": "7", "ts": "1700000000000", "dl": "300", "pr": "9", "sh": "1x100", "dt": "u8"
    }  # fmt: skip
    assert (made.payload, made.qos, made.expiry_s) == (b"x" * 100, 1, None)
    assert message(frame(), "t", 0, 5, expiry_s=2).expiry_s == 2


def test_on_3_1_1_a_tensor_goes_in_an_envelope() -> None:
    made = message(frame(7, dl=300, sh=(2, 50), dt="u8"), "t", 1, 4)
    assert made.user == ()
    assert cbor2.loads(made.payload) == {
        "v": 1, "boot": "new", "seq": 7, "ts": 1_700_000_000_000, "dl": 300, "sh": [2, 50], "dt": "u8",
        "data": b"x" * 100,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("content_type", "payload", "numbered"),
    [
        ("application/json", b'{"data": [1, 2]}', True),
        ("application/cbor", cbor2.dumps({"data": [1, 2]}), True),
        ("application/json", b"[1, 2]", False),
        ("application/json", b"{}", False),
        ("application/senml+json", b"[]", False),
        ("image/jpeg", JPEG, False),
        ("", b"raw", False),
    ],
)
def test_on_3_1_1_an_envelope_takes_the_number_in(content_type: str, payload: bytes, numbered: bool) -> None:
    sent = frame(7, payload=payload, content_type=content_type)
    assert is_numbered(sent, 5) and is_numbered(sent, 4) is numbered
    made = message(sent, "t", 1, 4).payload
    if not numbered:
        assert made == payload
    else:
        read = json.loads(made) if content_type.endswith("json") else cbor2.loads(made)
        assert read == {"boot": "new", "seq": 7, "ts": 1_700_000_000_000, "data": [1, 2]}


def test_images_are_known_and_nothing_else_is_guessed() -> None:
    assert [image_type(JPEG), image_type(b"\x89PNG..."), image_type(b"{}"), image_type(b"\xa1")] == [
        "image/jpeg", "image/png", "", ""
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"stream": "a/b"}, "expected a stream's name of 1 to 64 of A-Z a-z 0-9 _ -, came 'a/b'"),
        ({"kind": "result"}, "expected the kind frame or data, came 'result'"),
        ({"payload": b""}, "expected a frame of at least one byte for the stream 'vib', came none"),
        ({"dl": -1}, "expected deadline_ms to be 0 to 9007199254740991, came -1"),
        ({"pr": 10}, "expected priority to be 0 to 9, came 10"),
        ({"ts": -5}, "expected ts to be 0 to 9007199254740991, came -5"),
    ],
)
def test_what_a_gateway_would_refuse_is_refused_here(keys: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError) as raised:
        check(msgspec.structs.replace(frame(), **keys))
    assert str(raised.value) == said


# --- the disk


def test_frames_outlive_the_file_s_closing_in_their_order(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "new folder", "door")
    frames = [frame(seq, boot, dl=5, sh=(1, 2), dt="u8") for boot in ("z", "a") for seq in range(3)]
    for one in frames:
        disk.add(one)
    disk.remove([frames[1], frames[4]])
    disk.close()
    again = Disk(tmp_path / "new folder", "door")
    assert again.frames() == [frames[0], frames[2], frames[3], frames[5]]
    again.close()


_WRITER = """
import sys
from pathlib import Path
from penstock_sim.device.disk import Disk
from penstock_sim.device.message import Frame
disk = Disk(Path(sys.argv[1]), "door")
seq = 0
while True:
    disk.add(Frame("vib", "data", "b", seq, 0, b"x" * 1000))
    print(seq, flush=True)
    seq += 1
"""


def test_what_was_added_before_a_kill_is_there_and_in_use_means_in_use(tmp_path: Path) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert writer.stdout is not None
        added = [int(writer.stdout.readline()) for _ in range(50)]
        with pytest.raises(
            UsageError, match=r"door.kept: in use by another process: one device has one folder"
        ):
            Disk(tmp_path, "door")
    finally:
        os.kill(writer.pid, signal.SIGKILL)
        added += [int(line) for line in writer.communicate()[0].splitlines()]
    disk = Disk(tmp_path, "door")
    found = [one.seq for one in disk.frames()]
    disk.close()
    assert found[: len(added)] == added and len(found) <= len(added) + 1


@pytest.mark.system
def test_what_was_added_before_a_power_cut_is_there() -> None:
    """Also the file itself: the cut comes as early as after the first frame."""
    for least in (1, 40):
        with PowerCutDisk(16) as disk:
            command = [sys.executable, "-c", _WRITER, str(disk.path / "new" / "kept")]
            writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            try:
                assert writer.stdout is not None
                added = [int(writer.stdout.readline()) for _ in range(least)]
                writer.send_signal(signal.SIGSTOP)
                with disk.cut() as found:
                    cut = Disk(found / "new" / "kept", "door")
                    assert [one.seq for one in cut.frames()][:least] == added
                    cut.close()
            finally:
                writer.kill()
                writer.communicate()


def test_a_newer_or_a_broken_file_is_named(tmp_path: Path) -> None:
    Disk(tmp_path, "door").close()
    db = sqlite3.connect(tmp_path / "door.kept")
    db.execute(f"PRAGMA user_version = {FORMAT + 1}")
    db.close()
    with pytest.raises(UsageError, match="expected format 1 or older, came 2"):
        Disk(tmp_path, "door")
    (tmp_path / "gate.kept").write_bytes(b"no database at all" * 100)
    with pytest.raises(
        PenstockError, match=r"gate.kept: expected to keep frames there: file is not a database"
    ):
        Disk(tmp_path, "gate")
    (tmp_path / "file").write_text("")
    with pytest.raises(PenstockError, match="expected to keep frames there: File exists"):
        Disk(tmp_path / "file", "door")


def test_a_full_disk_refuses_a_frame_and_keeps_the_others(tmp_path: Path) -> None:
    disk = Disk(tmp_path, "door")
    disk.add(frame(0))
    disk._db.execute("PRAGMA max_page_count = 8")
    with pytest.raises(
        PenstockError, match=r"door.kept: expected to keep frames there: database or disk is full"
    ):
        disk.add(frame(1, payload=bytes(100_000)))
    disk.remove([frame(0)])
    disk.add(frame(2))
    assert disk.frames() == [frame(2)]
    disk.close()


# --- results


def test_only_the_newest_results_wait_and_the_others_are_counted() -> None:
    results = Results(Shared(None, 2.0).changed, limit=2)
    read = results.iterate("cam", 0.0)
    for number in range(4):
        results.take(_result(number))
    results.take(_result(9, "other"))
    assert [found.seq for found in read] == [2, 3]
    assert results.unread == 2


def test_the_iterator_ends_with_the_device_and_a_callback_that_fails_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(result: Result) -> None:
        raise RuntimeError(result.id)

    results = Results(Shared(None, 2.0).changed)
    read = results.iterate("cam", None)
    results.call("cam", fail)
    results.take(_result(0))
    results.end()
    assert [found.seq for found in read] == [0]
    assert "the callback for results of cam failed" in caplog.text


def _result(seq: int, stream: str = "cam") -> Result:
    latency = LatencyMs(0.0, 0.0, 0.0, 0.0, 0.0)
    return Result(
        id=str(seq), device="door", stream=stream, seq=seq, boot="b", ts=0, arrived=0, status="ok", reason=None,
        latency_ms=latency,
    )  # fmt: skip
