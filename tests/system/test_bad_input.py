"""Bad input: each gets exactly its answer, the books close, and nobody else notices.

One gateway gets all of it, one case a test, while healthy streams of the same models keep their beat. The last tests
of this module look at what those streams and the books say.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tests.conftest import realdata_path
from tests.fakes import misbehaving_payloads as bad
from tests.fakes.clients import Device, envelope
from tests.fakes.clients_steady import Steady
from tests.fakes.gateway_site import Site, device_route, site, topic
from tests.fakes.misbehaving import RawPublisher

pytestmark = pytest.mark.system

TENSOR = "application/x-tensor"
RSS_GROWTH = 64 << 20
PICTURES = ["quarters", pytest.param("person", marks=pytest.mark.realdata)]
"""Devices whose model takes pictures."""
SENSORS = ["halves", "vault"]
"""Devices whose model takes four numbers; `vault` is on an `every` route."""


@dataclass
class Scene:
    home: Site
    steady: list[Steady]
    rss: int
    cases: int = 0

    def ask(self, device: str, payload: bytes, **options: Any) -> dict[str, Any]:
        """Send one message on a stream of its own; its result, after a look at the books of that stream."""
        self.cases += 1
        stream = f"{device}/case-{self.cases}"
        result = self.home.ask(stream, payload, **options)
        status, reason = result["status"], result["reason"]
        bucket = {"ok": "answered"}.get(status, status)
        counts = self.home.counts(stream)
        assert (counts["received"], counts[bucket]) == (1, 1), counts
        assert counts["reasons"] == ({bucket: {reason: 1}} if reason else {})
        return result

    def refused(self, device: str, payload: bytes, fate: str, **options: Any) -> None:
        result = self.ask(device, payload, **options)
        assert f"{result['status']}: {result['reason']}" == fate
        assert (result["answered_by"], result["model"], result["placement"]) == (None, None, None)


@pytest.fixture(scope="module")
def scene(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    latest = {"quarters": 5.0, "halves": 5.0} | ({"person": 5.0} if realdata_path() is not None else {})
    every = {"picky": 20.0, "patient": 20.0, "vault": 50.0}
    routes = [device_route(name, name) for name in latest]
    routes += [device_route({"vault": "halves"}.get(name, name), name, mode="every") for name in every]
    folder = tmp_path_factory.mktemp("bad")
    with site(folder, store, *routes, top="threads = 2") as home, Device(home.broker) as healthy:
        photo, numbers = bad.photo(), bad.floats(1, 2, 3, 4)

        def steady(device: str, rate: float) -> Steady:
            picture = device in ("quarters", "person")
            payload, kind = (photo, "image/jpeg") if picture else (numbers, TENSOR)
            return Steady(healthy, topic(f"{device}/steady"), rate, lambda _: payload, content_type=kind)

        streams = [steady(*beat) for beat in (latest | every).items()]
        for stream in streams:
            stream.start()
        for stream in streams:
            home.ear.result(stream.stream, 5)
        scene = Scene(home, streams, rss_of(home))
        yield scene
        for stream in streams:
            stream.stop()


def rss_of(home: Site) -> int:
    return int(psutil.Process(home.gateway.pid).memory_info().rss)


# --- strange, and answered all the same ------------------------------------------------------------------------------

STRANGE: dict[str, Callable[[], bytes]] = {
    "plain": bad.jpeg,
    "grey JPEG": lambda: bad.encoded(bad.quartered().convert("L"), "JPEG"),
    "black and white PNG": lambda: bad.encoded(
        bad.quartered().convert("L").point([0] * 128 + [255] * 128, "1"), "PNG"
    ),
    "PNG with a palette": lambda: bad.encoded(bad.quartered().quantize(4), "PNG"),
    "PNG with alpha": bad.see_through,
    "WebP with alpha": lambda: bad.encoded(bad.quartered().convert("RGBA"), "WEBP"),
    "CMYK JPEG": lambda: bad.encoded(bad.quartered().convert("CMYK"), "JPEG"),
    "progressive JPEG": lambda: bad.encoded(bad.quartered(), "JPEG", progressive=True),
    **{f"EXIF orientation {n}": lambda n=n: bad.turned(n) for n in range(2, 9)},  # type: ignore[misc]
    "animated WebP": lambda: bad.animated("WEBP"),
    "animated PNG": lambda: bad.animated("PNG"),
}


@pytest.mark.parametrize("name", STRANGE)
def test_a_strange_picture_is_answered_as_pillow_sees_it(scene: Scene, name: str) -> None:
    data = STRANGE[name]()
    result = scene.ask("quarters", data)
    assert (result["status"], result["reason"]) == ("ok", None)
    y = result["outputs"]["y"]
    seen = np.frombuffer(base64.b64decode(y["data"]), "<f4").reshape(y["shape"])
    assert seen == pytest.approx(bad.quarters_of(data), abs=0.03)


@pytest.mark.parametrize("way", ["upright", "on its side", "grey", "CMYK"])
def test_a_person_is_found_whichever_way_the_picture_comes(scene: Scene, realdata: Path, way: str) -> None:
    portrait = bad.opened(realdata / "images" / "grace_hopper.jpg")
    data = {
        "upright": lambda: bad.encoded(portrait, "JPEG"),
        "on its side": lambda: bad.stored_turned(portrait),
        "grey": lambda: bad.encoded(portrait.convert("L"), "JPEG"),
        "CMYK": lambda: bad.encoded(portrait.convert("CMYK"), "JPEG"),
    }[way]()
    (person,) = scene.ask("person", data)["detections"]
    upright = scene.ask("person", bad.encoded(portrait, "JPEG"))["detections"][0]
    assert person["score"] > 0.9
    assert person["box"] == pytest.approx(upright["box"], abs=0.05)


@pytest.mark.parametrize(
    "ts", [1, -5, 2**53 - 1, 1_790_000_000 * 10**9], ids=["never set", "negative", "far ahead", "nanoseconds"]
)
@pytest.mark.parametrize("device", SENSORS)
def test_a_nonsense_clock_is_marked(scene: Scene, device: str, ts: int) -> None:
    result = scene.ask(device, envelope([1, 2, 3, 4], ts=ts))
    assert (result["status"], result["ts"], result["ts_suspect"]) == ("ok", ts, True)
    assert not result.get("historical", False)


# --- rejected --------------------------------------------------------------------------------------------------------

BROKEN: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "truncated JPEG": (lambda: bad.photo()[:-2000], "", "decode"),
    "corrupt JPEG": (lambda: bad.corrupt(bad.photo()), "", "decode"),
    "JPEG of its head alone": (lambda: bad.jpeg()[:100], "", "decode"),
    "truncated PNG": (lambda: bad.encoded(bad.quartered(), "PNG")[:-40], "", "decode"),
    "corrupt PNG": (lambda: bad.corrupt(bad.encoded(bad.quartered(), "PNG")), "", "decode"),
    "truncated WebP": (lambda: bad.encoded(bad.quartered(), "WEBP")[:-20], "", "decode"),
    "text that says JPEG": (lambda: b"\xff\xd8\xff" + b"hello" * 100, "", "decode"),
    "noise that says PNG": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "", "decode"),
    "GIF by the name of PNG": (lambda: bad.encoded(bad.quartered(), "GIF"), "image/png", "decode"),
    "BMP by the name of JPEG": (lambda: bad.encoded(bad.quartered(), "BMP"), "image/jpeg", "decode"),
    "PNG of 800 million pixels": (bad.vast_png, "", "pixels"),
    "JPEG that says 4 billion pixels": (bad.vast_jpeg, "", "pixels"),
    "empty": (lambda: b"", "", "empty"),
    "empty, with a type": (lambda: b"", "image/jpeg", "empty"),
    "10 MB": (lambda: bad.jpeg() + bytes(10_000_000), "", "too_large"),
    "text": (lambda: b"hello", "", "content_type"),
    "a type of its own": (bad.jpeg, "image/x-raw", "content_type"),
}


@pytest.mark.parametrize("device", PICTURES)
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_picture_is_rejected(scene: Scene, device: str, name: str) -> None:
    make, kind, reason = BROKEN[name]
    scene.refused(device, make(), f"rejected: {reason}", content_type=kind)


NAN = float("nan")
WRONG: dict[str, tuple[bytes, dict[str, Any], str]] = {
    "shorts": (bytes(8), {"content_type": TENSOR, "user": {"dt": "i16"}}, "dtype"),
    "no dtype at all": (bytes(16), {"content_type": TENSOR, "user": {"dt": "banana"}}, "dtype"),
    "doubles in an envelope": (envelope([1, 2, 3, 4], dt="f64"), {}, "dtype"),
    "five values": (bad.floats(1, 2, 3, 4, 5), {"content_type": TENSOR}, "shape"),
    "half a value": (bytes(15), {"content_type": TENSOR, "user": {"dt": "f32"}}, "shape"),
    "a shape that its bytes do not fill": (
        bytes(16), {"content_type": TENSOR, "user": {"dt": "f32", "sh": "2x4"}}, "shape",
    ),
    "a shape of another model": (
        bytes(32), {"content_type": TENSOR, "user": {"dt": "f32", "sh": "2x2x2"}}, "shape",
    ),
    "no shape at all": (bytes(16), {"content_type": TENSOR, "user": {"sh": "4;drop"}}, "shape"),
    "ragged lists": (envelope([[1, 2], [3]]), {}, "schema"),
    "NaN": (bad.floats(1, NAN, 3, 4), {"content_type": TENSOR}, "not_finite"),
    "infinity": (bad.floats(1, float("-inf"), 3, 4), {"content_type": TENSOR}, "not_finite"),
    "NaN in CBOR": (bad.cbor({"data": [1.0, NAN, 3.0, 4.0]}), {}, "not_finite"),
    "NaN in a typed array": (bad.cbor({"data": bad.typed_array(1, NAN, 3, 4)}), {}, "not_finite"),
    "deep JSON": (b"[" * 1_000_000, {}, "schema"),
    "deep JSON in an envelope": (b'{"data":' + b"[" * 100_000 + b"1" + b"]" * 100_000 + b"}", {}, "schema"),
    "half a million keys": (json.dumps(dict.fromkeys(map(str, range(500_000)), 1)).encode(), {}, "schema"),
    "a thousand inputs": (json.dumps({"inputs": {str(n): [1] for n in range(1000)}}).encode(), {}, "schema"),
    "half of an envelope": (envelope([1, 2, 3, 4])[:-3], {}, "schema"),
    "half of a CBOR envelope": (bad.cbor({"data": [1, 2, 3, 4]})[:-2], {}, "schema"),
    "deep CBOR": (b"\xa1\x64data" + b"\x81" * 1_000_000, {}, "schema"),
    "CBOR that says 2^62 values": (b"\xa1\x64data\x9b" + (1 << 62).to_bytes(8, "big"), {}, "schema"),
    "no data": (b"{}", {}, "schema"),
    "only a number": (b'{"seq": 1, "boot": "b"}', {}, "schema"),
    "data and inputs": (b'{"data": [1,2,3,4], "inputs": {"x": [1,2,3,4]}}', {}, "schema"),
    "a seq that is a word": (envelope([1, 2, 3, 4], seq="one"), {}, "schema"),
    "a seq below nothing": (envelope([1, 2, 3, 4], seq=-1), {}, "schema"),
    "a seq beyond 2^53": (envelope([1, 2, 3, 4], seq=2**53), {}, "schema"),
    "a boot of 65": (envelope([1, 2, 3, 4], boot="b" * 65), {}, "schema"),
    "a priority of 10": (envelope([1, 2, 3, 4], pr=10), {}, "schema"),
    "a newer envelope": (envelope([1, 2, 3, 4], v=2), {}, "schema"),
    "SenML of words": (b'[{"n":"a","vs":"warm"}]', {"content_type": "application/senml+json"}, "schema"),
    "bytes that are no text": (b"\xff\xfe{}", {"content_type": "application/json"}, "schema"),
    "a type of its own": (bad.floats(1, 2, 3, 4), {"content_type": "application/x-pickle"}, "content_type"),
    "bytes without a type": (b"\x00\x01\x02\x03", {}, "content_type"),
    "nothing": (b"", {}, "empty"),
}  # fmt: skip


@pytest.mark.parametrize("device", SENSORS)
@pytest.mark.parametrize("name", WRONG)
def test_wrong_numbers_are_rejected(scene: Scene, device: str, name: str) -> None:
    payload, options, reason = WRONG[name]
    scene.refused(device, payload, f"rejected: {reason}", **options)


HOSTILE = [
    "a b", "é", "x" * 65, ".", "..", "%00", "{stream}", "$SYS", "'; DROP TABLE frames;--", "\u202eevil", "a:b",
    "", "\U0001f600", "../../../etc/passwd".replace("/", "\\"),
]  # fmt: skip


def test_hostile_topics_are_counted_and_answered_nowhere(scene: Scene) -> None:
    before = scene.home.gateway.ledger()["reasons"].get("rejected", {}).get("topic", 0)
    for name in HOSTILE:
        scene.home.send(f"quarters/{name}", bad.jpeg())
        scene.home.send(f"vault/{name}", bad.floats(1, 2, 3, 4), content_type=TENSOR)
    assert scene.ask("quarters", bad.jpeg())["status"] == "ok"
    assert scene.ask("vault", bad.floats(1, 2, 3, 4), content_type=TENSOR)["status"] == "ok"
    page = scene.home.page()
    assert page["ledger"]["reasons"]["rejected"]["topic"] == before + 2 * len(HOSTILE)
    assert not any(name in key for key in page["streams"] for name in HOSTILE if name)
    names = [(r["device"], r["stream"]) for r in scene.home.ear.results()]
    assert all(stream.startswith(("case-", "steady")) for _, stream in names)


def test_a_topic_that_is_no_text_costs_its_publisher_the_connection(scene: Scene) -> None:
    for topic_bytes in (b"\xff\xfe", b"\xc3\x28", b"\xed\xa0\x80", b"a\x00b"):
        raw = RawPublisher(scene.home.broker)
        raw.publish(b"penstock/v1/home/dev/quarters/" + topic_bytes + b"/frame", bad.jpeg())
        assert raw.cut_off(), topic_bytes
        raw.close()
    assert scene.home.gateway.get("/readyz")[0] == 200
    assert scene.ask("quarters", bad.jpeg())["status"] == "ok"


# --- failed, and counted only ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", range(3))
def test_a_model_that_raises_fails_one_frame_and_does_not_run_it_again(scene: Scene, turn: int) -> None:
    for n in range(3):  # it works otherwise
        assert scene.ask("picky", bad.floats(1, turn, n, 4), content_type=TENSOR)["status"] == "ok"
    guilty = bad.floats(99, turn, 3, 4)
    scene.refused("picky", guilty, "failed: model_error", content_type=TENSOR)
    scene.refused("picky", guilty, "rejected: quarantined", content_type=TENSOR)


@pytest.mark.parametrize("turn", range(2))
def test_a_model_that_hangs_fails_one_frame_and_does_not_run_it_again(scene: Scene, turn: int) -> None:
    for n in range(3):
        assert scene.ask("patient", bad.floats(1, turn, n, 4), content_type=TENSOR)["status"] == "ok"
    guilty = bad.floats(1e12, turn, 3, 4)
    scene.refused("patient", guilty, "failed: model_timeout", content_type=TENSOR)
    for n in range(3):
        assert scene.ask("patient", bad.floats(2, turn, n, 4), content_type=TENSOR)["status"] == "ok"
    scene.refused(
        "patient", guilty, "failed: model_timeout", content_type=TENSOR
    )  # once may be the machine's fault
    scene.refused("patient", guilty, "rejected: quarantined", content_type=TENSOR)


def test_only_the_guilty_frames_of_a_burst_fail(store: Path, tmp_path: Path) -> None:
    """What waited for the same run as a bad frame is run again without it, and answered."""
    guilty = {"picky": (99.0, "model_error"), "patient": (1e12, "model_timeout")}
    routes = [device_route(name, name, mode="every", deadline_ms=20_000) for name in guilty]
    with site(tmp_path, store, *routes, top="threads = 1") as home:
        for device, (value, _) in guilty.items():
            for n in range(12):
                numbers = bad.floats(value if n == 5 else 1, 2, 3, 4)
                home.send(f"{device}/{n}", numbers, content_type=TENSOR)
        for device, (_, reason) in guilty.items():
            fates = [home.ear.result(f"{device}/{n}")["reason"] for n in range(12)]
            assert fates == [reason if n == 5 else None for n in range(12)]
        assert home.check_books()["failed"] == 2


@pytest.mark.parametrize("device", ["quarters", "halves", "vault"])
def test_a_second_frame_of_the_same_number_is_counted_only(scene: Scene, device: str) -> None:
    picture = device == "quarters"
    scene.cases += 1
    stream = f"{device}/case-{scene.cases}"
    options = {"content_type": "" if picture else TENSOR}
    for number, seq in enumerate((7, 7, 8)):
        payload = bad.jpeg() if picture else bad.floats(number, 2, 3, 4)
        scene.home.send(stream, payload, user={"boot": "b1", "seq": seq}, **options)
        scene.home.ear.result(stream, 1)  # the first; a frame that waits could be superseded by the next
    scene.home.ear.result(stream, 2)
    assert [r["seq"] for r in scene.home.ear.results(stream)] == [7, 8]
    counts = scene.home.counts(stream)
    assert (counts["answered"], counts["duplicate"], counts["reasons"]) == (
        2, 1, {"duplicate": {"duplicate": 1}},
    )  # fmt: skip


# --- and nobody else noticed -----------------------------------------------------------------------------------------


def test_the_healthy_streams_kept_their_beat(
    scene: Scene, record_property: Callable[[str, object], None]
) -> None:
    for stream in scene.steady:
        stream.stop()
    for stream in scene.steady:
        record_property(stream.stream, round(stream.check_kept(scene.home.ear), 4))


def test_the_books_close_over_all_of_it(scene: Scene) -> None:
    for stream in scene.steady:
        stream.stop()
    total = scene.home.check_books(more=sum(stream.sent for stream in scene.steady))
    assert total["dropped"] == total["superseded"] == total["expired"] == total["missing_upstream"] == 0


def test_the_gateway_did_not_grow(scene: Scene, record_property: Callable[[str, object], None]) -> None:
    grown = rss_of(scene.home) - scene.rss
    record_property("rss_growth_mb", round(grown / 2**20, 1))
    assert grown <= RSS_GROWTH, f"{grown / 2**20:.1f} MiB"
    assert scene.home.gateway.get("/healthz")[0] == 200
