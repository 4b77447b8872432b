"""Who is in the yard at frame n: actors with a birth, a path and a look, each a pure function of (seed, lane, slot).

Time is cut into slots; a slot of a lane brings at most one actor, and an actor outlives its slot by a bounded number of
slots. So any frame is known without playing those before it. How actors look is `_scene_art`'s.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Literal

import msgspec
import numpy as np

from penstock_sim.sources import _scene_art as art

WIDTH, HEIGHT = 640.0, 480.0
WALL_FOOT = 196.0
BELT_TOP, BELT_GROUND = 214.0, 236.0

Kind = Literal["person", "courier", "forklift", "carrier", "belt"]

_LANES = (0.0, 264.0, 302.0, 346.0, 398.0, 452.0)  # ground lines; lane 0 is the conveyor belt
_SLOT = 220  # frames
_LOOKBACK = 4  # no actor lives longer than this many slots
_MARGIN = 150.0  # an actor begins and ends this far outside the picture
_FLOOR_KINDS: tuple[Kind, ...] = ("person", "courier", "forklift", "carrier")
_FLOOR_ODDS = (0.46, 0.18, 0.20, 0.16)

_VESTS = ((30, 140, 250), (40, 230, 225), (60, 60, 205), (175, 110, 45), (75, 150, 60), (120, 118, 112))
_TROUSERS = ((92, 62, 40), (60, 58, 56), (96, 104, 112), (40, 52, 44))
_HELMETS = ((45, 200, 245), (235, 235, 232), (40, 60, 215), (190, 120, 40))
_TRUCKS = ((40, 175, 240), (45, 95, 225), (60, 55, 195), (85, 140, 70), (160, 160, 162))
_CARDBOARD = (
    (96, 140, 182),
    (78, 122, 168),
    (118, 158, 192),
    (70, 104, 140),
    (196, 198, 200),
    (150, 112, 72),
)
_TAPES = ((70, 105, 140), (150, 190, 215), (60, 60, 190))


class Actor(msgspec.Struct, frozen=True):
    """`born` and `life` in frames, `velocity` in yard units a frame (its sign is where it faces), `look` seeds colours."""

    kind: Kind
    born: int
    life: int
    ground: float
    velocity: float
    wobble: float
    period: float
    look: int

    def x(self, n: int) -> float:
        """Smooth and never backwards: |wobble| · 2π / period < 1 slows and hastens the walk."""
        t = n - self.born
        begin = -_MARGIN if self.velocity > 0 else WIDTH + _MARGIN
        return begin + self.velocity * (t + self.wobble * math.sin(2 * math.pi * t / self.period))


class Thing(msgspec.Struct, frozen=True):
    """What is drawn: `label` None for scenery; things are painted in the order of `ground`."""

    label: str | None
    parts: list[art.Part]
    ground: float


def depth_scale(ground: float) -> float:
    """Size of a thing by its ground line: 1 at the front of the picture."""
    return 0.5 + 0.5 * (ground - WALL_FOOT) / (HEIGHT - WALL_FOOT)


def actors(seed: int, n: int) -> Iterator[Actor]:
    """The actors alive at frame n, in no particular order."""
    for lane in range(len(_LANES)):
        for slot in range(n // _SLOT - _LOOKBACK, n // _SLOT + 1):
            actor = _actor(seed, lane, slot)
            if actor is not None and 0 <= n - actor.born < actor.life:
                yield actor


@functools.lru_cache(maxsize=2048)
def _actor(seed: int, lane: int, slot: int) -> Actor | None:
    """The one actor that this slot of the lane brings, or none. Slots before frame 0 exist: a scene never starts empty."""
    rng = np.random.default_rng((seed, 1, lane, slot + 1_000_000))
    if rng.random() > (0.8 if lane == 0 else 0.5):
        return None
    born = slot * _SLOT + int(rng.integers(_SLOT))
    look = int(rng.integers(1 << 30))
    if lane == 0:
        direction = 1 if np.random.default_rng((seed, 2)).random() < 0.5 else -1
        return _moving("belt", born, BELT_TOP, 1.5 * direction, 0.0, look, rng)
    kind = _FLOOR_KINDS[int(rng.choice(len(_FLOOR_KINDS), p=_FLOOR_ODDS))]
    ground = _LANES[lane] + float(rng.uniform(-12, 12))
    pace = rng.uniform(3.5, 6.5) if kind in ("forklift", "carrier") else rng.uniform(1.9, 3.2)
    velocity = float(pace * depth_scale(ground) * rng.choice((-1, 1)))
    return _moving(kind, born, ground, velocity, 0.8, look, rng)


def _moving(
    kind: Kind, born: int, ground: float, velocity: float, sway: float, look: int, rng: np.random.Generator
) -> Actor:
    period = float(rng.uniform(90, 200))
    wobble = sway * float(rng.uniform(0.2, 1.0)) * period / (2 * math.pi)
    life = math.ceil((WIDTH + 2 * _MARGIN) / abs(velocity) + wobble)
    return Actor(kind, born, min(life, _LOOKBACK * _SLOT), ground, velocity, wobble, period, look)


def things(actor: Actor, n: int, zoom: float) -> list[Thing]:
    """What the actor shows at frame n: itself and what it carries."""
    x, scale = actor.x(n), zoom * depth_scale(actor.ground)
    facing = 1 if actor.velocity > 0 else -1
    rng = np.random.default_rng((actor.look, 3))
    if actor.kind == "belt":
        return [_parcel(x, actor.ground, scale, rng)]
    if actor.kind in ("person", "courier"):
        return _walker(actor, x, scale, facing, rng)
    return _truck(actor, x, scale, facing, rng)


def standing_parcel(x: float, ground: float, zoom: float, rng: np.random.Generator) -> Thing:
    """A parcel that was put down on the floor."""
    return _parcel(x, ground, zoom * depth_scale(ground), rng)


def _walker(actor: Actor, x: float, scale: float, facing: int, rng: np.random.Generator) -> list[Thing]:
    height = float(rng.uniform(158, 188)) * scale
    # The stride follows the way walked, so feet do not slide.
    body = art.person(x, actor.ground, height, 2 * math.pi * x / (0.62 * height), facing, _look(rng))
    walker = Thing("person", body, actor.ground)
    if actor.kind == "person":
        return [walker]
    length = 95 * scale
    cart_x = x + facing * (0.14 * height + length / 2)
    cart = art.trolley(cart_x, actor.ground, length, 0.5 * height, facing)
    lift = 0.16 * 0.5 * height
    load = _parcel(cart_x, actor.ground - lift, scale, rng, nearer=lift + 0.2)
    return [walker, Thing(None, cart, actor.ground + 0.1), load]


def _truck(actor: Actor, x: float, scale: float, facing: int, rng: np.random.Generator) -> list[Thing]:
    size = float(rng.uniform(205, 245)) * scale
    colour = _pick(_TRUCKS, rng)
    truck = art.forklift(x, actor.ground, size, x / (0.13 * size), facing, colour, _look(rng))
    found = [Thing("forklift", truck, actor.ground)]
    if actor.kind == "carrier":
        lift = size * float(rng.uniform(0.05, 0.3))
        found.append(_parcel(x + facing * 0.42 * size, actor.ground - lift, scale, rng, nearer=lift + 0.1))
    return found


def _parcel(x: float, ground: float, scale: float, rng: np.random.Generator, nearer: float = 0.0) -> Thing:
    width, ratio = float(rng.uniform(52, 96)) * scale, float(rng.uniform(0.6, 1.1))
    parts = art.parcel(x, ground, width, ratio * width, _pick(_CARDBOARD, rng), _pick(_TAPES, rng))
    return Thing("parcel", parts, ground + nearer)


def _look(rng: np.random.Generator) -> art.PersonLook:
    return art.PersonLook(_pick(_VESTS, rng), _pick(_TROUSERS, rng), _pick(_HELMETS, rng))


def _pick(colours: tuple[art.Colour, ...], rng: np.random.Generator) -> art.Colour:
    return art.tint(colours[int(rng.integers(len(colours)))], float(rng.uniform(0.8, 1.15)))
