"""Cameras that break off, fall silent or stall: pictures are back within seconds, and none that is old passes for new."""

from __future__ import annotations

import time

import pytest

from penstock_gateway.camera.freshness import PROMISED_S
from penstock_gateway.camera.pictures import State
from penstock_gateway.camera.sources import Location, Source
from tests.fakes.camera import Camera
from tests.fakes.camera_mjpeg import MjpegCamera
from tests.fakes.camera_rtsp import RtspCamera
from tests.fakes.camera_watch import wait_for, watched

KINDS = pytest.mark.parametrize("kind", [MjpegCamera, RtspCamera])


@KINDS
def test_a_camera_that_breaks_off_is_back_within_seconds(kind: type[Camera]) -> None:
    with kind(20) as camera, watched(camera) as seen:
        seen.some(5)
        camera.off()
        wait_for(lambda: seen.source.status.state is State.LOST)
        camera.on()
        back = time.monotonic()
        seen.some(5)
        assert time.monotonic() - back < 4.0
        assert (seen.source.status.connects, seen.source.status.cuts) == (2, 1)
        assert max(seen.ages) < PROMISED_S


@KINDS
def test_a_silent_camera_is_noticed_and_nothing_old_passes_for_new(kind: type[Camera]) -> None:
    """The cable is cut: no word of it, and when it is back everything that was taken meanwhile comes at once."""
    with kind(20) as camera, watched(camera) as seen:
        seen.some(5)
        camera.freeze()
        wait_for(lambda: seen.source.status.state is State.LOST, 20.0)
        camera.thaw()
        back = time.monotonic()
        seen.some(5)
        assert time.monotonic() - back < 6.0
        assert max(seen.ages) < PROMISED_S


@KINDS
def test_a_short_stall_lets_nothing_old_pass_for_new(kind: type[Camera]) -> None:
    """Shorter than what counts as a cut over RTSP, so that the stall's pictures come on the same connection."""
    with kind(20) as camera, watched(camera) as seen:
        seen.some(5)
        camera.freeze()
        time.sleep(3.0)  # how long the stall lasts, not a wait for something
        camera.thaw()
        seen.some(20)
        assert max(seen.ages) < PROMISED_S


@KINDS
def test_it_ends_soon_however_silent_the_camera_is(kind: type[Camera]) -> None:
    with kind(20) as camera:
        source = Source(Location.parse(camera.url))
        source.start()
        wait_for(lambda: source.status.state is State.LIVE)
        camera.freeze()
        began = time.monotonic()
        source.close()
        assert time.monotonic() - began < 6.0
        assert source.status.state is State.ENDED


def test_a_camera_that_stamps_its_pictures_is_believed() -> None:
    """mjpg-streamer's X-Timestamp shows the age after a stall that is too short to be a cut."""
    with MjpegCamera(4, stamps=True) as camera, watched(camera) as seen:
        seen.some(4)
        camera.freeze()
        time.sleep(1.2)  # how long the stall lasts
        camera.thaw()
        seen.some(5)
        assert seen.source.status.cuts == 0
