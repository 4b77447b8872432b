"""Scenes: any frame is a pure function of (seed, n), and the truth is what can be seen."""

import time

import numpy as np
import pytest

from penstock_sim.sources import _scene_art as art
from penstock_sim.sources import _scene_timeline as timeline
from penstock_sim.sources.scenes import LABELS, Scene, visible

NOTHING = np.empty((0, 4), np.float32)


def test_a_frame_depends_on_seed_and_number_alone() -> None:
    straight, jumping = Scene(7), Scene(7)
    shown = [straight.frame(n) for n in range(5)]
    again = [jumping.frame(n) for n in (4, 0, 2)]
    for n, frame in zip((4, 0, 2), again, strict=True):
        assert np.array_equal(shown[n].image, frame.image)
        assert shown[n].boxes == frame.boxes


def test_other_seeds_and_numbers_give_other_pictures() -> None:
    first = Scene(1).frame(0).image
    assert not np.array_equal(first, Scene(1).frame(1).image)
    assert np.mean(abs(first.astype(int) - Scene(2).frame(0).image)) > 10


@pytest.mark.parametrize(("width", "height"), [(640, 480), (320, 240), (1280, 720), (161, 97)])
def test_a_scene_is_drawn_at_any_size_with_the_same_truth(width: int, height: int) -> None:
    frame = Scene(3, width, height).frame(40)
    assert frame.image.shape == (height, width, 3)
    assert frame.image.dtype == np.uint8
    assert frame.boxes == Scene(3).frame(40).boxes


@pytest.mark.parametrize(("seed", "width", "height"), [(-1, 640, 480), (0, 15, 480), (0, 640, 5000)])
def test_a_wrong_seed_or_size_is_refused(seed: int, width: int, height: int) -> None:
    with pytest.raises(ValueError, match="expected seed"):
        Scene(seed, width, height)


def test_boxes_are_normalised_and_every_label_appears() -> None:
    boxes = [box for seed in range(12) for n in (0, 5000) for box in Scene(seed, 160, 120).frame(n).boxes]
    assert {box.label for box in boxes} == set(LABELS)
    for box in boxes:
        x0, y0, x1, y1 = box.box
        assert 0 <= x0 < x1 <= 1
        assert 0 <= y0 < y1 <= 1


def test_actors_move_smoothly_and_leave() -> None:
    seen = {a for n in range(0, 2000, 50) for a in timeline.actors(5, n)}
    assert len(seen) > 5
    for actor in seen:
        xs = np.array([actor.x(n) for n in range(actor.born, actor.born + actor.life)])
        steps = np.diff(xs) * np.sign(actor.velocity)
        assert steps.min() >= 0
        assert steps.max() < 15
        assert not -100 < actor.x(actor.born) < timeline.WIDTH + 100
        assert not any(a == actor for a in timeline.actors(5, actor.born + actor.life))


def test_the_drawn_thing_lies_in_its_box() -> None:
    """A thing that is painted alone changes pixels inside its box only, and reaches all four sides of it."""
    look = art.PersonLook((0, 0, 255), (255, 0, 0), (0, 255, 0))
    for parts in (
        art.person(200.3, 300.0, 150.0, 1.0, 1, look),
        art.forklift(300.0, 310.0, 180.0, 0.3, -1, (40, 170, 240), look),
        art.parcel(250.0, 280.0, 70.0, 60.0, (90, 130, 180), (10, 10, 10)),
    ):
        image = np.full((480, 640, 3), 77, np.uint8)
        art.paint(image, parts, (1.0, 1.0))
        rows, columns = np.nonzero((image != 77).any(axis=2))
        drawn = (columns.min(), rows.min(), columns.max(), rows.max())
        assert np.allclose(drawn, art.extent(art.part_rects(parts)), atol=2)


@pytest.mark.parametrize(
    ("rect", "nearer", "expected"),
    [
        ((100, 100, 200, 200), [], 1.0),
        ((-50, 100, 50, 200), [], 0.5),
        ((700, 100, 800, 200), [], 0.0),
        ((100, 100, 200, 200), [(100, 100, 150, 200)], 0.5),
        ((100, 100, 200, 200), [(0, 0, 300, 150), (0, 150, 300, 300)], 0.0),
    ],
)
def test_visible_part(
    rect: tuple[float, float, float, float], nearer: list[tuple[float, ...]], expected: float
) -> None:
    rects = np.array(nearer, np.float32) if nearer else NOTHING
    assert visible(rect, rects) == pytest.approx(expected, abs=0.05)


def test_light_drifts_and_noise_stays_small() -> None:
    scene = Scene(9)
    wall = [scene.frame(n).image[:60].astype(float) for n in (0, 1, 700)]
    assert 0.5 < abs(wall[1] - wall[0]).mean() < 15
    assert len({round(float(w.mean())) for w in wall}) > 1


def test_a_frame_takes_a_few_milliseconds() -> None:
    scene = Scene(4)
    best = min(_timed(scene, n) for n in range(30))
    assert best < 0.03


def _timed(scene: Scene, n: int) -> float:
    begun = time.perf_counter()
    scene.frame(n)
    return time.perf_counter() - begun
