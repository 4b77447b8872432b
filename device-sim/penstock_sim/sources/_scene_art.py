"""How the things of the yard look: each is a list of filled polygons, and its box follows from their points.

Pure geometry in yard units (640 × 480, y grows downwards, the ground line of a thing is its largest y) except `paint`,
which draws. Where things are and when is left to `_scene_timeline`, light and ground truth to `scenes`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

Colour = tuple[int, int, int]
Points = NDArray[np.float32]
Rects = NDArray[np.float32]
Rect = tuple[float, float, float, float]

_SHIFT = 4  # cv2 takes fixed-point coordinates with this many fractional bits
_ROUND = [(math.cos(a), math.sin(a)) for a in np.linspace(0.0, 2 * math.pi, 14, endpoint=False)]
_TYRE, _STEEL, _SKIN = (38, 38, 40), (70, 72, 76), (130, 165, 205)


class Part(msgspec.Struct, frozen=True):
    """One filled convex polygon: `points` float32 (n, 2) in yard units, `colour` BGR."""

    points: Points
    colour: Colour


class PersonLook(msgspec.Struct, frozen=True):
    vest: Colour
    trousers: Colour
    helmet: Colour


def tint(colour: Colour, factor: float) -> Colour:
    """The colour made darker (factor < 1) or lighter, kept within 0..255."""
    blue, green, red = (min(255, max(0, round(c * factor))) for c in colour)
    return blue, green, red


def polygon(colour: Colour, *points: tuple[float, float]) -> Part:
    return Part(np.array(points, np.float32), colour)


def bar(colour: Colour, x0: float, y0: float, x1: float, y1: float) -> Part:
    return polygon(colour, (x0, y0), (x1, y0), (x1, y1), (x0, y1))


def disc(colour: Colour, x: float, y: float, radius: float, flat: float = 1.0) -> Part:
    return polygon(colour, *((x + radius * c, y + radius * flat * s) for c, s in _ROUND))


def limb(colour: Colour, start: tuple[float, float], end: tuple[float, float], width: float) -> Part:
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = math.hypot(dx, dy) or 1.0
    nx, ny = -dy / length * width / 2, dx / length * width / 2
    return polygon(
        colour,
        (start[0] + nx, start[1] + ny),
        (end[0] + nx, end[1] + ny),
        (end[0] - nx, end[1] - ny),
        (start[0] - nx, start[1] - ny),
    )


def person(x: float, ground: float, height: float, phase: float, facing: int, look: PersonLook) -> list[Part]:
    """A walking figure in profile; `phase` of the stride in radians, `facing` +1 to the right, −1 to the left."""
    h, swing = height, math.sin(phase)
    hip, shoulder = (x, ground - 0.47 * h), (x, ground - 0.79 * h)
    near_foot = (x + 0.15 * h * swing, ground - 0.02 * h * max(0.0, math.cos(phase)))
    far_foot = (x - 0.15 * h * swing, ground - 0.02 * h * max(0.0, -math.cos(phase)))
    near_hand = (x - 0.12 * h * swing + 0.03 * h * facing, ground - 0.47 * h)
    far_hand = (x + 0.12 * h * swing + 0.03 * h * facing, ground - 0.47 * h)
    return [
        limb(tint(look.vest, 0.6), shoulder, far_hand, 0.06 * h),
        limb(tint(look.trousers, 0.7), hip, far_foot, 0.085 * h),
        limb(look.trousers, hip, near_foot, 0.09 * h),
        polygon(
            look.vest,
            (x - 0.10 * h, shoulder[1] - 0.03 * h),
            (x + 0.10 * h, shoulder[1] - 0.03 * h),
            (x + 0.085 * h, hip[1] + 0.03 * h),
            (x - 0.085 * h, hip[1] + 0.03 * h),
        ),
        bar((190, 215, 215), x - 0.09 * h, ground - 0.64 * h, x + 0.09 * h, ground - 0.60 * h),
        limb(tint(look.vest, 0.85), (x, shoulder[1] + 0.02 * h), near_hand, 0.055 * h),
        disc(_SKIN, x + 0.012 * h * facing, ground - 0.885 * h, 0.058 * h, 1.15),
        polygon(
            look.helmet,
            (x - 0.075 * h, ground - 0.905 * h),
            (x - 0.06 * h, ground - 0.97 * h),
            (x, ground - h),
            (x + 0.06 * h, ground - 0.97 * h),
            (x + 0.075 * h + 0.02 * h * facing, ground - 0.905 * h),
        ),
    ]


def parcel(x: float, ground: float, width: float, height: float, colour: Colour, tape: Colour) -> list[Part]:
    """A box seen a little from above: front, top and right side, a strip of tape and an address label."""
    x0, x1, top = x - width / 2, x + width / 2, ground - height
    depth_x, depth_y = 0.22 * width, 0.16 * width
    return [
        bar(colour, x0, top, x1, ground),
        polygon(
            tint(colour, 1.2),
            (x0, top),
            (x1, top),
            (x1 + depth_x, top - depth_y),
            (x0 + depth_x, top - depth_y),
        ),
        polygon(
            tint(colour, 0.7),
            (x1, top),
            (x1 + depth_x, top - depth_y),
            (x1 + depth_x, ground - depth_y),
            (x1, ground),
        ),
        bar(tape, x - 0.07 * width, top, x + 0.07 * width, ground),
        bar((225, 228, 230), x0 + 0.08 * width, top + 0.15 * height, x0 + 0.33 * width, top + 0.42 * height),
    ]


def forklift(
    x: float, ground: float, size: float, phase: float, facing: int, paint_colour: Colour, driver: PersonLook
) -> list[Part]:
    """A truck of about `size` × 0.85 `size`; its forks point where it faces, `phase` turns the wheels."""

    def at(u: float, v: float) -> tuple[float, float]:
        return x + facing * u * size, ground - v * size

    def block(colour: Colour, u0: float, v0: float, u1: float, v1: float) -> Part:
        return polygon(colour, at(u0, v0), at(u1, v0), at(u1, v1), at(u0, v1))

    def wheel(u: float, radius: float) -> list[Part]:
        cx, cy = at(u, radius)
        spoke = (cx + 0.5 * radius * size * math.cos(phase), cy + 0.5 * radius * size * math.sin(phase))
        return [
            disc(_TYRE, cx, cy, radius * size),
            disc((120, 124, 128), cx, cy, 0.5 * radius * size),
            limb(_TYRE, (cx, cy), spoke, 0.05 * size),
        ]

    frame = tint(paint_colour, 0.45)
    return [
        block(_STEEL, 0.20, 0.06, 0.52, 0.025),
        block(tint(driver.vest, 0.9), -0.16, 0.36, -0.02, 0.60),
        disc(_SKIN, *at(-0.08, 0.655), 0.05 * size, 1.1),
        polygon(driver.helmet, at(-0.15, 0.67), at(-0.12, 0.73), at(-0.04, 0.73), at(-0.01, 0.67)),
        polygon(
            paint_colour,
            at(-0.46, 0.08),
            at(-0.48, 0.36),
            at(-0.40, 0.43),
            at(-0.18, 0.43),
            at(-0.06, 0.30),
            at(0.20, 0.28),
            at(0.20, 0.08),
        ),
        polygon(tint(paint_colour, 0.75), at(-0.46, 0.08), at(-0.47, 0.18), at(0.20, 0.18), at(0.20, 0.08)),
        limb(frame, at(-0.36, 0.42), at(-0.27, 0.84), 0.03 * size),
        limb(frame, at(0.13, 0.28), at(0.06, 0.84), 0.03 * size),
        block(frame, -0.30, 0.82, 0.10, 0.86),
        block(_STEEL, 0.19, 0.05, 0.225, 0.85),
        block(tint(_STEEL, 1.4), 0.245, 0.05, 0.27, 0.80),
        *wheel(-0.30, 0.11),
        *wheel(0.08, 0.13),
    ]


def trolley(x: float, ground: float, length: float, height: float, facing: int) -> list[Part]:
    """A flat cart with a handle at its back end."""
    back = x - facing * length / 2
    deck = ground - 0.12 * height
    return [
        limb(_STEEL, (back, deck), (back - facing * 0.08 * length, ground - height), 0.05 * height),
        bar((95, 98, 104), x - length / 2, deck - 0.05 * height, x + length / 2, deck + 0.03 * height),
        disc(_TYRE, x - 0.36 * length, ground - 0.07 * height, 0.07 * height),
        disc(_TYRE, x + 0.36 * length, ground - 0.07 * height, 0.07 * height),
    ]


def post(x: float, ground: float, width: float, height: float, colour: Colour) -> list[Part]:
    """A striped guard post."""
    step = height / 8
    bands = [
        bar(
            colour if i % 2 else tint(_TYRE, 0.9),
            x - width / 2,
            ground - (i + 1) * step,
            x + width / 2,
            ground - i * step,
        )
        for i in range(8)
    ]
    return [*bands, disc(tint(colour, 0.8), x, ground - height, width / 2, 0.5)]


def barrel(x: float, ground: float, width: float, colour: Colour) -> list[Part]:
    """A drum: close to a parcel in size, and none."""
    height = 1.35 * width
    return [
        disc(tint(colour, 0.7), x, ground, width / 2, 0.3),
        bar(colour, x - width / 2, ground - height, x + width / 2, ground),
        bar(tint(colour, 0.7), x + 0.2 * width, ground - height, x + width / 2, ground),
        bar(tint(colour, 1.3), x - width / 2, ground - 0.68 * height, x + width / 2, ground - 0.62 * height),
        bar(tint(colour, 1.3), x - width / 2, ground - 0.36 * height, x + width / 2, ground - 0.30 * height),
        disc(tint(colour, 1.2), x, ground - height, width / 2, 0.3),
    ]


def cone(x: float, ground: float, height: float) -> list[Part]:
    """A traffic cone."""
    orange = (40, 110, 235)
    return [
        bar(tint(orange, 0.8), x - 0.36 * height, ground - 0.08 * height, x + 0.36 * height, ground),
        polygon(
            orange,
            (x - 0.24 * height, ground - 0.08 * height),
            (x, ground - height),
            (x + 0.24 * height, ground - 0.08 * height),
        ),
        polygon(
            (230, 232, 235),
            (x - 0.16 * height, ground - 0.4 * height),
            (x - 0.10 * height, ground - 0.6 * height),
            (x + 0.10 * height, ground - 0.6 * height),
            (x + 0.16 * height, ground - 0.4 * height),
        ),
    ]


def part_rects(parts: Sequence[Part]) -> Rects:
    """The tight box (x0, y0, x1, y1) of every part, in yard units, not clipped: float32 (parts, 4)."""
    points = np.concatenate([part.points for part in parts])
    starts = np.cumsum([0] + [len(part.points) for part in parts[:-1]])
    low, high = np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts)
    return np.concatenate([low, high], axis=1)


def extent(rects: Rects) -> Rect:
    """The tight box around all of `rects`."""
    x0, y0 = rects[:, :2].min(axis=0)
    x1, y1 = rects[:, 2:].max(axis=0)
    return float(x0), float(y0), float(x1), float(y1)


def paint(image: NDArray[np.uint8], parts: Sequence[Part], scale: tuple[float, float]) -> None:
    """Draw `parts` in order onto a BGR picture; `scale` is pixels per yard unit in x and y."""
    factor = np.array(scale, np.float32) * (1 << _SHIFT)
    for part in parts:
        points = np.rint(part.points * factor).astype(np.int32)
        cv2.fillConvexPoly(image, points, part.colour, cv2.LINE_AA, _SHIFT)
