"""The device kit against a broker alone: status and will, what goes stale or is full, credentials, arguments."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock_models.errors import UsageError
from penstock_sim.device import Device, Limits
from penstock_sim.device.disk import Disk
from tests.conftest import ROOT
from tests.fakes.broker import mosquitto
from tests.fakes.clients import Ear
from tests.fakes.gateway_site import ROOMY
from tests.system.test_link_brokers import certificates, password_file  # noqa: F401 - a fixture

pytestmark = pytest.mark.system

WAIT_S = 20.0


def window(number: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.full(512, number % 256, np.uint8)


def send(door: Device, count: int) -> None:
    for number in range(count):
        door.send("vib", window(number), kind="data", keep=True)


def wait_for(door: Device, condition: Callable[[], bool]) -> None:
    with door._shared.changed:
        assert door._shared.changed.wait_for(condition, WAIT_S), (door.counters, door.trouble)


def test_old_frames_of_a_camera_are_not_sent(tmp_path: Path) -> None:
    with mosquitto(ROOMY) as broker, Ear(broker, "penstock/v1/home/dev/door/cam/frame") as ear:
        broker.stop()
        with Device(broker.url, "door", fresh_s=0.001) as door:
            for _ in range(3):
                door.send("cam", b"yesterday", content_type="image/jpeg")
            broker.start()
            ear.wait_connected()
            assert door.wait_online(WAIT_S)
            wait_for(door, lambda: door.counters.stale == 3)
            assert ear.heard("frame") == []


def test_the_status_is_retained_and_the_broker_tells_when_it_vanishes(tmp_path: Path) -> None:
    topic = "penstock/v1/home/dev/door/status"
    with mosquitto(ROOMY) as broker, Listener(broker, topic) as ear:
        with Device(broker.url, "door") as door:
            assert door.wait_online(WAIT_S)
        ear.wait(lambda: len(said(ear, topic)) == 2, "the goodbye")
        command = [sys.executable, "-m", "tests.fakes.kit_device", broker.url, str(tmp_path), "0"]
        child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
        ear.wait(lambda: len(said(ear, topic)) == 3, "the second start")
        child.kill()
        child.communicate()
        ear.wait(lambda: len(said(ear, topic)) == 4, "the will")
        assert said(ear, topic) == [b"online", b"offline", b"online", b"offline"]
        with Listener(broker, topic) as late:
            late.wait(lambda: bool(late._heard), "the retained status")
            assert late.heard()[0].retain and late.heard()[0].payload == b"offline"


class Listener(Ear):
    """Hears what is no gateway's."""

    def check(self) -> None:
        pass


def said(ear: Ear, topic: str) -> list[bytes]:
    return [message.payload for message in list(ear._heard) if message.topic == topic]


def test_where_the_store_is_full_send_waits_for_room_then_the_oldest_goes() -> None:
    with mosquitto(ROOMY) as broker:
        door = Device(broker.url, "door", limits=Limits(frames=3), wait_s=0.01)
        send(door, 5)  # nobody gives receipts
        assert (door.counters.waiting, door.counters.forgotten) == (3, 2)
        assert not door.close(timeout_s=0.0)


def test_a_broker_that_refuses_is_named(tmp_path: Path) -> None:
    (tmp_path / "acl").write_text("user door\ntopic read #\n")
    (tmp_path / "password").write_text("secret\n")
    acl = f"acl_file {tmp_path / 'acl'}"
    with mosquitto(acl) as broker, Device(broker.url, "door", password_file=tmp_path / "password") as door:
        send(door, 1)
        wait_for(door, lambda: door.counters.refused >= 1)
        assert "refused penstock/v1/home/dev/door/" in door.trouble and "0x87" in door.trouble
        door.close(timeout_s=0.0)


def test_nobody_who_gives_receipts_is_named() -> None:
    with mosquitto(ROOMY) as broker, Device(broker.url, "door") as door:
        send(door, 1)
        wait_for(door, lambda: door._shared.silence != "")
        assert door.trouble == (
            "no receipt for penstock/v1/home/dev/door/vib/data: no gateway has an `every` route for it now"
        )
        assert door.online and not door.close(timeout_s=0.0)


def test_tls_with_a_certificate_and_a_password(tmp_path: Path, certificates: Path) -> None:  # noqa: F811
    secret = tmp_path / "secret"
    secret.write_text("secret\n")
    config = (
        f"cafile {certificates}/ca.pem\ncertfile {certificates}/server.pem\nkeyfile {certificates}/server.key\n"
        f"require_certificate true\nallow_anonymous false\npassword_file {password_file(tmp_path)}"
    )
    with mosquitto(config) as broker:
        url = f"mqtts://127.0.0.1:{broker.port}"
        own: dict[str, Any] = {"cert": certificates / "client.pem", "key": certificates / "client.key"}
        login: dict[str, Any] = {"username": "gateway", "password_file": secret}
        with Device(url, "door", ca=certificates / "ca.pem", **own, **login) as door:
            assert door.wait_online(WAIT_S)
        with Device(url, "door", ca=certificates / "other.pem", **own, **login) as door:
            assert not door.wait_online(0.5)
            assert "certificate verify failed" in door.trouble


def test_threads_may_send_at_one_time(tmp_path: Path) -> None:
    """Each frame has a number of its own, and the disk has all of them, in the order of their numbers."""
    numbers: list[int] = []

    def sender(door: Device) -> None:
        numbers.extend(door.send("vib", window(0), kind="data", keep=True) for _ in range(50))

    door = Device("mqtt://127.0.0.1:9", "door", store=tmp_path)
    threads = [threading.Thread(target=sender, args=(door,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not door.close(timeout_s=0.0)
    assert sorted(numbers) == list(range(200))
    disk = Disk(tmp_path, "door")
    assert [frame.seq for frame in disk.frames()] == list(range(200))
    disk.close()


@pytest.mark.parametrize(("limit", "stays"), [(10, [0, 1, 2, 3, 4]), (2, [3, 4])])
def test_the_limit_holds_for_what_an_earlier_start_left(tmp_path: Path, limit: int, stays: list[int]) -> None:
    first = Device("mqtt://127.0.0.1:9", "door", store=tmp_path)
    send(first, 5)
    first.close(timeout_s=0.0)
    second = Device("mqtt://127.0.0.1:9", "door", store=tmp_path, limits=Limits(frames=limit))
    assert (second.counters.waiting, second.counters.forgotten) == (len(stays), 5 - len(stays))
    second.close(timeout_s=0.0)
    disk = Disk(tmp_path, "door")
    assert [(frame.boot, frame.seq) for frame in disk.frames()] == [(first.boot, seq) for seq in stays]
    disk.close()


@pytest.mark.parametrize(
    ("url", "keys", "said"),
    [
        ("http://x", {}, 'expected "mqtt://HOST:PORT", "mqtts://HOST:PORT" or "embedded", came "http://x"'),
        ("embedded", {}, 'expected "mqtt://HOST:PORT" or "mqtts://HOST:PORT", came "embedded"'),
        ("mqtt://x", {"name": "a b"}, "expected a device's name of 1 to 64 of A-Z a-z 0-9 _ -, came 'a b'"),
        ("mqtt://x", {"ca": "x.pem"}, "expected a URL that starts with mqtts:// beside ca, cert and key"),
        ("mqtt://x", {"protocol": 3}, "expected the protocol 5 or 4 (MQTT 3.1.1), came 3"),
        ("mqtts://x", {"ca": "/none.pem"}, "expected the CA certificates of the broker as PEM in /none.pem"),
        ("mqtt://x", {"password_file": "/none"}, "/none: expected a readable UTF-8 text file with a secret"),
    ],
)
def test_a_wrong_argument_is_named_at_once(url: str, keys: dict[str, Any], said: str) -> None:
    threads = threading.active_count()
    with pytest.raises(UsageError) as raised:
        Device(url, **{"name": "door", **keys})
    assert str(raised.value).startswith(said)
    assert threading.active_count() == threads
