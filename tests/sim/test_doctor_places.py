"""Which topics are a device's, which are astray, and which are nobody's business; and what is subscribed to for that."""

import pytest

from penstock_gateway.topics import TopicFilter
from penstock_models.errors import UsageError
from penstock_sim.doctor.places import Astray, Place, Places
from tests.sim.patient import Patient

DOOR = "penstock/v1/home/dev/door"


@pytest.mark.parametrize(
    ("topic", "place"),
    [
        (f"{DOOR}/cam/frame", Place("frame", "cam")),
        (f"{DOOR}/vib/data", Place("data", "vib")),
        (f"{DOOR}/status", Place("status")),
        (f"{DOOR}/cam/result", Place("result", "cam")),
        (f"{DOOR}/cam/receipt", Place("receipt", "cam")),
        (f"{DOOR}/cam/event", Place("other", "cam")),
        (f"{DOOR}/cam/snapshot", Place("other", "cam")),
    ],
)
def test_topics_of_the_grammar(topic: str, place: Place) -> None:
    assert Places("door", "home", "penstock").find(topic) == place


@pytest.mark.parametrize(
    "topic",
    [
        f"{DOOR}/cam/Frame",
        f"{DOOR}/cam/frames",
        f"{DOOR}/cam/image",
        f"{DOOR}/cam",
        f"{DOOR}/frame",
        f"{DOOR}/cam/left/frame",
        f"{DOOR}/cam/frame/",
        f"{DOOR}//frame",
        f"{DOOR}/front cam/frame",
        f"{DOOR}/käm/frame",
        f"{DOOR}/{'x' * 65}/frame",
        f"/{DOOR}/cam/frame",
        "penstock/v2/home/dev/door/cam/frame",
        "penstock/home/dev/door/cam/frame",
        "penstock/v1/home/door/cam/frame",
        "penstock/v1/home/device/door/cam/frame",
        "Penstock/v1/home/dev/door/cam/frame",
        "penstock/door/cam/frame",
        "penstock/v1/dev/home/door/cam/frame",
    ],
)
def test_topics_that_miss_the_grammar_are_astray_and_heard(topic: str) -> None:
    places = Places("door", "home", "penstock")
    found = places.find(topic)
    assert isinstance(found, Astray) and not found.site
    assert hears(places, topic)
    assert places.is_wanted(topic) == hears(places, topic, beside=False)


@pytest.mark.parametrize(
    "topic",
    [
        "zigbee2mqtt/door/availability",
        "cameras/door/jpeg",
        "penstock/v1/home/dev/yard/door/frame",
        "penstock/v1/home/dev/yard/door/result",
        "penstock/v1/home/gw/door/status",
        "penstock/v1/home/gw/gw1/model/door/desired",
        "penstock/v1/home/dev/yard/cam/frame",
        "$SYS/broker/version",
    ],
)
def test_what_is_not_the_devices_is_nobodys(topic: str) -> None:
    assert Places("door", "home", "penstock").find(topic) is None


@pytest.mark.parametrize(
    ("topic", "site"),
    [("penstock/v1/shop/dev/door/cam/frame", "shop"), ("bridge/penstock/v1/home/dev/door/cam/frame", "bridge/home")],
)  # fmt: skip
def test_a_good_topic_elsewhere_may_be_another_device_of_that_name(topic: str, site: str) -> None:
    found = Places("door", "home", "penstock").find(topic)
    assert isinstance(found, Astray) and found.site == site


@pytest.mark.parametrize("device", ["home", "penstock", "v1", "dev"])
def test_a_device_that_is_called_as_a_level_of_every_topic_is_heard_on_its_own_alone(device: str) -> None:
    places = Places(device, "home", "penstock")
    assert places.strays == []
    assert places.find(f"penstock/v1/home/dev/{device}/cam/frame") == Place("frame", "cam")


def test_a_root_of_several_levels() -> None:
    places = Places("door", "home", "acme/penstock")
    assert places.wanted == ["acme/penstock/v1/home/dev/door/#"]
    assert places.find("acme/penstock/v1/home/dev/door/cam/frame") == Place("frame", "cam")
    assert isinstance(places.find("acme/penstock/v1/dev/door/cam/frame"), Astray)
    assert places.find("acme/penstock/v1/home/dev/yard/door/frame") is None


@pytest.mark.parametrize(
    ("text", "wanted", "topic", "place"),
    [
        ("cameras/{device}/jpeg", "cameras/door/jpeg", "cameras/door/jpeg", Place("own", "cameras/door/jpeg")),
        ("cameras/{device}/jpeg", "cameras/door/jpeg", "cameras/yard/jpeg", None),
        ("{device}/{stream}/raw", "door/+/raw", "door/vib/raw", Place("own", "vib")),
        ("{device}/{stream}/raw", "door/+/raw", "door/the vib/raw", Astray("names of 1 to 64 letters, digits, _ and -", "'the vib'")),
        ("shop/entrance/#", "shop/entrance/#", "shop/entrance/left", Place("own", "shop/entrance/left")),
    ],
)  # fmt: skip
def test_topics_of_a_route(text: str, wanted: str, topic: str, place: object) -> None:
    places = Places("door", "home", "penstock", [text])
    assert places.wanted == [f"{DOOR}/#", wanted]
    assert places.find(topic) == place
    assert place is None or places.is_wanted(topic)


@pytest.mark.parametrize(
    ("device", "site", "root", "filters", "words"),
    [
        ("a/b", "home", "penstock", [], "one level"),
        ("+", "home", "penstock", [], "one level"),
        ("", "home", "penstock", [], "one level"),
        ("door", "my home", "penstock", [], "expected a site"),
        ("door", "home", "pen#", [], "wildcards"),
        ("door", "home", "penstock", ["cam#"], "wildcard"),
        ("door", "home", "penstock", ["penstock/#"], "overlaps"),
        ("door", "home", "penstock", ["penstock/v1/home/dev/door/+/+"], "overlaps"),
    ],
)
def test_what_cannot_be_watched(device: str, site: str, root: str, filters: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Places(device, site, root, filters)


def test_a_route_inside_the_devices_own_tree_is_not_subscribed_to_twice() -> None:
    places = Places("door", "home", "penstock", ["penstock/v1/home/dev/{device}/{stream}/picture"])
    assert places.wanted == [f"{DOOR}/#"]
    assert places.find(f"{DOOR}/cam/picture") == Place("own", "cam")


def test_a_device_with_a_bad_name_is_told_so() -> None:
    patient = Patient("front door")
    patient.stream(3)
    assert patient.faults() == {("topic", ""): 3}
    assert not patient.report().heard


def test_a_stream_astray_is_found_beside_a_good_one() -> None:
    patient = Patient()
    patient.stream(5)
    patient.stream(4, topic=f"/{DOOR}/yard/frame", stream="yard")
    assert patient.faults() == {("topic", ""): 4}


def test_the_wrong_site_is_a_fault_where_nothing_comes_from_the_right_one() -> None:
    patient = Patient()
    patient.stream(5, topic="penstock/v1/Home/dev/door/cam/frame")
    assert patient.faults() == {("topic", ""): 1}
    assert patient.report().findings[0].expected == "the site 'home'"


def test_a_device_of_that_name_at_another_site_is_a_note() -> None:
    patient = Patient()
    patient.stream(5, topic="penstock/v1/shop/dev/door/cam/frame", stream="other")
    patient.stream(5)
    assert patient.faults() == {}
    assert any("penstock/v1/shop/dev/door/cam/frame (5)" in note for note in patient.report().notes)


def test_own_topics_without_filter_are_named_where_nothing_else_is_heard() -> None:
    patient = Patient()
    patient.stream(5, topic="cameras/door/jpeg")
    report = patient.report()
    assert not report.heard and not report.findings
    assert any("cameras/door/jpeg (5)" in note and "--filter" in note for note in report.notes)


def test_own_topics_are_judged_like_others() -> None:
    patient = Patient(filters=["cameras/{device}/jpeg"])
    patient.stream(5, topic="cameras/door/jpeg", content_type="image/jpg")
    assert patient.faults() == {("content_type", "cameras/door/jpeg"): 5}


def hears(places: Places, topic: str, beside: bool = True) -> bool:
    filters = [*places.wanted, *(places.strays if beside else [])]
    return any(TopicFilter.parse(text).match(topic) for text in filters)
