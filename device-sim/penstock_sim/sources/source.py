"""What a source is: message bodies that are already encoded, and what is true in them.

What is synthetic is encoded once into a ring and repeated; what is read from a file is read and encoded ahead in a
thread, a bounded number of payloads. So the generator is never the bottleneck, and memory is bounded. When and where a
payload is sent belongs to `penstock_sim.load`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Protocol

import msgspec

from penstock_models.errors import UsageError
from penstock_sim.sources.encodings import UserProperties


class Box(msgspec.Struct, frozen=True):
    """`box` is [x0, y0, x1, y1] of the whole thing, clipped to the picture and normalised to 0..1."""

    label: str
    box: tuple[float, float, float, float]


Truth = tuple[Box, ...] | bool
"""The things in a picture, or whether a window is anomalous."""


class Payload(msgspec.Struct, frozen=True, eq=False):
    """One message body without its stamp. `user` are fixed user properties; `ts` is the capture time (epoch ms) where
    the source knows it, None where the time of sending counts; `truth` is what a right answer says, where that is known;
    `media_type` is another one than the source's; a `spoiled` body is not what its type says."""

    data: bytes
    user: UserProperties = ()
    ts: int | None = None
    truth: Truth | None = None
    media_type: str | None = None
    spoiled: bool = False


class Source(Protocol):
    """One virtual camera or sensor. `media_type` "" lets the gateway go by the signature."""

    @property
    def name(self) -> str: ...

    @property
    def media_type(self) -> str: ...

    @property
    def rate_hz(self) -> float:
        """The source's own rate: frames or windows per second."""

    def payloads(self) -> Iterator[Payload]:
        """The payloads from the first on; ends where the source ends, and repeats for ever where it is a ring."""


class Ring:
    """A fixed set of payloads, repeated for ever. Payload number n is `frames[n % len(frames)]`."""

    def __init__(self, name: str, media_type: str, rate_hz: float, frames: Sequence[Payload]) -> None:
        if not frames:
            raise UsageError(f"expected at least one payload for the source {name!r}, got none")
        self.name, self.media_type, self.rate_hz = name, media_type, rate_hz
        self.frames = tuple(frames)

    def payloads(self) -> Iterator[Payload]:
        return itertools.cycle(self.frames)

    def turned(self, first: int) -> Ring:
        """The same ring, beginning at another payload."""
        first %= len(self.frames)
        return Ring(self.name, self.media_type, self.rate_hz, self.frames[first:] + self.frames[:first])
