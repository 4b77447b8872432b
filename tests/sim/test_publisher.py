"""The publisher against the packet decoder, and against a real broker with an echo in the gateway's place."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Literal

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from penstock_gateway.mqtt import LinkOptions, Message, Publish, encode
from penstock_gateway.mqtt.decode import Decoder
from penstock_models.errors import UsageError
from penstock_sim.load.connection import Connection, ConnectionLost, connect
from penstock_sim.load.packets import PublishTemplate
from penstock_sim.load.publisher import Publisher, Target, VirtualStream
from penstock_sim.load.schedule import Periodic
from penstock_sim.sources import Payload, Ring
from tests.fakes.broker import mosquitto
from tests.fakes.mqtt_peer import peer

BODY = b'{"v":1,"data":[1,2]}'


def decode(packet: bytes, protocol: int) -> Message:
    read = Decoder(protocol, lambda packet_id: packet_id).feed(packet)
    assert len(read.messages) == 1
    return read.messages[0]


# --- packets -------------------------------------------------------------------------------------------------------


@given(
    topic=st.text(
        st.characters(exclude_characters="+#\0", exclude_categories=["Cs"]), min_size=1, max_size=60
    ),
    body=st.binary(max_size=20_000),
    seq=st.integers(0, 2**53 - 1),
    ts=st.integers(-(2**40), 2**53 - 1),
    qos=st.sampled_from([0, 1]),
)
def test_a_v5_packet_carries_the_stamp_as_user_properties(
    topic: str, body: bytes, seq: int, ts: int, qos: int
) -> None:
    template = PublishTemplate(topic, qos, 5, "image/jpeg", "b1")
    message = decode(template.packet(body, (("sh", "1x2"),), seq, ts, packet_id=77), 5)
    assert (message.topic, message.payload, message.qos, message.content_type) == (
        topic,
        body,
        qos,
        "image/jpeg",
    )
    assert message.user == (("sh", "1x2"), ("boot", "b1"), ("seq", str(seq)), ("ts", str(ts)))
    assert message.ack == (77 if qos else 0)


def test_a_packet_may_say_more_and_expire() -> None:
    template = PublishTemplate("t", 0, 5, "image/jpeg", "b1", {"dl": 200, "pr": 7}, expiry_s=2)
    message = decode(template.packet(b"jpeg", (), 5, 6), 5)
    assert dict(message.user) == {"boot": "b1", "dl": "200", "pr": "7", "seq": "5", "ts": "6"}
    assert message.expiry_s == 2
    inside = PublishTemplate("t", 0, 5, "application/json", "b1", {"dl": 200})
    assert json.loads(decode(inside.packet(BODY, (), 5, 6), 5).payload)["dl"] == 200


def test_a_spoiled_envelope_is_stamped_outside() -> None:
    template = PublishTemplate("t", 0, 5, "application/cbor", "b1", spoiled=True)
    message = decode(template.packet(b"", (), 5, 6), 5)
    assert (message.payload, dict(message.user)) == (b"", {"boot": "b1", "seq": "5", "ts": "6"})
    assert not PublishTemplate("t", 0, 4, "application/cbor", "b1", spoiled=True).stamped


@pytest.mark.parametrize("protocol", [4, 5])
def test_an_envelope_carries_the_stamp_itself(protocol: int) -> None:
    template = PublishTemplate("t", 0, protocol, "application/json", "b1")
    message = decode(template.packet(BODY, (), 5, 6), protocol)
    assert json.loads(message.payload) == {"v": 1, "data": [1, 2], "boot": "b1", "seq": 5, "ts": 6}
    assert (message.user, template.stamped) == ((), True)


def test_an_image_on_3_1_1_is_unstamped() -> None:
    template = PublishTemplate("t", 0, 4, "image/jpeg", "b1")
    assert decode(template.packet(b"jpeg", (), 5, 6), 4).payload == b"jpeg"
    assert not template.stamped


# --- a real broker -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A broker that refuses what is outside of penstock/, and takes 20 messages in flight."""
    folder = tmp_path_factory.mktemp("broker")
    (folder / "acl").write_text("topic readwrite penstock/#\n")
    limits = f"max_inflight_messages 20\nacl_file {folder / 'acl'}"
    with mosquitto(limits, folder=folder) as running:
        yield running.url


class Echo:
    """Answers every frame as a gateway would: not those whose seq is in `silent`, and with a refusal for `rejected`."""

    def __init__(self) -> None:
        self.seen: list[Message] = []
        self.silent: frozenset[int] = frozenset()
        self.rejected: frozenset[int] = frozenset()
        self.connection: Connection | None = None

    def answer(self, messages: Sequence[Message]) -> None:
        self.seen += messages
        for message in messages:
            keys = dict(message.user)
            if not keys:
                keys = json.loads(message.payload)
            if int(keys["seq"]) in self.silent:
                continue
            device, stream = message.topic.split("/")[4:6]
            result = {
                "device": device,
                "stream": stream,
                "boot": keys["boot"],
                "seq": int(keys["seq"]),
                "status": "rejected" if int(keys["seq"]) in self.rejected else "ok",
            }
            body = msgspec.json.encode(result)
            out = Publish(message.topic.rpartition("/")[0] + "/result", body)
            assert self.connection is not None
            self.connection.write([encode.publish_header(out, 5) + body])


@pytest.fixture
async def echo(broker: str) -> AsyncIterator[Echo]:
    made = Echo()
    port = int(broker.rpartition(":")[2])
    made.connection = await connect(LinkOptions("127.0.0.1", port, "echo"), 5, made.answer)
    await made.connection.subscribe([("penstock/v1/home/dev/+/+/data", 1)])
    yield made
    made.connection.close()


def stream(
    number: int = 0, rate_hz: float = 200.0, qos: Literal[0, 1] = 0, media_type: str = "application/json"
) -> VirtualStream:
    source = Ring(f"ring-{number}", media_type, rate_hz, [Payload(BODY)])
    return VirtualStream(f"d{number}", "s", source, Periodic(rate_hz, number / 1000), qos)


@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("protocol", [4, 5])
async def test_everything_intended_is_sent_and_matched(
    broker: str, echo: Echo, protocol: Literal[4, 5], qos: Literal[0, 1]
) -> None:
    target = Target(broker, protocol=protocol, connections=2)
    async with Publisher(target, [stream(n, qos=qos) for n in range(4)]) as publisher:
        await publisher.run(0.5)
        assert await publisher.settle(10)
        report = publisher.report()
    assert (report.sent, report.results, report.unanswered, report.unsent) == (400, 400, 0, 0)
    assert report.fates == {"ok": 400}
    assert {name: books.sent for name, books in report.streams.items()} == {f"d{n}/s": 100 for n in range(4)}
    assert {(json.loads(m.payload)["boot"]) for m in echo.seen} == {report.boot}


async def test_a_second_run_goes_on_where_the_first_stopped(broker: str, echo: Echo) -> None:
    async with Publisher(Target(broker), [stream()]) as publisher:
        for _ in range(2):
            await publisher.run(0.1)
        await publisher.settle(10)
        report = publisher.report()
    assert report.sent == 40
    assert sorted(json.loads(m.payload)["seq"] for m in echo.seen) == list(range(report.sent))


async def test_a_run_after_a_late_one_has_nothing_to_catch_up_with(broker: str, echo: Echo) -> None:
    async with Publisher(Target(broker), [stream()]) as publisher:
        async with asyncio.TaskGroup() as group:
            group.create_task(publisher.run(0.2))
            await asyncio.sleep(0.1)
            time.sleep(0.3)  # noqa: ASYNC251  # so the first run ends 0.2 s late
        await publisher.run(0.2)
        assert publisher.report().sent == 80


def test_a_frame_can_be_matched_for_a_minute_at_the_schedules_rate() -> None:
    fast = msgspec.structs.replace(stream(rate_hz=1.0), schedule=Periodic(100.0))
    publisher = Publisher(Target(), [fast], boot="b1")
    for number in range(6000):
        publisher.tracks["d0/s"].record(number / 100, 0)
    publisher.tracker.result(
        b'{"device":"d0","stream":"s","boot":"b1","seq":0,"status":"ok"}', 60.0, 60_000.0
    )
    assert publisher.report().unanswered == 5999


async def test_what_is_no_result_is_reported(broker: str, echo: Echo) -> None:
    async with Publisher(Target(broker), [stream()]) as publisher:
        assert echo.connection is not None
        out = Publish("penstock/v1/home/dev/d0/s/result", b"{]")
        echo.connection.write([encode.publish_header(out, 5) + out.payload])
        await publisher.run(0.1)
        assert await publisher.settle(10)
        report = publisher.report()
    assert (report.undecodable, report.results) == (1, 20)


async def test_a_source_that_ends_ends_the_run(broker: str, echo: Echo) -> None:
    class Three:
        name, media_type, rate_hz = "three", "application/json", 100.0

        def payloads(self) -> Iterator[Payload]:
            return iter([Payload(BODY)] * 3)

    began = time.monotonic()
    async with Publisher(Target(broker), [VirtualStream("d", "s", Three(), Periodic(100.0))]) as publisher:
        await publisher.run(30)
        assert await publisher.settle(10)
        assert publisher.report().sent == 3
    assert time.monotonic() - began < 10


async def test_frames_without_a_result_are_outstanding(broker: str, echo: Echo) -> None:
    echo.silent = frozenset({1, 3})
    async with Publisher(Target(broker), [stream(rate_hz=20.0)]) as publisher:
        await publisher.run(0.25)
        assert not await publisher.settle(10, quiet_s=0.2)
        assert publisher.report().unanswered == 2


async def test_a_generator_that_was_late_says_so_and_counts_the_delay(broker: str, echo: Echo) -> None:
    async with Publisher(Target(broker), [stream(rate_hz=1000.0)]) as publisher:
        async with asyncio.TaskGroup() as group:
            group.create_task(publisher.run(0.5))
            await asyncio.sleep(0.1)
            time.sleep(0.15)  # noqa: ASYNC251  # what is tested: nothing else on this loop can send meanwhile
        await publisher.settle(10)
        report = publisher.report()
    assert report.sent == 500, "an open loop sends what it intended, however late"
    assert not report.on_time
    assert report.late >= 100
    assert (report.latency_ms["max"] or 0) >= 100, "the latency counts from the intended time"


async def test_nobody_listening_is_one_clear_line(free_port: Callable[[], int]) -> None:
    with pytest.raises(ConnectionLost, match=r"expected an MQTT broker at 127.0.0.1:\d+: "):
        async with Publisher(Target(f"mqtt://127.0.0.1:{free_port()}"), [stream()]):
            pass


async def test_a_broker_that_never_grants_a_subscription_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("penstock_sim.load.connection._GRANT_S", 0.1)
    async with peer() as broker:
        connecting = asyncio.create_task(connect(LinkOptions("127.0.0.1", broker.port, "c"), 5))
        (await broker.next()).accept()
        connection = await connecting
        with pytest.raises(ConnectionLost, match=r"did not answer SUBSCRIBE within 0\.1 s"):
            await connection.subscribe([("a/#", 0)])
        connection.close()


@pytest.mark.parametrize("qos", [0, 1])
async def test_a_broker_that_goes_away_ends_the_run(qos: Literal[0, 1]) -> None:
    async with mosquitto() as mortal, Publisher(Target(mortal.url), [stream(qos=qos)]) as publisher:
        ending = asyncio.create_task(asyncio.to_thread(mortal.stop))
        async with asyncio.timeout(10):
            with pytest.raises(ConnectionLost, match=r"closed|disconnected"):
                await publisher.run(30)
        await ending


async def test_a_broker_that_goes_away_after_the_last_frame_ends_the_run() -> None:
    slow = stream(rate_hz=0.1)
    async with mosquitto() as mortal, Publisher(Target(mortal.url), [slow]) as publisher:
        ending = asyncio.create_task(asyncio.to_thread(mortal.stop))
        with pytest.raises(ConnectionLost, match=r"closed|disconnected"):
            await publisher.run(1.0)
        await ending


async def test_what_the_broker_refuses_is_counted(broker: str, echo: Echo) -> None:
    barred = msgspec.structs.replace(stream(qos=1), topic="elsewhere/data")
    async with Publisher(Target(broker), [barred]) as publisher:
        await publisher.run(0.05)
        await publisher.settle(10, quiet_s=0.1)
        assert publisher.report().refused == 10


@pytest.mark.parametrize("url", ["http://127.0.0.1", "mqtt://", "127.0.0.1:1883", "embedded"])
async def test_a_wrong_url_is_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError, match="mqtt://"):
        async with Publisher(Target(url), [stream()]):
            pass


def test_more_connections_than_streams_are_refused() -> None:
    with pytest.raises(UsageError, match="expected 1 to 1 connections"):
        Publisher(Target(connections=2), [stream()])


async def test_the_bench_generator_counts_answers_and_no_refusals(broker: str, echo: Echo) -> None:
    echo.rejected = frozenset(range(4, 40))
    command = [
        sys.executable,
        "-m",
        "tests.bench.generator",
        "--url",
        broker,
        "--rate",
        "500",
        "--streams",
        "5",
    ]
    process = await asyncio.create_subprocess_exec(
        *command, "--seconds", "0.4", "--encoding", "json", "--qos", "1", stdout=subprocess.PIPE
    )
    printed, _ = await process.communicate()
    report = json.loads(printed)
    assert process.returncode == 0
    assert (report["sent"], report["results"]) == (200, 200)
    assert report["fates"] == {"ok": 20, "rejected": 180}
    assert 0 < report["answered_in_run"] <= 20
    assert report["answered_per_s"] == pytest.approx(report["answered_in_run"] / 0.4, rel=0.5)
