"""The doctor on a real Mosquitto: each fault is planted once by a real client, and is the only one that is found.

All devices live on one broker at once, so that the whole takes no longer than the slowest rule needs. Each sends ten frames a
second from the moment at which its doctor listens.
"""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from penstock_gateway.embedded import amqtt_broker
from penstock_gateway.mqtt import LinkOptions, Publish, encode
from penstock_models.errors import PenstockError
from penstock_models.main import main
from penstock_sim.doctor.broker_log import BrokerLog
from penstock_sim.doctor.examination import Report
from penstock_sim.doctor.listen import Watch, watch
from penstock_sim.doctor.reach import Reach
from penstock_sim.doctor.seen import Limits
from penstock_sim.doctor.streams import Rules
from tests.conftest import ROOT
from tests.fakes.broker import Broker, mosquitto
from tests.sim.patient import JPEG, PNG

pytestmark = pytest.mark.system

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


# --- all of them at once ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with mosquitto("log_type all\nconnection_messages true\nmax_inflight_messages 100\nmax_queued_messages 10000") as broker:  # fmt: skip
        yield broker


@pytest.fixture(scope="module")
def reports(broker: Broker) -> dict[str, Report]:
    """The report on every device, by its story."""
    return asyncio.run(examine_all(broker, {**FAULTS, **HEALTHY}))


async def examine_all(broker: Broker, stories: dict[str, Story]) -> dict[str, Report]:
    listening, over = {name: asyncio.Event() for name in stories}, threading.Event()

    def doctor(name: str) -> asyncio.Task[Report]:
        wanted = Watch(device=name, reach=Reach(url=broker.url), seconds=SECONDS, rules=RULES)
        return asyncio.create_task(watch(wanted, asyncio.Event(), lambda *_: listening[name].set()))

    with ExitStack() as stack:
        devices = [(story, Device(broker.host, broker.port, name, 4 if name == "plain" else 5)) for name, story in stories.items()]  # fmt: skip
        for _, device in devices:
            stack.callback(device.close)
        doctors = {name: doctor(name) for name in stories}
        async with asyncio.timeout(WAIT_S):
            for event in listening.values():
                await event.wait()
        lives = asyncio.create_task(asyncio.to_thread(live, devices, over))
        found = {name: await task for name, task in doctors.items()}
        over.set()
        await lives
    return found


def live(devices: Sequence[tuple[Story, Device]], over: threading.Event) -> None:
    """Beat until it is over."""
    beat, begin = 0, time.monotonic()
    while not over.wait(max(0.0, begin + beat * BEAT_S - time.monotonic())):
        for story, device in devices:
            story(device, beat)
        beat += 1


def told(report: Report) -> str:
    return "\n".join(f"{f.fault} {f.stream}: {f.came}" for f in report.findings)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_and_no_other(fault: str, reports: dict[str, Report]) -> None:
    report = reports[fault]
    assert {finding.fault for finding in report.findings} == {fault}, told(report)
    assert report.frames > 20 and not report.healthy


@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_is_found_in_a_healthy_device(name: str, reports: dict[str, Report]) -> None:
    assert reports[name].healthy, told(reports[name])
    assert reports[name].reconnects == "status topic"


def test_what_was_planted_once_is_counted_once(reports: dict[str, Report]) -> None:
    counts = {fault: reports[fault].findings[0].count for fault in FAULTS}
    once = ("topic", "size", "clock_jump", "payload_type", "receipt", "retained")
    assert {fault: counts[fault] for fault in once} == dict.fromkeys(once, 1)
    assert counts["seq_gap"] == 2
    assert 60 < reports["plain"].frames <= SECONDS / BEAT_S + 1


async def test_the_brokers_log_tells_of_connections_without_a_status(broker: Broker) -> None:
    """Where the device says nothing of itself, and Mosquitto's own log does."""
    wanted = Watch(
        device="silent",
        reach=Reach(url=broker.url),
        seconds=60.0,
        log=BrokerLog(broker.folder / "mosquitto.log"),
    )
    stop, listening = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(watch(wanted, stop, lambda *_: listening.set()))
    async with asyncio.timeout(WAIT_S):
        await listening.wait()
        await asyncio.to_thread(connect_often, broker, 10)
    stop.set()
    report = await task
    assert {finding.fault for finding in report.findings} == {"backoff"}
    assert report.reconnects == "broker log"


def connect_often(broker: Broker, times: int) -> None:
    for _ in range(times):
        with socket.create_connection((broker.host, broker.port), timeout=WAIT_S) as wire:
            wire.sendall(encode.connect(LinkOptions("", 0, "silent-1"), 4))
            wire.recv(4)


# --- the command ------------------------------------------------------------------------------------------------------


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "penstock_models.main", "sim", *arguments)
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def beating(broker: Broker, story: Story, name: str) -> ExitStack:
    """A device that lives until the stack is closed."""
    stack, over = ExitStack(), threading.Event()
    device = Device(broker.host, broker.port, name)
    stack.callback(device.close)
    life = threading.Thread(target=live, args=([(story, device)], over))
    life.start()
    stack.callback(life.join)
    stack.callback(over.set)
    return stack


def test_a_clean_bill_is_exit_0_and_one_json_object(broker: Broker) -> None:
    with beating(broker, lambda device, n: device.send(n), "well"):
        done = run("doctor", "well", "--seconds", "2", "--url", broker.url, "--json")
    report: dict[str, Any] = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert report["v"] == 1 and report["healthy"] and report["findings"] == []


def test_findings_are_exit_1_and_tables(broker: Broker) -> None:
    with beating(broker, boot, "ill"):
        done = run("doctor", "ill", "--seconds", "2", "--url", broker.url)
    assert done.returncode == 1, done.stderr
    assert "ill: 1 error in" in done.stdout.splitlines()[-1]
    assert "a boot id beside seq" in done.stdout


def test_an_interrupt_ends_the_watch_with_what_was_seen(broker: Broker) -> None:
    command = (
        sys.executable,
        "-m",
        "penstock_models.main",
        "sim",
        "doctor",
        "cut",
        "--seconds",
        "60",
        "--url",
        broker.url,
    )
    before = broker.log.count("Sending SUBACK to penstock-doctor")
    with (
        beating(broker, lambda device, n: device.send(n), "cut"),
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process,
    ):
        deadline = time.monotonic() + WAIT_S
        while broker.log.count("Sending SUBACK to penstock-doctor") < before + 2:
            assert time.monotonic() < deadline, "it does not subscribe"
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode in (0, 1) and out.splitlines()[-1].startswith("cut: "), out


def test_a_device_that_is_not_there_is_exit_1(broker: Broker) -> None:
    done = run("doctor", "nobody", "--seconds", "1", "--url", broker.url)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "nobody: nothing heard in 1 s at site home"


def test_a_broker_that_refuses_is_one_line(tmp_path: Path) -> None:
    passwords = tmp_path / "passwords"
    passwords.touch()
    with mosquitto(f"allow_anonymous false\npassword_file {passwords}") as broker:
        secret = tmp_path / "secret"
        secret.write_text("wrong")
        done = run("doctor", "door", "--url", broker.url, "--username", "me", "--password-file", str(secret))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1 and "not authorized (0x87)" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("door", "--url", "mqtt://127.0.0.1:1"), 1, "expected an MQTT broker at 127.0.0.1:1"),
        (("door", "--url", "http://box"), 2, 'expected "mqtt://HOST:PORT"'),
        (("door", "--url", "embedded"), 2, "expected the URL of a broker"),
        (("a/b",), 2, "expected the name of a device"),
        (("door", "--filter", "penstock/#"), 2, "overlaps"),
        (("door", "--broker-log", "/none"), 2, "expected the broker's log at /none"),
        (("door", "--content-type", "image/jpg"), 2, "--content-type: expected one of"),
        (("door", "--password-file", "/none"), 2, "expected --username"),
        (("door", "--client-id", "x"), 2, "expected --broker-log"),
        (("door", "--ca", "/none", "--url", "mqtts://127.0.0.1:1"), 2, "expected the CA certificates"),
        ((), 2, "Missing argument"),
    ],
)
def test_bad_input_is_one_line(
    arguments: tuple[str, ...], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sim", "doctor", *arguments]) == code
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and words in err, err


# --- other brokers ----------------------------------------------------------------------------------------------------


async def test_a_broker_of_3_1_1_shows_what_it_can(free_port: Callable[[], int]) -> None:
    port = free_port()
    async with amqtt_broker("127.0.0.1", port) as address:
        device = await asyncio.to_thread(Device, address.host, address.port, "old", 4)
        device.send(0, retain=True)
        wanted = Watch(device="old", reach=Reach(url=f"mqtt://127.0.0.1:{port}"), seconds=2.0)
        life = beat_in(device)
        report = await watch(wanted, asyncio.Event(), lambda *_: None)
        life.cancel()
        await asyncio.to_thread(device.close)
    assert {finding.fault for finding in report.findings} == {"retained"}, told(report)
    assert any("3.1.1 only" in note for note in report.notes)


def beat_in(device: Device) -> asyncio.Task[None]:
    async def life() -> None:
        while True:
            device.send(0)
            await asyncio.sleep(BEAT_S)

    return asyncio.create_task(life())


async def test_a_broker_that_goes_away_leaves_a_report_that_says_so() -> None:
    async with mosquitto() as broker:
        listening = asyncio.Event()
        wanted = Watch(device="door", reach=Reach(url=broker.url), seconds=60.0)
        task = asyncio.create_task(watch(wanted, asyncio.Event(), lambda *_: listening.set()))
        async with asyncio.timeout(WAIT_S):
            await listening.wait()
            await asyncio.to_thread(broker.kill)
            report = await task
    assert not report.healthy and any("the broker closed the connection" in note for note in report.notes)


async def test_the_rights_that_the_readme_names_are_enough(tmp_path: Path) -> None:
    """The shipped rights with those lines: topics astray are heard, frames judged, receipts seen."""
    readme = (ROOT / "device-sim" / "README.md").read_text()
    rights = readme[readme.index("user doctor\n") :].partition("```")[0]
    acl = tmp_path / "acl"
    acl.write_text(
        (ROOT / "deploy" / "mosquitto.acl").read_text() + f"\n{rights}\nuser loose\ntopic write #\n"
    )
    acl.chmod(0o600)
    async with mosquitto(f"acl_file {acl}") as broker:
        device = await asyncio.to_thread(Device, broker.host, broker.port, "door", 5, "loose")
        device.receipt(0, [])
        wanted = Watch(device="door", reach=Reach(url=broker.url, username="doctor"), seconds=2.0)
        stop = asyncio.Event()
        task = asyncio.create_task(watch(wanted, stop, lambda *_: None))
        over = threading.Event()
        life = asyncio.create_task(asyncio.to_thread(live, [(astray, device)], over))
        report = await task
        over.set()
        await life
        await asyncio.to_thread(device.close)
    assert {finding.fault for finding in report.findings} == {"topic"}, told(report)
    assert report.streams["cam"].receipted and report.frames > 5


def astray(device: Device, n: int) -> None:
    device.send(n)
    device.send(n, topic=device.topic("cam", "picture"))
    device.send(n, topic="penstock/v1/home/device/door/cam/frame")


CONNACK, GRANTED, DENIED = b"\x20\x03\x00\x00\x00", b"\x90\x04\x00\x01\x00\x01", b"\x90\x04\x00\x01\x00\x87"


async def watch_at(answers: Sequence[bytes]) -> Report:
    """Watch at a broker that gives the n-th connection this answer to SUBSCRIBE; an empty one: it hangs up.

    Mosquitto's own ACL files never refuse a subscription; other brokers do, or close the connection.
    """
    left = iter(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1024)
        writer.write(CONNACK)
        await reader.read(1024)
        if answer := next(left):
            writer.write(answer)
            await reader.read()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        wanted = Watch(device="door", reach=Reach(url=f"mqtt://127.0.0.1:{port}"), seconds=1.0)
        return await watch(wanted, asyncio.Event(), lambda *_: None)


async def test_a_subscription_that_is_refused_is_an_error() -> None:
    with pytest.raises(
        PenstockError, match=r"expected to read penstock/v1/home/dev/door/#: the broker refused"
    ):
        await watch_at([DENIED])


@pytest.mark.parametrize("answer", [DENIED, b""], ids=["refuses", "hangs up"])
async def test_a_wider_subscription_that_is_refused_is_a_note(answer: bytes) -> None:
    report = await watch_at([GRANTED, answer])
    assert any(note.startswith("topics beside the device's own") for note in report.notes), report.notes
