"""The broker files of deploy/, run by a real Mosquitto: only paths, the port and the system user are rewritten."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.conftest import ROOT
from tests.fakes.broker import Broker, mosquitto
from tests.fakes.gateway import gateway

pytestmark = pytest.mark.system

DEPLOY = ROOT / "deploy"
PASSWORD = "not a secret"
NOT_AUTHORIZED = 135
HOME = "penstock/v1/home"
DEV = f"{HOME}/dev"


def shipped(folder: Path, *, extra: str = "") -> Broker:
    """Return a broker on mosquitto.conf, with the ACLs and a password file where `folder` stands for /etc/mosquitto."""
    text = (DEPLOY / "mosquitto.conf").read_text()
    for line in (
        "listener 1883\n",
        "persistence_location /var/lib/mosquitto/\n",
    ):  # the fake says both itself
        assert line in text
        text = text.replace(line, "")
    shutil.copy(DEPLOY / "mosquitto.acl", folder / "penstock.acl")
    passwords = folder / "penstock.passwd"
    passwords.write_text("".join(f"{name}:{PASSWORD}\n" for name in ("gateway", "operator", "door", "yard")))
    subprocess.run(["mosquitto_passwd", "-U", passwords], check=True, timeout=10)
    return mosquitto((text + extra).replace("/etc/mosquitto/", f"{folder}/"), folder=folder)


class Client:
    """A v5 client that keeps what it receives, and tells the reason code of each of its publishes."""

    def __init__(self, port: int, user: str, *, keep_s: int = 0, client_id: str = "") -> None:
        self.topics: list[str] = []
        self._news = threading.Condition()
        self._reasons: dict[int, int] = {}
        self._connected: int | None = None
        self.mqtt = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=mqtt.MQTTv5)
        self.mqtt.max_queued_messages_set(0)
        self.mqtt.max_inflight_messages_set(500)
        self.mqtt.username_pw_set(user, PASSWORD)
        self.mqtt.on_connect = lambda _c, _u, _f, reason, _p: self._note(connected=reason.value)
        self.mqtt.on_message = lambda _c, _u, message: self._note(topic=message.topic)
        self.mqtt.on_publish = lambda _c, _u, mid, reason, _p: self._note(mid=mid, reason=reason.value)
        self._port, self._keep_s = port, keep_s

    def connect(self) -> int:
        """Connect, and return the reason code of the CONNACK."""
        expiry = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        expiry.SessionExpiryInterval = self._keep_s
        self.mqtt.connect("127.0.0.1", self._port, clean_start=self._keep_s == 0, properties=expiry)
        self.mqtt.loop_start()
        self.wait(lambda: self._connected is not None)
        assert self._connected is not None
        return self._connected

    def subscribe(self, topic: str) -> None:
        """Subscribe at QoS 1, and wait for the SUBACK."""
        done = threading.Event()
        self.mqtt.on_subscribe = lambda *_: done.set()
        self.mqtt.subscribe(topic, 1)
        assert done.wait(10)

    def publish(self, topic: str, payload: bytes = b"x", *, reply: str = "") -> int:
        """Publish at QoS 1, with a Response Topic where given, and return the reason code of the PUBACK."""
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        if reply:
            properties.ResponseTopic = reply
        mid = self.mqtt.publish(topic, payload, qos=1, properties=properties).mid
        self.wait(lambda: mid in self._reasons)
        return self._reasons[mid]

    def acknowledged(self) -> int:
        """Return how many publishes the broker has acknowledged."""
        return len(self._reasons)

    def wait(self, condition: Callable[[], bool], timeout_s: float = 20) -> None:
        """Wait until `condition` holds; it is looked at whenever something arrives."""
        with self._news:
            assert self._news.wait_for(condition, timeout_s), f"nothing came; so far {self.topics[-5:]}"

    def close(self) -> None:
        """Disconnect, and end the thread."""
        self.mqtt.disconnect()
        self.mqtt.loop_stop()
        # The circle through these would leave its sockets to the garbage collector, which warns of them.
        self.mqtt.on_connect = self.mqtt.on_message = self.mqtt.on_publish = None

    def _note(self, connected: int | None = None, topic: str = "", mid: int = 0, reason: int = 0) -> None:
        with self._news:
            if connected is not None:
                self._connected = connected
            if topic:
                self.topics.append(topic)
            if mid:
                self._reasons[mid] = reason
            self._news.notify_all()


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """Run the shipped broker, and return its port."""
    with shipped(tmp_path) as broker:
        yield broker.port


@pytest.fixture
def join(port: int) -> Iterator[Callable[..., Client]]:
    """Return a function that connects a client; all are closed at the end."""
    clients: list[Client] = []

    def connected(user: str, **options: object) -> Client:
        client = Client(port, user, **options)  # type: ignore[arg-type]
        assert client.connect() == 0
        clients.append(client)
        return client

    yield connected
    for client in clients:
        client.close()


# User → topics that this user may publish; below, who may not publish what, and what everybody sees of it.
ALLOWED = {
    "door": ["dev/door/cam/frame", "dev/door/vib/data", "dev/door/status"],
    "gateway": [
        "dev/yard/cam/result",
        "dev/yard/cam/event",
        "dev/yard/cam/receipt",
        "dev/yard/cam/snapshot",
        "reply/yard/1",
        "gw/gw1/status",
        "gw/gw1/stats",
        "gw/gw1/model/person/reported",
        "gw/gw1/offload/state",
    ],
    "operator": ["gw/gw1/offload/set"],
}
REFUSED = [
    ("yard", "dev/door/cam/frame"),
    ("yard", "dev/door/vib/data"),
    ("yard", "dev/door/status"),
    ("door", "dev/door/cam/result"),
    ("door", "dev/door/cam/receipt"),
    ("door", "reply/yard/1"),
    ("door", "gw/gw1/status"),
    ("door", "gw/gw1/offload/set"),
    ("door", "gw/gw1/model/person/desired"),
    ("gateway", "dev/door/cam/frame"),
    ("operator", "dev/door/cam/frame"),
    ("operator", "dev/door/cam/result"),
    ("operator", "gw/gw1/model/person/desired"),
]
SEEN = {
    "door": set[str](),
    "yard": set(ALLOWED["gateway"][:5]),
    "gateway": {*ALLOWED["door"], ALLOWED["gateway"][0], *ALLOWED["gateway"][5:], *ALLOWED["operator"]},
    "operator": {"dev/door/status", *ALLOWED["gateway"], *ALLOWED["operator"]} - {"reply/yard/1"},
}


def test_everybody_publishes_and_reads_what_is_theirs(join: Callable[..., Client]) -> None:
    readers = {user: join(user) for user in SEEN}
    for reader in readers.values():
        reader.subscribe("penstock/#")
    for user, topics in ALLOWED.items():
        writer = join(user)
        for topic in topics:
            assert writer.publish(f"{HOME}/{topic}") == 0, (user, topic)
    gateway = join("gateway")
    for user, reader in readers.items():
        # What a reader sees of this comes after all that it sees of the above.
        end = f"{HOME}/dev/{user}/end/result" if user in ("door", "yard") else f"{HOME}/gw/gw1/end"
        gateway.publish(end)
        reader.wait(partial(reader.topics.__contains__, end))
        assert {t.removeprefix(f"{HOME}/") for t in reader.topics if "/end" not in t} == SEEN[user], user


@pytest.mark.parametrize(("user", "topic"), REFUSED)
def test_nobody_publishes_what_is_not_theirs(join: Callable[..., Client], user: str, topic: str) -> None:
    assert join(user).publish(f"{HOME}/{topic}") == NOT_AUTHORIZED


def test_a_stranger_is_not_let_in(port: int) -> None:
    stranger = Client(port, "gateway")
    stranger.mqtt.username_pw_set("gateway", "guessed")
    assert stranger.connect() == NOT_AUTHORIZED
    stranger.close()


def test_a_frame_that_only_the_gateway_may_refuse_gets_through(join: Callable[..., Client]) -> None:
    gateway, device = join("gateway"), join("door")
    gateway.subscribe(f"{DEV}/+/+/frame")
    assert device.publish(f"{DEV}/door/cam/frame", bytes(10_000_000)) == 0
    gateway.wait(lambda: len(gateway.topics) == 1)


def test_the_queue_holds_an_outage(join: Callable[..., Client]) -> None:
    """Twelve seconds of a 1,000/s flow: a stock broker keeps the first second of it."""
    windows = 12_000
    away = join("gateway", keep_s=600, client_id="gw1-every")
    away.subscribe(f"{DEV}/+/+/data")
    away.close()
    device = join("door")
    for _ in range(windows):
        device.mqtt.publish(f"{DEV}/door/vib/data", bytes(640), qos=1)
    device.wait(lambda: device.acknowledged() == windows)
    back = join("gateway", keep_s=600, client_id="gw1-every")
    back.wait(lambda: len(back.topics) == windows)


def test_tls_and_client_certificates(tmp_path: Path, free_port: Callable[[], int]) -> None:
    """A device's certificate names it: no password, and the same ACLs."""
    certificates(tmp_path / "certs")
    port = free_port()
    tls = (DEPLOY / "mosquitto-tls.conf").read_text().replace("listener 8883", f"listener {port} 127.0.0.1")
    for line in ("require_certificate true", "use_identity_as_username true"):
        assert f"\n#{line}\n" in tls
        tls = tls.replace(f"#{line}", line)
    with shipped(tmp_path, extra=tls):
        door = Client(port, "")
        door.mqtt.username_pw_set(None)
        folder = tmp_path / "certs"
        door.mqtt.tls_set(f"{folder}/ca.crt", f"{folder}/door.crt", f"{folder}/door.key")
        assert door.connect() == 0
        assert door.publish(f"{DEV}/door/cam/frame") == 16  # accepted, and nobody subscribes
        assert door.publish(f"{DEV}/yard/cam/frame") == NOT_AUTHORIZED
        door.close()


def certificates(folder: Path) -> None:
    """Make a CA, and certificates that it signed for the server 127.0.0.1 and the device `door`."""
    folder.mkdir()

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=20)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=test CA", "-days", "2")
    for name, common in {"server": "127.0.0.1", "door": "door"}.items():
        openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={common}")
        (folder / "alt.cnf").write_text("subjectAltName=IP:127.0.0.1\n")
        signed = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "alt.cnf", "-days", "2")
        openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.crt", *signed)


def test_a_device_gets_its_replies_and_nobody_elses(
    tmp_path: Path, port: int, join: Callable[..., Client]
) -> None:
    """The shipped gateway on the shipped broker: what a Response Topic needs is there on both sides."""
    write_config(tmp_path)
    text = (tmp_path / "gateway.toml").read_text()
    for shipped_value, ours in (
        ("mqtt://127.0.0.1:1883", f"mqtt://127.0.0.1:{port}"),
        ("/var/lib/penstock", "state"),
    ):
        assert shipped_value in text
        text = text.replace(shipped_value, ours)
    door, yard = join("door"), join("yard")
    for device in (door, yard):
        device.subscribe(f"{HOME}/reply/#")
    with gateway(text, tmp_path) as process:
        process.wait_ready()
        for device, reply in ((door, "door/1"), (yard, "yard/1"), (door, "door/2")):
            frame = f"{DEV}/{reply.partition('/')[0]}/cam/frame"
            assert device.publish(frame, reply=f"{HOME}/reply/{reply}") == 0
            device.wait(partial(device.topics.__contains__, f"{HOME}/reply/{reply}"))
        assert door.topics == [f"{HOME}/reply/door/1", f"{HOME}/reply/door/2"]
        assert yard.topics == [f"{HOME}/reply/yard/1"]
        assert process.status()["state"] == "online"


def write_config(folder: Path) -> Path:
    """Write the shipped gateway.toml, its password beside it, for a model that is there."""
    (folder / "bundles").symlink_to(ROOT / "models" / "penstock_models" / "demo")
    password = folder / "mqtt.password"
    password.touch(0o600)
    password.write_text(PASSWORD)
    config = folder / "gateway.toml"
    config.write_text((DEPLOY / "gateway.toml").read_text().replace('"person"', '"vibration"'))
    return config


def test_the_gateways_own_check_finds_the_broker_good(tmp_path: Path, port: int) -> None:
    """`gateway check` may do all that it tries, finds device topics closed, and the queue large."""
    config = write_config(tmp_path)
    done = subprocess.run(
        [f"{sys.prefix}/bin/penstock", "gateway", "check", "-c", config, "--probe-queue", "3000", "--json"],
        env={**os.environ, "PENSTOCK_MQTT__URL": f"mqtt://127.0.0.1:{port}"},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    report = json.loads(done.stdout)
    assert (done.returncode, report["problems"]) == (0, []), done.stdout + done.stderr
    assert report["warnings"] == []
    assert "queued 3000 of 3000 messages for an absent gateway" in report["broker"]
    assert any(fact.startswith("closed: ") for fact in report["broker"])
