"""Detector → crop → classifier over a real broker: each part is named by the second model."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.fakes.gateway_site import Site, device_route, site
from tests.fakes.schemas import validate

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def home(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    routes = (
        device_route("finder", "door", chain=["crop", "colours"]),
        device_route("finder", "hall", chain=["crop", "finder", "crop", "colours"]),
    )
    with site(tmp_path_factory.mktemp("chain"), store, *routes) as made:
        yield made


def flag(*colours: tuple[int, int, int]) -> bytes:
    """A picture of vertical stripes."""
    picture = Image.new("RGB", (64, 48))
    for n, colour in enumerate(colours):
        width = 64 // len(colours)
        picture.paste(colour, (n * width, 0, (n + 1) * width, 48))
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def asked(home: Site, stream: str, picture: bytes) -> dict[str, Any]:
    result = home.ask(stream, picture)
    validate("result", json.dumps(result).encode())
    return result


RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def test_each_half_is_named_by_the_second_model(home: Site) -> None:
    result = asked(home, "door/cam", flag(RED, BLUE))
    assert (result["status"], result["model"]["name"]) == ("ok", "finder")
    named = {d["classes"][0]["label"]: d["box"] for d in result["detections"]}
    assert named == {"red": [0.0, 0.0, 0.5, 1.0], "blue": [0.5, 0.0, 1.0, 1.0]}


def test_a_chain_goes_deeper_and_its_boxes_are_of_the_whole_picture(home: Site) -> None:
    result = asked(home, "hall/cam", flag(RED, GREEN, BLUE, RED))
    inner = sorted(
        (d["box"][0], d["classes"][0]["label"]) for half in result["detections"] for d in half["detections"]
    )
    assert inner == [(0.0, "red"), (0.25, "green"), (0.5, "blue"), (0.75, "red")]


def test_a_picture_that_is_none_is_rejected_by_the_first_stage(home: Site) -> None:
    assert home.ask("door/broken", b"\xff\xd8\xff but no picture")["reason"] == "decode"
