"""What broken and hostile devices send is small, is what it claims to be bad at, and is the same for the same dice."""

import json
import random
import struct
import zlib

import cv2
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from penstock_sim.load.spoiled import hostile, malformed, png
from penstock_sim.scenario.faults import HOSTILE, Hostile
from penstock_sim.sources import Payload

FRAME = Payload(
    bytes(range(256)) * 4, (("sh", "1x1024"),), ts=5, truth=True, media_type="application/x-tensor"
)


def made(kind: Hostile, payload: Payload = FRAME) -> Payload:
    return hostile(kind, payload, random.Random(1))


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_frame_costs_little_to_send_and_has_no_right_answer(kind: Hostile) -> None:
    found = made(kind)
    assert len(found.data) < 20_000 and found.truth is None
    assert found.data == made(kind).data
    assert (found.data, found.media_type) != (FRAME.data, FRAME.media_type)


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """The names and bodies of a PNG's chunks, whose check sums are right."""
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    at, found = 8, []
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        name, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        assert struct.unpack_from(">I", data, at + 8 + size) == (zlib.crc32(name + body),)
        found.append((name, body))
        at += 12 + size
    return found


def test_a_png_is_one_that_others_read() -> None:
    rows = np.arange(12, dtype=np.uint8).reshape(3, 4)
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    picture = cv2.imdecode(np.frombuffer(png(4, 3, packed), np.uint8), cv2.IMREAD_GRAYSCALE)
    assert picture is not None and np.array_equal(picture, rows)


def test_huge_pixels_are_claimed_and_not_there() -> None:
    found = made("huge_pixels")
    (head, header), (_, pixels), _ = chunks(found.data)
    assert (head, struct.unpack(">II", header[:8]), pixels) == (b"IHDR", (60_000, 60_000), b"")
    assert found.media_type == "image/png"


def test_a_bomb_is_a_thousand_times_larger_unpacked() -> None:
    found = made("bomb")
    (_, header), (_, pixels), _ = chunks(found.data)
    width, height = struct.unpack(">II", header[:8])
    assert len(zlib.decompress(pixels)) == (width + 1) * height == 4001 * 4000 > 500 * len(found.data)


def test_the_others_are_bad_in_their_own_way() -> None:
    assert made("truncated").data == FRAME.data[:512]
    assert made("empty").data == b""
    assert len(made("random").data) == 1024 and len(made("random", Payload(b"")).data) == 1
    assert (made("wrong_type").data, made("wrong_type").media_type) == (FRAME.data, "application/x-nothing")
    with pytest.raises(RecursionError):
        json.loads(made("deep_json").data)
    values = np.frombuffer(made("not_finite").data, "<f4")
    assert np.isnan(values[0]) and np.isinf(values[1:3]).all()
    assert len(made("wrong_shape").data) == 12 and dict(made("wrong_shape").user) == {"sh": "3", "dt": "f32"}


@pytest.mark.parametrize("kind", ["truncated", "empty", "random", "deep_json"])
def test_what_cannot_be_stamped_inside_is_marked(kind: Hostile) -> None:
    assert made(kind).spoiled


@given(data=st.binary(max_size=400), seed=st.integers(0, 999))
def test_a_malformed_frame_is_never_the_frame(data: bytes, seed: int) -> None:
    found = malformed(Payload(data, truth=True), random.Random(seed))
    assert found.spoiled and found.truth is None
    assert len(found.data) <= len(data)
    if len(found.data) == len(data) and data:
        wrong = [n for n, (a, b) in enumerate(zip(data, found.data)) if a != b]
        assert len(data) >= 20 and wrong[-1] - wrong[0] < len(data) // 10
    assert found.data == malformed(Payload(data), random.Random(seed)).data


class Unlucky(random.Random):
    """Its noise is what was there."""

    def randbytes(self, n: int) -> bytes:
        return bytes(n)


def test_noise_that_happens_to_be_the_frame_s_own_bytes_is_still_noise() -> None:
    dice = Unlucky(1)
    assert all(malformed(Payload(bytes(100)), dice).data != bytes(100) for _ in range(20))


def test_a_malformed_picture_does_not_decode_as_it_was() -> None:
    done, jpeg = cv2.imencode(".jpg", np.random.default_rng(1).integers(0, 255, (48, 64, 3), np.uint8))
    assert done
    whole = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)
    assert whole is not None
    dice = random.Random(4)
    for _ in range(50):
        found = malformed(Payload(jpeg.tobytes()), dice).data
        picture = cv2.imdecode(np.frombuffer(found, np.uint8), cv2.IMREAD_COLOR) if found else None
        assert picture is None or not np.array_equal(picture, whole)
