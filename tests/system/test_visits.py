"""The main job on real input: a camera's video in, and out comes who was there, and when."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import pytest

from tests.fakes.clients_steady import Steady
from tests.fakes.gateway_site import STATUS_TOPIC, device_route, site, topic

pytestmark = pytest.mark.system

FPS = 10.0
JOINED = 10
"""Frames without a person that do not end a visit."""


def frames(video: Path, every: int) -> Iterator[bytes]:
    """Every n-th frame as a camera's JPEG."""
    film = cv2.VideoCapture(str(video))
    for number in itertools.count():
        read, picture = film.read()
        if not read:
            return
        if number % every == 0:
            yield cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


def visits(seen: Sequence[int], joined: int = JOINED) -> list[tuple[int, int]]:
    """Join frame numbers with a person into visits: (first, last)."""
    found: list[tuple[int, int]] = []
    for number in seen:
        if found and number - found[-1][1] <= joined:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


def test_gaps_are_joined() -> None:
    assert visits([]) == []
    assert visits([3, 4, 14, 25, 30], joined=10) == [(3, 14), (25, 30)]


@pytest.mark.soak
@pytest.mark.timeout(240)
def test_six_people_come_and_go(
    store: Path,
    realdata: Path,
    tmp_path: Path,
    soak: bool,
    record_property: Callable[[str, object], None],
) -> None:
    every, within = (1, 15) if soak else (5, 20)
    video = realdata / "video" / "one-by-one-person-detection"
    film = list(frames(video.with_suffix(".mp4"), every))
    # The short form has a fifth of the frames and no time to wait for them: four times as fast as the film,
    # on a route that drops none.
    mode, rate = ("latest", FPS) if soak else ("every", 40.0)
    with site(tmp_path, store, device_route("person", "door", mode=mode)) as home:
        camera = Steady(
            home.device,
            topic("door/cam"),
            rate,
            lambda n: film[n],
            user=lambda n: {"boot": "film", "seq": n * every},
            count=len(film),
        )
        with camera:
            camera.join()
        camera.check_kept(home.ear)
        answers = home.ear.results("door/cam")
        assert [a["seq"] for a in answers] == list(range(0, len(film) * every, every))
        found = visits([a["seq"] for a in answers if a["detections"]], JOINED)
        check_edges(found, video.with_suffix(".visits.csv"), within, record_property)
        total = home.check_books(more=len(film))
        assert total["answered"] == len(film)

        assert home.gateway.stop() == 0
        home.ear.wait(lambda: states(home.ear.heard(topic=STATUS_TOPIC))[-1] == "stopped", "stopped")
        home.gateway.start()
        home.gateway.wait_ready()
        (ended,) = home.page()["starts"]
        assert (ended["how"], ended["carried_out"], ended["unknown"]) == ("clean", 0, 0)
        assert ended["ledger"] == total


def states(heard: Sequence[Any]) -> list[str]:
    return [h.body["state"] for h in heard]


def check_edges(
    found: Sequence[tuple[int, int]], path: Path, within: int, note: Callable[[str, object], None]
) -> None:
    with path.open() as file:
        truth = [(int(row["first_frame"]), int(row["last_frame"])) for row in csv.DictReader(file)]
    assert len(found) == len(truth) == 6, found
    off = [abs(f - t) for ours, theirs in zip(found, truth) for f, t in zip(ours, theirs)]
    note("largest edge error in frames", max(off))
    assert max(off) <= within, (found, truth)
