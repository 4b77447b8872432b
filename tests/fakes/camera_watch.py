"""Watches what a source gives, and how old it is by the fake camera's own books."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from penstock_gateway.camera.freshness import MAX_AGE_S
from penstock_gateway.camera.sources import Credentials, Location, Source
from tests.fakes.camera import Camera
from tests.fakes.camera_pictures import number_in, number_of

WAIT_S = 10.0


class Watched:
    """A source, and what it gave: numbers with their true and their claimed age at that moment."""

    def __init__(self, camera: Camera, source: Source) -> None:
        self.camera, self.source = camera, source
        self._pictures = source.pictures(WAIT_S)
        self.ages: list[float] = []

    def next(self) -> int:
        picture = next(self._pictures, None)
        assert picture is not None, self.source.status
        at = time.monotonic()
        number = number_of(picture.data) if picture.data else number_in(picture.image)
        if at - picture.captured <= MAX_AGE_S:  # what it admits to be older is not sent
            self.ages.append(self.camera.age_s(number, at))
        return number

    def some(self, count: int) -> list[int]:
        return [self.next() for _ in range(count)]


@contextmanager
def watched(camera: Camera, credentials: Credentials | None = None) -> Iterator[Watched]:
    """A started source of this camera."""
    with Source(Location.parse(camera.url, credentials)) as source:
        yield Watched(camera, source)


def wait_for(condition: Callable[[], bool], timeout_s: float = WAIT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)
