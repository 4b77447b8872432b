"""Synthetic camera pictures of a loading yard, with the boxes that are true in them.

`Scene(seed).frame(n)` is a pure function of (seed, n): people, parcels and forklifts come, move and go before a textured
wall and floor, in drifting light, with shadows, noise and things that stand in the way. Encoding a picture and sending
it are left to the publisher.
"""

from __future__ import annotations

import math

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock_sim.sources import _scene_art as art
from penstock_sim.sources import _scene_timeline as timeline
from penstock_sim.sources._scene_backdrop import backdrop
from penstock_sim.sources._scene_timeline import HEIGHT, WIDTH, Thing
from penstock_sim.sources.source import Box

LABELS = ("person", "parcel", "forklift")

_MIN_VISIBLE = 0.35  # a thing of which less can be seen is not in the truth
_NOISE_PAD = 64
_MAX_SIDE = 4096
_NOTHING = np.empty((0, 4), np.float32)

Image = NDArray[np.uint8]


class Frame(msgspec.Struct, frozen=True):
    """`image` is uint8 BGR (height, width, 3); `boxes` are its ground truth, the farthest first."""

    image: Image
    boxes: tuple[Box, ...]


class Scene:
    """One camera's view of a yard.

    Args:
        seed: ≥ 0; decides everything. Training uses seeds below 1,000,000 (`models/recipes`).
        width, height: pixels, 16 to 4096; the yard is drawn at this size, not scaled from another.

    Raises:
        ValueError: a seed or a size outside those ranges.
    """

    def __init__(self, seed: int, width: int = 640, height: int = 480) -> None:
        if seed < 0 or not (16 <= width <= _MAX_SIDE and 16 <= height <= _MAX_SIDE):
            raise ValueError(
                f"expected seed >= 0 and sides of 16..{_MAX_SIDE}, got {seed}, {width} x {height}"
            )
        self.seed, self.width, self.height = seed, width, height
        rng = np.random.default_rng((seed, 0))
        self._scale = (width / WIDTH, height / HEIGHT)
        self._zoom = float(rng.uniform(0.85, 1.15))
        self._sun = float(rng.uniform(-1, 1))
        self._light = (
            float(rng.uniform(0.55, 1.05)),
            float(rng.uniform(0, 2 * math.pi)),
            float(rng.uniform(-1, 1)),
        )
        # Generators of their own: how much they draw depends on the size, and the truth must not.
        self._backdrop, self._lamps = backdrop(np.random.default_rng((seed, 5)), width, height)
        self._scenery = _scenery(rng, self._zoom)
        sigma = rng.uniform(2.0, 7.0)
        shape = (height + _NOISE_PAD, width + _NOISE_PAD, 3)
        grain = np.random.default_rng((seed, 6)).standard_normal(shape, np.float32)
        self._noise = np.rint(grain * sigma).astype(np.int16)

    def frame(self, n: int) -> Frame:
        """The picture and the truth at frame n ≥ 0 (a demo shows 10 to 15 a second). Takes a few milliseconds."""
        found = [t for actor in timeline.actors(self.seed, n) for t in timeline.things(actor, n, self._zoom)]
        found = sorted([*found, *self._scenery], key=lambda t: t.ground)
        rects = [art.part_rects(t.parts) for t in found]
        image = self._backdrop.copy()
        for thing, rect in zip(found, rects, strict=True):
            _shadow(image, art.extent(rect), self._sun, self._scale)
            art.paint(image, thing.parts, self._scale)
        return Frame(self._lit(image, n), _truth(found, rects))

    def _lit(self, image: Image, n: int) -> Image:
        """Lamps and daylight (level and colour drift over minutes, flicker is per frame), then the sensor's noise."""
        rng = np.random.default_rng((self.seed, 4, n))
        base, phase, warmth = self._light
        level = base + 0.18 * math.sin(2 * math.pi * n / 1500 + phase) + float(rng.normal(0, 0.006))
        warmth = 0.12 * (warmth + 0.4 * math.sin(2 * math.pi * n / 2300 + phase))
        gains = level * np.array([1 - warmth, 1.0, 1 + warmth])
        ramp = np.arange(256, dtype=np.float64)[:, None] * gains
        table = np.clip(np.rint(ramp), 0, 255).astype(np.uint8)[None]
        lit = cv2.LUT(cv2.multiply(image, self._lamps, scale=1 / 170), table)
        y, x = (int(v) for v in rng.integers(0, _NOISE_PAD, 2))
        noise = self._noise[y : y + self.height, x : x + self.width]
        return np.asarray(cv2.add(lit, noise, dtype=cv2.CV_8U), np.uint8)


def _scenery(rng: np.random.Generator, zoom: float) -> list[Thing]:
    """What always stands there: a few labelled parcels, and unlabelled barrels, cones and guard posts."""
    found: list[Thing] = []
    for _ in range(int(rng.integers(0, 3))):
        found.append(timeline.standing_parcel(*_place(rng), zoom, rng))
    for _ in range(int(rng.integers(0, 3))):
        x, ground = _place(rng)
        colour = ((150, 90, 40), (60, 60, 170), (70, 110, 60))[int(rng.integers(3))]
        width = 62 * zoom * timeline.depth_scale(ground)
        found.append(Thing(None, art.barrel(x, ground, width, colour), ground))
    for _ in range(int(rng.integers(0, 4))):
        x, ground = _place(rng)
        found.append(Thing(None, art.cone(x, ground, 58 * zoom * timeline.depth_scale(ground)), ground))
    for _ in range(int(rng.integers(1, 4))):
        x, ground = float(rng.uniform(20, WIDTH - 20)), float(rng.uniform(330, 479))
        scale = timeline.depth_scale(ground)
        height = float(rng.uniform(90, 240)) * scale
        found.append(Thing(None, art.post(x, ground, 20 * scale, height, (40, 200, 240)), ground))
    return found


def _place(rng: np.random.Generator) -> tuple[float, float]:
    return float(rng.uniform(0, WIDTH)), float(rng.uniform(250, 470))


def _truth(found: list[Thing], rects: list[art.Rects]) -> tuple[Box, ...]:
    limit = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT])
    boxes = []
    for i, thing in enumerate(found):
        if thing.label is None:
            continue
        whole, nearer = art.extent(rects[i]), np.concatenate([_NOTHING, *rects[i + 1 :]])
        if visible(whole, nearer) >= _MIN_VISIBLE:
            x0, y0, x1, y1 = (float(v) for v in np.clip(np.array(whole) / limit, 0, 1))
            boxes.append(Box(thing.label, (x0, y0, x1, y1)))
    return tuple(boxes)


def visible(rect: art.Rect, nearer: art.Rects) -> float:
    """The part (0..1) of `rect` inside the picture and outside every nearer rectangle, on a grid of 12 × 12 points."""
    steps = (np.arange(12) + 0.5) / 12
    x = (rect[0] + steps * (rect[2] - rect[0]))[None, :, None]
    y = (rect[1] + steps * (rect[3] - rect[1]))[:, None, None]
    seen = (x >= 0) & (x < WIDTH) & (y >= 0) & (y < HEIGHT)
    hidden = (x >= nearer[:, 0]) & (y >= nearer[:, 1]) & (x < nearer[:, 2]) & (y < nearer[:, 3])
    return float((seen[..., 0] & ~hidden.any(axis=2)).mean())


def _soft_ellipse() -> Image:
    """A shadow's stencil: 255 outside, darker towards the middle."""
    y, x = np.mgrid[-1:1:32j, -1:1:64j]
    depth = np.clip(1 - np.hypot(x, y), 0, 1) ** 0.6
    return np.repeat((255 - 130 * depth).astype(np.uint8)[..., None], 3, axis=2)


_SHADOW = _soft_ellipse()


def _shadow(image: Image, rect: art.Rect, sun: float, scale: tuple[float, float]) -> None:
    """Darken the ground beside a thing, on the side away from the sun (−1 left … 1 right)."""
    x0, _, x1, ground = rect
    reach = 0.35 * (x1 - x0)
    left = round((x0 - reach * max(0.2, 1 + sun)) * scale[0])
    right = round((x1 + reach * max(0.2, 1 - sun)) * scale[0])
    top, bottom = (
        round((ground - 0.12 * (x1 - x0) - 4) * scale[1]),
        round((ground + 0.12 * (x1 - x0) + 4) * scale[1]),
    )
    height, width = image.shape[:2]
    x, y = slice(max(left, 0), min(right, width)), slice(max(top, 0), min(bottom, height))
    if x.stop <= x.start or y.stop <= y.start:
        return
    stencil = cv2.resize(_SHADOW, (right - left, bottom - top))
    part = stencil[y.start - top : y.stop - top, x.start - left : x.stop - left]
    image[y, x] = cv2.multiply(image[y, x], part, scale=1 / 255)
