"""The yard itself, drawn once a scene: wall with doors and windows, textured floor with markings, conveyor, lamp light.

Everything here is fixed for a scene; what moves is `_scene_timeline`'s.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from penstock_sim.sources import _scene_art as art
from penstock_sim.sources._scene_timeline import BELT_GROUND, BELT_TOP, HEIGHT, WALL_FOOT, WIDTH

Image = NDArray[np.uint8]

_WALLS = ((150, 148, 140), (170, 160, 138), (120, 135, 150), (128, 150, 140), (110, 112, 120))
_FLOORS = ((128, 128, 126), (112, 118, 124), (98, 98, 100), (120, 132, 140))
_DOORS = ((120, 95, 70), (200, 202, 204), (70, 95, 130), (90, 120, 90))


def backdrop(rng: np.random.Generator, width: int, height: int) -> tuple[Image, Image]:
    """The empty yard (uint8 BGR) and the lamps' light (uint8, the same shape; 170 leaves a pixel unchanged)."""
    image = np.empty((height, width, 3), np.uint8)
    scale = (width / WIDTH, height / HEIGHT)
    foot = round(WALL_FOOT * scale[1])
    image[:foot], image[foot:] = _choose(_WALLS, rng), _choose(_FLOORS, rng)
    art.paint(image, [*_wall(rng), *_markings(rng), *_belt(rng)], scale)
    return _textured(image, rng), _lamp_light(rng, width, height)


def _choose(colours: tuple[art.Colour, ...], rng: np.random.Generator) -> art.Colour:
    return art.tint(colours[int(rng.integers(len(colours)))], float(rng.uniform(0.85, 1.15)))


def _wall(rng: np.random.Generator) -> list[art.Part]:
    """Seams of the cladding, then two to four dock doors and a row of windows."""
    seam = (96, 96, 94)
    pitch = float(rng.uniform(14, 34))
    parts = [art.bar(seam, x, 0, x + 1.2, WALL_FOOT) for x in np.arange(0, WIDTH, pitch)]
    doors = int(rng.integers(2, 5))
    for i in range(doors):
        x = (i + float(rng.uniform(0.2, 0.5))) * WIDTH / doors
        parts += _door(x, float(rng.uniform(70, 105)), _choose(_DOORS, rng))
    glass = (205, 190, 160) if rng.random() < 0.6 else (90, 70, 50)
    for x in np.arange(float(rng.uniform(10, 60)), WIDTH, float(rng.uniform(70, 130))):
        parts += [art.bar((70, 70, 72), x - 2, 22, x + 42, 50), art.bar(glass, x, 24, x + 40, 48)]
    parts.append(art.bar((60, 62, 64), 0, WALL_FOOT - 6, WIDTH, WALL_FOOT))
    return parts


def _door(x: float, width: float, colour: art.Colour) -> list[art.Part]:
    top = 78.0
    slats = [
        art.bar(art.tint(colour, 0.8), x, y, x + width, y + 1.5) for y in np.arange(top + 10, WALL_FOOT, 12)
    ]
    return [
        art.bar((52, 54, 58), x - 6, top - 8, x + width + 6, WALL_FOOT),
        art.bar(colour, x, top, x + width, WALL_FOOT),
        *slats,
        art.bar((60, 190, 230), x - 6, top - 8, x + width + 6, top - 2),
    ]


def _markings(rng: np.random.Generator) -> list[art.Part]:
    """Slab joints across, and painted lines that run towards a vanishing point above the wall."""
    parts = [
        art.bar((88, 90, 92), 0, y, WIDTH, y + 1.5) for y in WALL_FOOT + 284 * np.linspace(0.08, 1, 7) ** 1.6
    ]
    vanish = (float(rng.uniform(200, 440)), 40.0)
    paint = (70, 205, 235) if rng.random() < 0.6 else (225, 228, 228)
    for x in np.arange(float(rng.uniform(-300, -150)), WIDTH + 300, float(rng.uniform(190, 300))):
        far = (BELT_GROUND + 16 - vanish[1]) / (HEIGHT - vanish[1])
        y = HEIGHT - (HEIGHT - vanish[1]) * (1 - far)
        near_x, far_x = x, vanish[0] + (x - vanish[0]) * far
        parts.append(
            art.polygon(paint, (far_x - 2, y), (far_x + 2, y), (near_x + 5, HEIGHT), (near_x - 5, HEIGHT))
        )
    return parts


def _belt(rng: np.random.Generator) -> list[art.Part]:
    """The conveyor before the wall: a dark belt on a frame with legs and rollers."""
    frame = _choose(((150, 120, 60), (120, 122, 126), (60, 150, 190)), rng)
    legs = [art.bar((62, 64, 66), x, BELT_TOP, x + 5, BELT_GROUND + 10) for x in np.arange(18, WIDTH, 74)]
    rollers = [art.disc((150, 152, 154), x, BELT_TOP + 11, 3.2) for x in np.arange(6, WIDTH, 16)]
    return [
        *legs,
        art.bar((48, 48, 50), 0, BELT_TOP - 12, WIDTH, BELT_TOP + 5),
        art.bar(frame, 0, BELT_TOP + 5, WIDTH, BELT_TOP + 17),
        *rollers,
    ]


def _textured(image: Image, rng: np.random.Generator) -> Image:
    """Stains of several sizes, so that no surface is flat."""
    height, width = image.shape[:2]
    stain = np.zeros((height, width), np.float32)
    for cells, weight in ((6, 9.0), (24, 6.0), (90, 5.0)):
        grid = rng.standard_normal((cells * 3 // 4, cells), np.float32)
        stain += weight * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    stain += 3.0 * rng.standard_normal((height, width), np.float32)
    stained: Image = np.clip(image + stain[..., None], 0, 255).astype(np.uint8)
    return stained


def _lamp_light(rng: np.random.Generator, width: int, height: int) -> Image:
    """Pools of warm light over a darker yard; their depth differs by scene."""
    y, x = np.mgrid[0:1:60j, 0:1:80j].astype(np.float32)
    pools = np.zeros_like(x)
    for _ in range(int(rng.integers(2, 5))):
        cx, cy, spread = rng.uniform(0, 1), rng.uniform(0.3, 1), rng.uniform(0.04, 0.15)
        pools += np.exp(-((x - cx) ** 2 + 1.8 * (y - cy) ** 2) / spread).astype(np.float32)
    depth = float(rng.uniform(0.1, 0.45))
    level = 1 - depth + 1.5 * depth * np.minimum(pools, 1)
    warm = np.stack([level * 0.96, level, level * 1.03], axis=2)
    small = np.clip(170 * warm, 0, 255).astype(np.uint8)
    return np.asarray(cv2.resize(small, (width, height)), np.uint8)
