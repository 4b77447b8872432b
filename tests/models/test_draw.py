"""Drawing: legible at any size of the picture, in place, and never a crash."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from penstock_models.draw import MIN_SIDE, annotate, save, save_all
from penstock_models.errors import UsageError
from penstock_models.items import Anomaly, Answer, Class, Detection, OutputTensor, Refusal

GREY = (90, 90, 90)
ONE = Answer(detections=(Detection((0.25, 0.5, 0.75, 0.9), 0.91, "dog"),))


def picture(width: int, height: int, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), GREY).save(file, kind, **options)
    return file.getvalue()


def changed(image: Image.Image) -> Any:
    """Where the picture is not grey any more."""
    return (np.asarray(image).astype(int) - np.array(GREY) != 0).any(axis=2)


@pytest.mark.parametrize("size", [(1, 1), (32, 32), (96, 640), (640, 480), (1920, 1080), (4000, 300)])
def test_draws_on_any_size(size: tuple[int, int]) -> None:
    image = annotate(picture(*size), ONE)
    assert max(image.size) >= MIN_SIDE
    assert changed(image).any()


def test_a_box_is_drawn_where_it_is() -> None:
    found = changed(annotate(picture(1000, 1000), ONE))
    assert found[700, 252] and found[700, 748] and found[898, 500]
    assert not found[700, 500], "the inside of a box stays visible"
    assert not found[950:, :].any() and not found[:, 800:].any()


def test_letters_are_legible() -> None:
    """A label's plate has dark letters on a light colour or the reverse, at least 12 pixels high."""
    found = changed(annotate(picture(960, 720), ONE))
    rows = np.flatnonzero(found[:, 245:280].all(axis=1))
    assert len(rows) >= 12


def test_labels_of_equal_boxes_do_not_cover_each_other() -> None:
    twin = Detection((0.25, 0.5, 0.75, 0.9), 0.8, "cat")
    one = changed(annotate(picture(960, 720), ONE)).sum()
    both = changed(annotate(picture(960, 720), Answer(detections=(*(ONE.detections or ()), twin)))).sum()
    assert both > one + 500


def test_boxes_beyond_the_picture_are_clipped() -> None:
    wild = Answer(
        detections=(Detection((-3.0, -1.0, 9.0, 2.0), 0.5, "x" * 300), Detection((1, 1, 1, 1), 0.5, ""))
    )
    assert annotate(picture(300, 200), wild).size == (960, 640)


def test_a_label_keeps_its_colour() -> None:
    """The plate's colour belongs to the label, not to the order of the boxes."""

    def colour(label: str, x: float) -> tuple[int, int, int]:
        image = annotate(
            picture(1000, 1000), Answer(detections=(Detection((x, 0.5, x + 0.2, 0.9), 0.9, label),))
        )
        values = np.asarray(image)[700, int(x * 1000) : int(x * 1000) + 8]
        return max((int(r), int(g), int(b)) for r, g, b in values)

    assert colour("dog", 0.1) == colour("dog", 0.6) != colour("person", 0.1)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(classes=(Class("macaw", 88, 0.99), Class("", 3, 0.01))),
        Answer(classes=()),
        Answer(anomaly=Anomaly(12.5)),
        Answer(anomaly=Anomaly(12.5, 10.0)),
        Answer(outputs={"y": OutputTensor("float32", (1, 2), bytes(8))}),
    ],
)
def test_other_answers_stand_at_the_upper_left(answer: Answer) -> None:
    found = changed(annotate(picture(960, 720), answer))
    assert found[2:10, 2:200].any()
    assert not found[400:, :].any()


def test_classes_without_a_score_to_speak_of_do_not_cover_the_picture() -> None:
    def rows(*scores: float) -> int:
        answer = Answer(classes=tuple(Class("x", i, score) for i, score in enumerate(scores)))
        return int(changed(annotate(picture(960, 720), answer)).any(axis=1).sum())

    assert rows(0.9, 0.004, 0.0) == rows(0.9)
    assert rows(0.004, 0.003) == rows(0.004) > 0, "the best one stays"
    assert rows(0.5, 0.02) > rows(0.5)


def test_a_16_bit_picture_keeps_its_greys() -> None:
    file = io.BytesIO()
    Image.fromarray(np.full((640, 960), 0x5A5A, np.uint16)).save(file, "PNG")
    assert annotate(file.getvalue(), ONE).getpixel((5, 5)) == GREY


def test_draws_on_the_upright_picture() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert annotate(picture(800, 600, "JPEG", exif=exif), ONE).size == (720, 960)


def test_saves_one_picture_to_a_path_and_several_to_a_folder(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes(picture(64, 64))
    pairs = [(tmp_path / "a.png", ONE), (tmp_path / "b.png", ONE)]
    save_all(pairs[:1], tmp_path / "out.jpg")
    assert (tmp_path / "out.jpg").read_bytes().startswith(b"\xff\xd8\xff")
    save_all([*pairs, (tmp_path / "c.png", Refusal("rejected", "decode"))], tmp_path / "many")
    assert sorted(p.name for p in (tmp_path / "many").iterdir()) == ["000-a.png", "001-b.png"]


def test_what_cannot_be_drawn_or_saved_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a picture"):
        annotate(b"no picture", ONE)
    with pytest.raises(UsageError, match=r"out\.png"):
        save(picture(8, 8), ONE, tmp_path / "out.what")
