"""Every kind of message that a gateway says, once, from real input: its fields, its sums, its schema.

The ear of every system test holds what it hears against the schemas; here is one of each task, in every payload
format, and the pages and topics around them.
"""

from __future__ import annotations

import base64
import json
import wave
from collections.abc import Iterator
from pathlib import Path

import cbor2
import numpy as np
import numpy.typing as npt
import pytest

from tests.fakes import misbehaving_payloads as payloads
from tests.fakes.clients import envelope
from tests.fakes.gateway_site import STATUS_TOPIC, Site, check_sum, device_route, site
from tests.fakes.schemas import validate

pytestmark = pytest.mark.system

TENSOR = "application/x-tensor"
VALUES = [1.0, 2.0, 3.0, 4.0]
SENML = [{"n": "a", "v": 1.0}, {"n": "b", "v": 2.0}, {"n": "c", "v": 3.0}, {"n": "d", "v": 4.0}]
FORMATS = {
    "tensor": (payloads.floats(*VALUES), TENSOR, {}),
    "tensor with its form": (payloads.floats(*VALUES), TENSOR, {"dt": "f32", "sh": "1x4"}),
    "JSON": (envelope(VALUES), "", {}),
    "JSON rows": (json.dumps([VALUES]).encode(), "application/json", {}),
    "JSON base64": (envelope(base64.b64encode(payloads.floats(*VALUES)).decode(), dt="f32", sh=[4]), "", {}),
    "JSON inputs": (json.dumps({"inputs": {"x": VALUES}}).encode(), "", {}),
    "CBOR": (cbor2.dumps({"data": VALUES}), "", {}),
    "CBOR typed array": (cbor2.dumps({"data": payloads.typed_array(*VALUES)}), "application/cbor", {}),
    "CBOR bytes": (cbor2.dumps({"data": payloads.floats(*VALUES), "dt": "f32", "sh": [1, 4]}), "", {}),
    "SenML": (json.dumps(SENML).encode(), "application/senml+json", {}),
    "SenML in CBOR": (
        cbor2.dumps([{0: name, 2: value} for name, value in zip("abcd", VALUES)]), "application/senml+cbor", {},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def home(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    names = {"cam": "colours", "vib": "halves", "raw": "quarters"}
    routes = [device_route(model, device) for device, model in names.items()]
    routes.append(device_route("halves", "vault", mode="every"))
    with site(tmp_path_factory.mktemp("schema"), store, *routes) as made:
        yield made
        made.check_books()


@pytest.mark.parametrize("device", ["vib", "vault"])
@pytest.mark.parametrize("name", FORMATS)
def test_four_numbers_are_four_numbers_in_every_format(home: Site, device: str, name: str) -> None:
    payload, kind, user = FORMATS[name]
    result = home.ask(f"{device}/{list(FORMATS).index(name)}", payload, content_type=kind, user=user)
    assert (result["status"], result["reason"]) == ("ok", None)
    half = [value / 2 for value in VALUES]
    assert result["anomaly"] == {"score": pytest.approx(np.mean(np.square(half))), "threshold": None}


def test_a_result_says_who_what_when_and_by_whom(home: Site) -> None:
    user = {"boot": "b1", "seq": 3, "ts": 1_700_000_000_000}
    result = home.ask("vault/full", payloads.floats(*VALUES), content_type=TENSOR, user=user)
    keys = ("device", "stream", "seq", "boot", "ts", "status", "answered_by", "placement")
    assert [result[key] for key in keys] == [
        "vault", "full", 3, "b1", 1_700_000_000_000, "ok", "edge", "onnxruntime:cpu",
    ]  # fmt: skip
    assert result["historical"] is True and result["arrived"] > result["ts"]
    assert (result["model"]["name"], result["model"]["version"]) == ("halves", 1)
    assert result["model"]["digest"].startswith("sha256:")
    assert result["offload"] == {"decision": "edge", "reason": "policy", "score": None}
    spent = result["latency_ms"]
    assert 0 < spent["infer"] <= spent["total"] and spent["offload"] == 0
    assert spent["queue"] + spent["decode"] + spent["infer"] <= spent["total"] + 0.01


def test_every_result_has_an_id_of_its_own(home: Site) -> None:
    for _ in range(20):
        home.send("cam/ids", payloads.jpeg(), qos=0)
        home.send("vault/ids", envelope(VALUES))
    home.ear.result("vault/ids", 20)
    home.ear.result("cam/ids", 1)
    seen = [result["id"] for result in home.ear.results()]
    assert len(seen) == len(set(seen))


def test_the_pages_and_topics_say_what_the_ledger_says(home: Site) -> None:
    home.ask("cam/pages", payloads.jpeg())
    home.ask("cam/pages", b"")
    page = home.page()
    assert page["state"] == "online" and page["streams"]["cam/pages"]["reasons"] == {"rejected": {"empty": 1}}
    assert {model["name"] for model in page["models"]} == {"colours", "halves", "quarters"}
    assert all(model["state"] == "available" for model in page["models"])
    assert [r["mode"] for r in page["routes"]] == ["latest"] * 3 + ["every"]
    assert all(link["connected"] and link["protocol"] == 5 for link in page["links"])
    one = validate("status-page", home.gateway.get("/v1/status?stream=cam/pages")[1])
    assert list(one["streams"]) == ["cam/pages"]
    assert home.gateway.get("/v1/status?stream=cam/none")[0] == 404
    metrics = home.gateway.get("/metrics")[1].decode()
    assert "penstock_link_up" in metrics and "cam/pages" not in metrics


def test_the_stats_are_heard_once_more_at_the_end(store: Path, tmp_path: Path) -> None:
    with site(tmp_path, store, device_route("colours", "cam")) as home:
        for _ in range(3):
            home.ask("cam/stats", payloads.jpeg())
        page = home.page()
        home.gateway.stop()
        home.ear.wait(lambda: states(home)[-1:] == ["stopped"], "stopped")
        last = home.ear.heard("stats")[-1]
        assert last.body["start"] == page["start"] and len(last.payload) <= 64_000
        assert last.body["ledger"] == page["ledger"] == last.body["streams"]["cam/stats"]
        check_sum("stats", last.body["ledger"])


def states(home: Site) -> list[str]:
    return [h.body["state"] for h in home.ear.heard(topic=STATUS_TOPIC)]


# --- real models, real windows ---------------------------------------------------------------------------------------


def pcm(path: Path) -> npt.NDArray[np.int16]:
    with wave.open(str(path)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2")


def test_real_sensor_windows_get_their_known_answers(store: Path, realdata: Path, tmp_path: Path) -> None:
    """Anomaly scores of a machine's sound, and a voice found by a model that carries state for each stream."""
    routes = (
        device_route("ad01", "pump", kind="data", mode="every", content_type=TENSOR, dtype="f32"),
        device_route("silero", "mic", kind="data", mode="every", content_type=TENSOR, dtype="i16"),
    )
    with site(tmp_path, store, *routes) as home:
        known = {"noise": 36.96, "yes": 282.04}
        for name in known:
            mel = np.fromfile(realdata / "sensor" / "ad01_logmel" / f"{name}_1000ms.bin", "<f4")
            for start in range(0, len(mel) - 639, 128):
                home.send(f"pump/{name}", mel[start : start + 640].tobytes(), "data")
        voices = {"yes_1000ms": 12, "noise_1000ms": 0, "no_1000ms": 11}
        for name in voices:
            sound = pcm(realdata / "audio" / f"{name}.wav")
            for start in range(0, len(sound) - 511, 512):
                home.send(f"mic/{name}", sound[start : start + 512].tobytes(), "data")
        for name, score in known.items():
            home.ear.result(f"pump/{name}", 28)
            scores = [r["anomaly"]["score"] for r in home.ear.results(f"pump/{name}")]
            assert np.mean(scores) == pytest.approx(score, rel=0.01)
        for name, steps in voices.items():
            home.ear.result(f"mic/{name}", 31)
            outputs = [r["outputs"]["output"] for r in home.ear.results(f"mic/{name}")]
            spoken = [np.frombuffer(base64.b64decode(o["data"]), "<f4")[0] > 0.5 for o in outputs]
            assert sum(spoken) == steps, name
        home.check_books()
