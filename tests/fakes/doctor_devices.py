"""Real devices for the doctor to watch: each with one fault of its own, or with none. Each sends ten frames a second."""

import json
import socket
import threading
import time
from collections.abc import Callable, Sequence

from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from penstock_gateway.mqtt import LinkOptions, Publish, encode
from penstock_sim.doctor.examination import Report
from penstock_sim.doctor.seen import Limits
from penstock_sim.doctor.streams import Rules
from tests.sim.patient import JPEG, PNG

LOGGING = "log_type all\nconnection_messages true\nmax_inflight_messages 100\nmax_queued_messages 10000"
"""A broker's configuration whose log says who connects when."""

SECONDS = 9.0
BEAT_S = 0.1
WAIT_S = 10.0
RULES = Rules(Limits(max_frame_bytes=100_000))


class Device:
    """A device on paho. `send` publishes the n-th frame of its camera, as it should be but for what is given."""

    def __init__(
        self, host: str, port: int, name: str, protocol: int = 5, username: str | None = None
    ) -> None:
        self.name, self.v5, self.boot = name, protocol == 5, "b1"
        version = MQTTProtocolVersion.MQTTv5 if self.v5 else MQTTProtocolVersion.MQTTv311
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, f"{name}-client", protocol=version)
        self.client.username_pw_set(username)
        connected = threading.Event()
        self.client.on_connect = lambda *_: connected.set()
        self.client.will_set(f"penstock/v1/home/dev/{name}/status", b"offline", 1, True)
        self.client.connect(host, port)
        self.client.loop_start()
        assert connected.wait(WAIT_S)
        self.client.publish(f"penstock/v1/home/dev/{name}/status", b"online", 1, True)

    def topic(self, stream: str = "cam", kind: str = "frame") -> str:
        return f"penstock/v1/home/dev/{self.name}/{stream}/{kind}"

    def send(
        self,
        n: int,
        payload: bytes = JPEG,
        content_type: str = "image/jpeg",
        *,
        topic: str = "",
        qos: int = 1,
        retain: bool = False,
        expiry_s: int | None = 2,
        clock_s: float = 0.0,
        leave_out: str = "",
    ) -> None:
        keys = {"boot": self.boot, "seq": n, "ts": int((time.time() + clock_s) * 1000)}
        keys.pop(leave_out, None)
        properties = None
        if self.v5:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.ContentType = content_type
            properties.UserProperty = [(key, str(value)) for key, value in keys.items()]
            if expiry_s is not None:
                properties.MessageExpiryInterval = expiry_s
        self.client.publish(topic or self.topic(), payload, qos, retain, properties)

    def window(self, n: int, stream: str = "vib", **keys: object) -> None:
        """The n-th window of a sensor, with its keys in the envelope."""
        body = {"v": 1, "boot": self.boot, "seq": n, "ts": int(time.time() * 1000), **keys, "data": [1, 2]}
        self.client.publish(self.topic(stream, "data"), json.dumps(body), 1)

    def receipt(self, through: int, missing: Sequence[tuple[int, int]], stream: str = "cam") -> None:
        """What a gateway would say; the device's own connection carries it, which nobody can see."""
        body = {"v": 1, "boot": self.boot, "through": through, "missing": missing, "window": 100}
        self.client.publish(self.topic(stream, "receipt"), json.dumps(body), 1, True)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


# --- one story a fault: called at each beat with the number of the beat -----------------------------------------------

Story = Callable[[Device, int], None]


def topic(device: Device, n: int) -> None:
    device.send(n)
    if n == 5:
        device.send(0, topic="/" + device.topic("yard"))
        device.send(0, topic=device.topic("yard", "frmae"))


def content_type(device: Device, n: int) -> None:
    device.send(n, content_type="image/jpg")


def size(device: Device, n: int) -> None:
    device.send(n, JPEG + bytes(100_000) if n == 20 else JPEG)


def clock_skew(device: Device, n: int) -> None:
    device.send(n, clock_s=-3600.0)


def clock_jump(device: Device, n: int) -> None:
    device.send(n, clock_s=0.0 if n < 30 else 40.0)


def seq_gap(device: Device, n: int) -> None:
    device.send(n if n < 10 else n + 2)


def boot(device: Device, n: int) -> None:
    device.send(n, leave_out="boot")


def payload_type(device: Device, n: int) -> None:
    device.send(n, *((JPEG, "image/jpeg") if n < 10 else (PNG, "image/png")))


def backoff(device: Device, n: int) -> None:
    device.send(n)
    if 5 <= n < 15:
        break_a_connection(device)


def receipt(device: Device, n: int) -> None:
    device.send(n if n < 10 else n + 1)
    if n == 12:
        device.receipt(12, [(10, 10)])


def expiry(device: Device, n: int) -> None:
    device.send(n, expiry_s=None)


def retained(device: Device, n: int) -> None:
    device.send(n, retain=n == 10)


FAULTS: dict[str, Story] = {
    story.__name__: story
    for story in (topic, content_type, size, clock_skew, clock_jump, seq_gap, boot, payload_type, backoff, receipt,
                  expiry, retained)
}  # fmt: skip


def break_a_connection(device: Device) -> None:
    """Connect as the device's other half with its will, say `online`, and vanish."""
    status = Publish(device.topic().replace("cam/frame", "status"), b"online", retain=True)
    will = Publish(status.topic, b"offline", retain=True)
    options = LinkOptions("", 0, f"{device.name}-flapping", will=will)
    with socket.create_connection((device.client.host, device.client.port), timeout=WAIT_S) as wire:
        wire.sendall(encode.connect(options, 4))
        wire.recv(4)
        wire.sendall(encode.publish_header(status, 4) + status.payload)


# --- devices with nothing wrong ---------------------------------------------------------------------------------------


def healthy(device: Device, n: int) -> None:
    """Two streams, jitter, redelivery, a restart, and a clock that NTP sets by a second."""
    if n == 45:
        device.boot = "b2"
    number = n if n < 45 else n - 45
    clock_s = 0.6 if n < 30 else -0.4
    for _ in range(2 if n % 10 == 3 else 1):
        device.send(number, clock_s=clock_s, qos=n % 2)
    device.window(number, ts=int((time.time() + clock_s) * 1000))


def keeping(device: Device, n: int) -> None:
    """Loses a window, is told so, and sends it again."""
    if n != 10:
        device.window(n)
    if n == 12:
        device.receipt(12, [(10, 10)], "vib")
    if n == 25:
        device.window(10)
        device.receipt(25, [], "vib")


def plain(device: Device, n: int) -> None:
    """As `mosquitto_pub -f photo.jpg` on 3.1.1: nothing but a picture."""
    device.send(n)


HEALTHY: dict[str, Story] = {story.__name__: story for story in (healthy, keeping, plain)}


def live(devices: Sequence[tuple[Story, Device]], over: threading.Event) -> None:
    """Beat until it is over."""
    beat, begin = 0, time.monotonic()
    while not over.wait(max(0.0, begin + beat * BEAT_S - time.monotonic())):
        for story, device in devices:
            story(device, beat)
        beat += 1


def told(report: Report) -> str:
    return "\n".join(f"{f.fault} {f.stream}: {f.came}" for f in report.findings)
