"""Pictures: what is decoded, and what is refused before or while it is decoded."""

import io
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from penstock_models.image_headers import read_header
from penstock_models.images import decode_image
from penstock_models.rejection import Rejection
from tests.models.pictures import encoded, photo, png_that_says

LOSSY = 3  # steps between two decoders of one JPEG or WebP


def by_pillow(data: bytes) -> np.ndarray:
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))[..., ::-1]


def reason(data: bytes) -> str:
    with pytest.raises(Rejection) as refused:
        decode_image(data)
    return refused.value.reason


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_turned_upright(format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photo(), format, exif=exif)
    found = decode_image(data).astype(int)
    assert found.shape == by_pillow(data).shape
    assert np.abs(found - by_pillow(data)).max() <= LOSSY


ODD = {
    "grey jpeg": encoded(photo().convert("L")),
    "grey png": encoded(photo().convert("L"), "PNG"),
    "grey with alpha": encoded(photo().convert("LA"), "PNG"),
    "alpha png": encoded(photo().convert("RGBA"), "PNG"),
    "alpha webp": encoded(photo().convert("RGBA"), "WEBP", lossless=True),
    "palette": encoded(photo().convert("P"), "PNG"),
    "cmyk": encoded(photo().convert("CMYK")),
    "progressive": encoded(photo(), progressive=True),
    "one pixel": encoded(photo(1, 1), "PNG"),
    "bytes after the end": encoded(photo()) + b"camera trailer",
}


@pytest.mark.parametrize("name", ODD)
def test_odd_picture_is_decoded(name: str) -> None:
    found = decode_image(ODD[name]).astype(int)
    assert np.abs(found - by_pillow(ODD[name])).max() <= LOSSY


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_animation_gives_its_first_frame(format: str) -> None:
    data = encoded(photo(seed=1), format, save_all=True, append_images=[photo(seed=2)], lossless=True)
    assert np.abs(decode_image(data).astype(int) - np.asarray(photo(seed=1))[..., ::-1]).max() <= LOSSY


def test_alpha_is_dropped() -> None:
    clear = photo().convert("RGBA")
    clear.putalpha(0)
    assert np.array_equal(decode_image(encoded(clear, "PNG")), np.asarray(photo())[..., ::-1])


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9, 0.99])
def test_truncated_picture_is_refused(format: str, kept: float) -> None:
    data = encoded(photo(320, 240), format)
    assert reason(data[: int(len(data) * kept)]) == "decode"


@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_cut_and_closed_again_is_refused(progressive: bool) -> None:
    data = encoded(photo(320, 240), progressive=progressive)
    assert reason(data[: len(data) * 2 // 3] + b"\xff\xd9") == "decode"


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_overwritten_picture_is_refused(format: str) -> None:
    data = bytearray(encoded(photo(640, 480), format, quality=95))
    middle = len(data) // 2
    data[middle : middle + 500] = bytes(500)
    assert reason(bytes(data)) == "decode"


@pytest.mark.parametrize("data", [b"", b"x", b"\xff\xd8\xff", b"GIF89a" + bytes(50), b"RIFF\0\0\0\0WEBPVP8 "])
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    assert reason(data) == "decode"


def test_pixel_limit_stands_before_decoding() -> None:
    bomb = png_that_says(40_000, 20_000)
    times = []
    for _ in range(5):
        began = time.perf_counter()
        assert reason(bomb) == "pixels"
        times.append(time.perf_counter() - began)
    assert min(times) < 0.005


def test_pixel_limit_is_inclusive() -> None:
    data = encoded(photo(64, 48), "PNG")
    assert decode_image(data, 64 * 48).shape == (48, 64, 3)
    with pytest.raises(Rejection, match="64×48"):
        decode_image(data, 64 * 48 - 1)


@given(st.binary(max_size=200), st.sampled_from(["JPEG", "PNG", "WEBP"]), st.integers(2, 60))
def test_no_bytes_raise_anything_but_a_rejection(noise: bytes, format: str, kept: int) -> None:
    data = encoded(photo(16, 16), format)[:kept] + noise
    read_header(data)
    try:
        decode_image(data, 1_000_000)
    except Rejection as refused:
        assert refused.reason in ("decode", "pixels")
