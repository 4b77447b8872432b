"""The doctor beside a real gateway: its receipts and its word count, and the doctor refuses what it refuses."""

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from penstock_gateway.mqtt import Message
from penstock_sim.doctor.examination import Report
from penstock_sim.doctor.listen import Watch, watch
from penstock_sim.doctor.reach import Reach
from penstock_sim.doctor.seen import Limits, look
from tests.fakes import misbehaving_payloads as bad
from tests.fakes.clients import envelope
from tests.fakes.gateway_site import Site, device_route, site
from tests.sim.patient import EPOCH_MS, JPEG

pytestmark = pytest.mark.system

BEATS, BEAT_S = 75, 0.1
DEVICES = ("well", "torn", "deaf")
WAIT_S = 10.0


@pytest.fixture(scope="module")
def home(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    pictures = [device_route("quarters", device) for device in (*DEVICES, "probe")]
    windows = [device_route("halves", device, "data", mode="every") for device in DEVICES]
    with site(tmp_path_factory.mktemp("doctor"), store, *pictures, *windows) as made:
        yield made


class Doctors:
    """Watch devices from a thread of their own, until they are asked for their reports."""

    def __init__(self, url: str, devices: Sequence[str]) -> None:
        self._url, self._devices = url, devices
        self._reports: dict[str, Report] = {}
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._watch()))
        self._thread.start()
        assert self._ready.wait(WAIT_S)

    async def _watch(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        waiting = set(self._devices)

        def listening(device: str) -> None:
            waiting.discard(device)
            if not waiting:
                self._ready.set()

        async def one(device: str) -> None:
            wanted = Watch(device=device, reach=Reach(url=self._url), seconds=50.0)
            self._reports[device] = await watch(wanted, self._stop, lambda *_: listening(device))

        await asyncio.gather(*(one(device) for device in self._devices))

    def reports(self) -> dict[str, Report]:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(WAIT_S)
        return self._reports


@pytest.fixture(scope="module")
def reports(home: Site) -> dict[str, Report]:
    """What is said of three devices that send pictures and windows at a beat."""
    doctors = Doctors(home.broker.url, DEVICES)
    begin, torn = time.monotonic(), bad.photo()[:-2000]
    over = threading.Event()
    for beat in range(BEATS):
        over.wait(max(0.0, begin + beat * BEAT_S - time.monotonic()))
        for device in DEVICES:
            numbers = {"boot": "b1", "seq": beat, "ts": time.time_ns() // 1_000_000}
            picture = torn if device == "torn" and beat % 10 == 5 else bad.jpeg()
            home.send(f"{device}/cam", picture, content_type="image/jpeg", user=numbers, expiry_s=2)
            if not (device == "deaf" and beat == 5):
                home.send(f"{device}/vib", envelope([1, 0, 0, 0], **numbers), "data")
    home.gateway.wait_settled(home.sent, WAIT_S)
    home.ear.result("deaf/vib", BEATS - 1)
    return doctors.reports()


def faults(report: Report) -> dict[tuple[str, str], int]:
    return {(f.fault, f.stream): f.count for f in report.findings}


def test_a_device_that_does_what_it_should_has_a_clean_bill(reports: dict[str, Report]) -> None:
    report = reports["well"]
    assert report.healthy, faults(report)
    assert report.streams["vib"].receipted and not report.streams["cam"].receipted
    assert report.streams["vib"].answers == {"ok": BEATS}


def test_what_only_the_decoder_sees_is_the_gateways_word(reports: dict[str, Report]) -> None:
    found = faults(reports["torn"])
    assert found.keys() == {("refused", "cam")}
    assert found["refused", "cam"] == reports["torn"].streams["cam"].answers["rejected: decode"]


def test_a_device_that_ignores_real_receipts_is_found(reports: dict[str, Report]) -> None:
    assert faults(reports["deaf"]) == {("receipt", "vib"): 1}
    assert reports["deaf"].findings[0].example.seq == 5


@pytest.mark.parametrize(
    ("payload", "content_type"),
    [
        (b"", "image/jpeg"),
        (JPEG, "image/jpg"),
        (b"\x00\x01", ""),
        (b'{"data":[1', "application/json"),
        (b'{"v":9,"data":[1]}', "application/json"),
        (b'{"data":[1],"dt":"f8"}', "application/json"),
        (b"\x00\x01\x02", "application/x-tensor"),
        (b"\xa1", "application/cbor"),
        (b"hello", "image/png"),
    ],
)
def test_the_doctor_refuses_for_the_reason_for_which_the_gateway_does(
    payload: bytes, content_type: str, home: Site
) -> None:
    user = {"dt": "f32"} if content_type == "application/x-tensor" else {}
    result = home.ask("probe/cam", payload, content_type=content_type, user=user)
    message = Message("t", payload, content_type=content_type, user=tuple(user.items()))
    refusal = look(message, 0.0, EPOCH_MS, Limits()).refusal
    assert refusal is not None
    assert (refusal.bucket, refusal.reason) == (result["status"], result["reason"])
