"""Every source: what its payloads hold, where it ends, and that reading ahead stays bounded and ends with its reader."""

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from penstock_models.errors import UsageError
from penstock_sim.sources import Payload, Ring
from penstock_sim.sources.ahead import read_ahead
from penstock_sim.sources.csv_device import CsvDevice, parse_time
from penstock_sim.sources.files import ImageFolder, VideoFile
from penstock_sim.sources.rings import scene_ring, vibration_ring


def picture(value: int = 90) -> np.ndarray:
    return np.full((48, 64, 3), value, dtype=np.uint8)


def decoded(payload: Payload) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(payload.data, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


def readers() -> int:
    return sum(thread.name == "read-ahead" for thread in threading.enumerate())


def test_a_scene_is_a_ring_of_jpegs_that_its_seed_decides() -> None:
    ring = scene_ring(seed=3, width=160, height=120, frames=3)
    first = list(itertools.islice(ring.payloads(), 4))
    assert ring.media_type == "image/jpeg"
    assert decoded(first[0]).shape == (120, 160, 3)
    assert first[3] is first[0]
    assert first[0].data != first[2].data
    assert [p.data for p in ring.frames] == [p.data for p in scene_ring(3, 10.0, 160, 120, 3).frames]


def test_vibration_windows_come_in_any_encoding() -> None:
    tensor, packed = vibration_ring(5, windows=2), vibration_ring(5, encoding="senml", windows=1)
    assert (tensor.media_type, packed.media_type) == ("application/x-tensor", "application/senml+json")
    assert dict(tensor.frames[0].user) == {"sh": "512", "dt": "f32"}
    assert len(tensor.frames[0].data) == 512 * 4


def test_a_ring_without_payloads_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one payload"):
        Ring("empty", "image/jpeg", 1.0, [])


def test_a_folder_gives_its_images_by_name_as_they_are_and_starts_again(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.JPEG", "c.jpg"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "notes.txt").write_text("not an image")
    folder = ImageFolder(tmp_path)
    payloads = folder.payloads()
    assert [p.data for p in itertools.islice(payloads, 4)] == [b"a.JPEG", b"b.jpg", b"c.jpg", b"a.JPEG"]
    assert folder.media_type == "image/jpeg"
    (tmp_path / "d.png").write_bytes(b"d")
    assert ImageFolder(tmp_path).media_type == ""


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="found none"):
        ImageFolder(tmp_path)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve frames at 12.5 per second, each of one grey that is ten brighter than the last."""
    file = tmp_path_factory.mktemp("video") / "clip.avi"
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"MJPG"), 12.5, (64, 48))
    for number in range(12):
        writer.write(picture(number * 10))
    writer.release()
    return file


@pytest.mark.parametrize(("step", "greys", "rate"), [(1, range(0, 120, 10), 12.5), (5, (0, 50, 100), 2.5)])
def test_a_video_is_sent_once_at_its_own_rate(
    video: Path, step: int, greys: Iterator[int], rate: float
) -> None:
    source = VideoFile(video, step=step)
    images = [decoded(p) for p in source.payloads()]
    assert source.rate_hz == pytest.approx(rate)
    assert [image.mean() for image in images] == pytest.approx(list(greys), abs=3)


def test_what_is_not_a_video_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="OpenCV can read"):
        VideoFile(tmp_path / "missing.mp4")


@pytest.mark.parametrize("step", [0, -1])
def test_a_step_below_one_frame_is_refused(video: Path, step: int) -> None:
    with pytest.raises(UsageError, match=f"a step of 1 frame or more .*, got {step}"):
        VideoFile(video, step=step)


def table(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    file = folder / "device.csv"
    file.write_text(text, encoding=encoding)
    return file


@pytest.mark.parametrize(
    ("size", "hop", "windows"),
    [
        (2, None, [[1, 2], [3, 4]]),
        (2, 1, [[1, 2], [2, 3], [3, 4], [4, 5]]),
        (1, 3, [[1], [4]]),
        (6, None, []),
    ],
)
def test_csv_rows_become_windows(
    tmp_path: Path, size: int, hop: int | None, windows: list[list[int]]
) -> None:
    file = table(tmp_path, "t,x\n" + "".join(f"{n},{n}\n" for n in range(1, 6)))
    payloads = list(CsvDevice(file, size, hop, timestamp="t").payloads())
    assert [np.frombuffer(p.data, "<f4").tolist() for p in payloads] == windows
    assert [p.ts for p in payloads] == [window[-1] * 1000 for window in windows]
    assert all(dict(p.user)["sh"] == f"{size}x1" for p in payloads)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x,y\n1,2\n3\n", "device.csv:3: expected 2 cells, got 1"),
        ("x,y\n1,warm\n", "device.csv:2: .*warm"),
        ("t,y\ninf,1\n", "device.csv:2: .*the time inf"),
        ("t,y\n1,1\n1e400,1\n", "device.csv:3: .*the time 1e400"),
        ("t,y\n-1e16,1\n", "device.csv:2: .*the time -1e16"),
        ("t,y\nnan,1\n", "device.csv:2: .*the time nan"),
    ],
)
def test_a_bad_row_is_named_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        file = table(tmp_path, text)
        list(CsvDevice(file, 1, timestamp="t" if text.startswith("t") else None).payloads())


@pytest.mark.parametrize("text", ["Zeit,Wärme\n1,2\n", "t,x\n1,zwölf\n"])
def test_text_that_is_not_utf_8_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match=r"UTF-8 text in .*device.csv, got .*byte 0x"):
        list(CsvDevice(table(tmp_path, text, "latin-1"), 1).payloads())


def test_a_byte_order_mark_hides_no_column(tmp_path: Path) -> None:
    device = CsvDevice(table(tmp_path, "t,x\n7,1\n", "utf-8-sig"), 1, timestamp="t")
    assert [p.ts for p in device.payloads()] == [7000]


@pytest.mark.parametrize(("size", "hop"), [(0, None), (-1, None), (0, 1), (2, 0), (2, -1)])
def test_a_window_or_hop_without_rows_is_refused(tmp_path: Path, size: int, hop: int | None) -> None:
    with pytest.raises(UsageError, match="a hop of at least 1 row"):
        CsvDevice(table(tmp_path, "x\n1\n"), size, hop)


@pytest.mark.parametrize(
    ("text", "column", "words"),
    [
        ("x,y\n", "when", "column 'when'"),
        ("", None, "distinct column names"),
        ("x,x\n", None, "distinct column names"),
    ],
)
def test_a_wrong_header_is_refused_at_once(tmp_path: Path, text: str, column: str | None, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        CsvDevice(table(tmp_path, text), 1, timestamp=column)
    with pytest.raises(UsageError, match="expected a CSV file"):
        CsvDevice(tmp_path / "none.csv", 1)


@pytest.mark.parametrize(
    ("text", "epoch_ms"),
    [
        ("1970-01-02 00:00:00", 86_400_000),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1700000000", 1_700_000_000_000),
        ("1700000000.25", 1_700_000_000_250),
        ("1700000000000", 1_700_000_000_000),
    ],
)
def test_times_are_read_as_epoch_milliseconds(text: str, epoch_ms: int) -> None:
    assert parse_time(text) == epoch_ms


def test_a_real_series_reads_whole(realdata: Path) -> None:
    file = realdata / "sensor" / "nab" / "ambient_temperature_system_failure.csv"
    payloads = list(CsvDevice(file, 24, timestamp="timestamp").payloads())
    assert len(payloads) == 7267 // 24
    assert payloads[0].ts == parse_time("2013-07-04 23:00:00")


def test_a_real_video_plays_at_its_rate(realdata: Path) -> None:
    source = VideoFile(realdata / "video" / "one-by-one-person-detection.mp4")
    payloads = source.payloads()
    image = decoded(next(payloads))
    payloads.close()  # type: ignore[attr-defined]  # every source that reads ahead gives a generator
    assert source.rate_hz == pytest.approx(10.0)
    assert image.shape == (432, 768, 3)


def test_reading_ahead_is_bounded_and_ends_with_its_reader() -> None:
    pulled = threading.Semaphore(0)
    count = itertools.count()

    def endless() -> Iterator[int]:
        for number in count:
            pulled.release()
            yield number

    before = readers()
    ahead = read_ahead(endless(), depth=4)
    assert next(ahead) == 0
    for _ in range(5):
        assert pulled.acquire(timeout=5)
    assert not pulled.acquire(timeout=0.05), "the reader pulled more than it may keep"
    ahead.close()
    assert readers() == before


def test_an_error_while_reading_ahead_comes_where_its_item_would_have() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise UsageError("row 2 is wrong")

    ahead = read_ahead(broken(), depth=4)
    assert next(ahead) == 1
    with pytest.raises(UsageError, match="row 2 is wrong"):
        next(ahead)
