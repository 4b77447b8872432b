"""A photo in, an answer out, with nothing but the tools that come with every broker."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.fakes.clients_mosquitto import mosquitto_pub, mosquitto_sub
from tests.fakes.gateway_site import Site, device_route, route, site, topic
from tests.fakes.schemas import validate

pytestmark = pytest.mark.system

INSIDE = "replies/home/"


@pytest.fixture(scope="module")
def home(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    routes = (
        device_route("colours", "door"),
        route("colours", "cameras/{device}/jpeg"),
        route("colours", "yard/+/picture", stream="overview"),
    )
    mqtt = f'response_prefixes = ["{INSIDE}"]'
    folder = tmp_path_factory.mktemp("photo")
    with site(folder, store, *routes, mqtt=mqtt, ears=("replies/#", "elsewhere/#")) as made:
        yield made


def blue(width: int = 64, height: int = 48) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), (0, 0, 255)).save(out, "JPEG", quality=95)
    return out.getvalue()


@pytest.mark.parametrize("version", ["mqttv311", "mqttv5"])
@pytest.mark.parametrize("qos", [0, 1])
def test_mosquitto_pub_in_mosquitto_sub_out(home: Site, tmp_path: Path, version: str, qos: int) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(blue())
    with mosquitto_sub(home.broker, topic("door/cam", "result"), version=version) as answer:
        mosquitto_pub(home.broker, topic("door/cam"), photo, version=version, qos=qos)
        result = validate("result", answer())
    assert (result["status"], result["answered_by"], result["placement"]) == ("ok", "edge", "onnxruntime:cpu")
    assert (result["device"], result["stream"], result["seq"], result["boot"]) == ("door", "cam", None, None)
    assert result["classes"][0]["label"] == "blue"
    heard = [h for h in home.ear.heard("result") if h.body["id"] == result["id"]]
    assert [h.qos for h in heard] == [qos], "a result goes out as its frame came in"


@pytest.mark.parametrize(
    ("sent_to", "stream"),
    [("cameras/garage/jpeg", "garage/1"), ("yard/north/picture", "2/overview")],
)
def test_a_route_takes_any_topic(home: Site, sent_to: str, stream: str) -> None:
    home.device.send(sent_to, blue())
    assert home.ear.result(stream)["classes"][0]["label"] == "blue"


def test_a_response_topic_gets_the_result_too(home: Site) -> None:
    asked = home.send("door/asks", blue(), response_topic=f"{INSIDE}42", correlation=b"\x00my 42")
    home.device.sent(asked)
    home.ear.wait(lambda: bool(home.ear.heard(topic=f"{INSIDE}42")), "the reply")
    (reply,) = home.ear.heard(topic=f"{INSIDE}42")
    result = home.ear.result("door/asks")
    assert validate("result", reply.payload) == result
    assert reply.correlation == b"\x00my 42"


@pytest.mark.parametrize("where", ["elsewhere/42", "replies/homeless", "penstock/v1/home/dev/door/cam/frame"])
def test_a_response_topic_outside_the_prefixes_gets_nothing(home: Site, where: str) -> None:
    stream = f"door/{where.count('/')}{len(where)}"
    before = home.gateway.ledger()["received"]
    home.send(stream, blue(), response_topic=where)
    assert home.ear.result(stream)["status"] == "ok"
    assert (
        home.ask(stream, blue())["status"] == "ok"
    )  # what was said before it would have been heard before it
    assert not home.ear.heard(topic=where)
    assert home.gateway.ledger()["received"] == before + 2


def test_the_person_detector_sees_the_person(store: Path, realdata: Path, tmp_path: Path) -> None:
    with site(tmp_path, store, device_route("person", "door"), device_route("vww", "hall")) as home:
        portrait = realdata / "images" / "grace_hopper.jpg"
        with mosquitto_sub(home.broker, topic("door/cam", "result"), version="mqttv311") as answer:
            mosquitto_pub(home.broker, topic("door/cam"), portrait, version="mqttv311")
            result = validate("result", answer())
        (person,) = result["detections"]
        assert person["label"] == "person" and person["score"] == pytest.approx(0.95, abs=0.03)
        x0, y0, x1, y1 = person["box"]
        assert 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1
        empty = home.ask("door/cam", (realdata / "images" / "owl.jpg").read_bytes())
        assert empty["status"] == "ok" and empty["detections"] == []
        assert home.ask("hall/cam", portrait.read_bytes())["classes"][0]["label"] == "person"
        home.check_books(more=1)
