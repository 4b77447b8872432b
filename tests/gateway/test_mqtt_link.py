"""The link against a broker that misbehaves on demand. What a real broker shows is in tests/system."""

import asyncio
import gc
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from penstock_gateway.backoff import Backoff
from penstock_gateway.mqtt import LinkOptions, Message, Publish
from penstock_gateway.mqtt.link import Dialect, MqttLink
from penstock_models.errors import UsageError
from tests.fakes.link_owner import Owner, running
from tests.fakes.mqtt_peer import Peer, Session, peer


def options(broker: Peer, **changes: object) -> LinkOptions:
    base = LinkOptions(
        host=broker.host, port=broker.port, client_id="c", subscriptions=(("t", 1),),
        connect_timeout_s=2.0, reconnect_min_s=0.01, reconnect_max_s=0.05,
    )  # fmt: skip
    return msgspec.structs.replace(base, **changes)


async def taken(broker: Peer, present: bool = False, properties: bytes = b"") -> Session:
    """The next connection, accepted and subscribed."""
    session = await broker.next()
    session.accept(present, properties)
    await session.grant()
    return session


def packet_id(body: bytes) -> int:
    at = 2 + int.from_bytes(body[:2], "big")
    return int.from_bytes(body[at : at + 2], "big")


class TestWhatIsSpoken:
    def test_refused_is_tried_the_other_way_and_that_is_kept(self) -> None:
        tested = Dialect(5)
        tested.failed(0x84, silent=False)
        assert tested.protocol == 4
        tested.accepted()
        for _ in range(5):
            tested.failed(None, silent=True)
        assert tested.protocol == 4

    @pytest.mark.parametrize(("silent", "times"), [(False, 2), (True, 1)])
    def test_no_answer_is_tried_the_other_way_and_back(self, silent: bool, times: int) -> None:
        tested, spoken = Dialect(5), []
        for _ in range(2 * times):
            spoken.append(tested.protocol)
            tested.failed(None, silent)
        assert spoken == [5] * times + [4] * times and tested.protocol == 5

    def test_a_refusal_for_another_reason_changes_nothing(self) -> None:
        tested = Dialect(5)
        for _ in range(5):
            tested.failed(0x87, silent=False)
        assert tested.protocol == 5

    @pytest.mark.parametrize("refuse", [b"\x20\x02\0\1", b"\x20\x03\0\x84\0", b""])
    async def test_a_3_1_1_broker_is_found_and_remembered(self, refuse: bytes) -> None:
        async with peer() as broker, running(MqttLink(options(broker))) as owner:
            levels = []
            while True:
                session = await broker.next()
                levels.append(session.level)
                if session.level == 4:
                    break
                session._writer.write(refuse)
                session.hang_up()
            session.accept()
            await session.grant()
            assert (await owner.until_up()).protocol == 4
            assert set(levels[:-1]) == {5} and "trying MQTT 3.1.1" in owner.downs[-1]
            session.hang_up()
            assert (await broker.next()).level == 4


class TestReceiving:
    async def test_one_read_is_one_call(self) -> None:
        async with peer() as broker, running(MqttLink(options(broker))) as owner:
            session = await taken(broker)
            for i in range(50):
                session.publish("t", str(i).encode())
            await owner.until(lambda: len(owner.messages) == 50)
            assert owner.batches < 10

    async def test_pubacks_wait_for_leave_and_keep_the_order(self) -> None:
        async with peer() as broker:
            link = MqttLink(options(broker))
            async with running(link, acks=False) as owner:
                session = await taken(broker)
                for i in (11, 12, 13):
                    session.publish("t", b"x", packet_id=i)
                await owner.until(lambda: len(owner.messages) == 3)
                a, b, c = (message.ack for message in owner.messages)
                link.ack(c)
                link.ack(b)
                link.publish(Publish("done", b""))
                assert (await session.packet())[0] == 0x30  # no PUBACK came before it
                link.ack(a)
                pubacks = [await session.packet() for _ in range(3)]
                assert [(first, int.from_bytes(body, "big")) for first, body in pubacks] == [
                    (0x40, 11), (0x40, 12), (0x40, 13),
                ]  # fmt: skip

    async def test_an_ack_of_the_last_connection_is_ignored(self) -> None:
        async with peer() as broker:
            link = MqttLink(options(broker, session_expiry_s=60))
            async with running(link, acks=False) as owner:
                session = await taken(broker)
                session.publish("t", b"x", packet_id=1)
                await owner.until(lambda: len(owner.messages) == 1)
                session.reset()
                session = await taken(broker, present=True)
                session.publish("t", b"x", packet_id=1, dup=True)
                session.publish("t", b"y", packet_id=2)
                await owner.until(lambda: len(owner.messages) == 3)
                assert owner.messages[1].dup
                old, again, new = (message.ack for message in owner.messages)
                link.ack(old)
                link.ack(new)
                link.ack(again)
                assert [int.from_bytes((await session.packet())[1], "big") for _ in range(2)] == [1, 2]

    async def test_an_overrun_is_counted_and_survived(self) -> None:
        async with peer() as broker:
            link = MqttLink(options(broker, receive_maximum=2))
            async with running(link, acks=False) as owner:
                session = await taken(broker)
                for i in range(1, 6):
                    session.publish("t", b"x", packet_id=i)
                await owner.until(lambda: len(owner.messages) == 5)
                assert (link.overruns, owner.downs) == (3, [])

    @pytest.mark.parametrize(
        ("wire", "words", "reason"),
        [
            (b"\x30\x05\0\2\xc3\x28\0", "not UTF-8", b"\xe0\1\x81"),
            (b"\x30\xff\xff\xff\x7f", "at most 100000 bytes", b"\xe0\1\x95"),
            (b"\x20\x03\0\0\0", "second CONNACK", b"\xe0\1\x82"),
            (b"\x90\x05\0\1\0\0\0", "SUBACK", b"\xe0\1\x82"),
        ],
    )
    async def test_a_broken_protocol_is_told_and_connected_anew(
        self, wire: bytes, words: str, reason: bytes
    ) -> None:
        async with peer() as broker, running(MqttLink(options(broker, max_packet=100_000))) as owner:
            session = await taken(broker)
            await owner.until_up()
            session._writer.write(wire)
            assert await session.gone() == reason
            await taken(broker)
            await owner.until_up(2)
            assert words in owner.downs[0]

    @pytest.mark.parametrize("properties", [b"\x21\0\0", b"\x27\0\0\0\0"])
    async def test_a_limit_of_nothing_is_a_protocol_error(self, properties: bytes) -> None:
        async with peer() as broker, running(MqttLink(options(broker))) as owner:
            (await broker.next()).accept(properties=properties)
            await owner.until(lambda: bool(owner.downs))
            assert "of 0 (v5 3.2.2.3)" in owner.downs[0] and owner.ups == []

    async def test_a_message_before_connack_is_a_protocol_error(self) -> None:
        async with peer() as broker, running(MqttLink(options(broker))) as owner:
            (await broker.next()).publish("t", b"x")
            await owner.until(lambda: bool(owner.downs))
            assert "expected CONNACK first" in owner.downs[0] and not owner.messages

    async def test_an_exception_of_the_owner_comes_out_of_run(self) -> None:
        def fails(messages: Sequence[Message]) -> None:
            raise RuntimeError("the owner's fault")

        async with peer() as broker:
            link = MqttLink(options(broker))
            task = asyncio.create_task(link.run(fails, Owner(link)))
            (await taken(broker)).publish("t", b"x")
            with pytest.raises(RuntimeError, match="the owner's fault"):
                await task


class TestPause:
    async def test_pings_go_on_and_silence_is_no_death(self) -> None:
        async with peer() as broker:
            link = MqttLink(options(broker, keepalive_s=1))
            async with running(link) as owner:
                session = await taken(broker)
                await owner.until_up()
                link.pause()
                session.publish("t", b"late")
                for _ in range(5):  # two and a half keepalives
                    assert (await session.until(12))[0] == 0xC0
                    session.send(0xD0, b"")
                assert (owner.messages, owner.downs) == ([], [])
                link.resume()
                await owner.until(lambda: owner.payloads == [b"late"])
                assert (await session.until(12))[0] == 0xC0
                assert owner.downs == []

    async def test_a_silent_broker_is_left(self) -> None:
        async with peer() as broker, running(MqttLink(options(broker, keepalive_s=1))) as owner:
            session = await taken(broker)
            await owner.until(lambda: bool(owner.downs))
            assert owner.downs == ["the broker was silent for 1 s"]
            assert (await session.until(12))[0] == 0xC0

    async def test_the_brokers_keepalive_counts(self) -> None:
        async with peer() as broker, running(MqttLink(options(broker, keepalive_s=3600))) as owner:
            session = await taken(broker, properties=b"\x13\0\1")
            await owner.until_up()
            assert (await session.until(12))[0] == 0xC0

    async def test_a_pause_outlives_the_connection(self) -> None:
        async with peer() as broker:
            link = MqttLink(options(broker))
            link.pause()
            async with running(link) as owner:
                session = await taken(broker)
                await owner.until_up()
                session.publish("t", b"x")
                link.publish(Publish("out", b""))
                assert (await session.packet())[0] == 0x30
                assert owner.messages == []
                link.resume()
                await owner.until(lambda: owner.payloads == [b"x"])


class TestSending:
    async def test_one_turn_of_the_loop_is_one_write(self) -> None:
        async with peer() as broker:
            link = MqttLink(options(broker))
            async with running(link) as owner:
                session = await taken(broker)
                await owner.until_up()
                for _ in range(100):
                    link.publish(Publish("t", bytes(100)))
                await session.packet()
                assert len(session._reader._buffer) > 90 * 100  # type: ignore[attr-defined]

    async def test_qos_1_is_sent_again_with_dup_until_its_puback(self) -> None:
        done: list[str] = []
        async with peer() as broker:
            link = MqttLink(options(broker, session_expiry_s=60))
            async with running(link) as owner:
                session = await taken(broker)
                await owner.until_up()
                assert link.publish(Publish("a", b"", 1), lambda: done.append("a"))
                first, body = await session.packet()
                session.reset()
                session = await taken(broker, present=True)
                again, same = await session.until(3)
                assert (first, again, same) == (0x32, 0x3A, body)
                assert not await link.flush(0.01)
                session.puback(packet_id(same))
                assert await link.flush(5) and done == ["a"]

    async def test_the_window_and_the_packet_size_are_the_brokers(self) -> None:
        async with peer() as broker:
            link = MqttLink(options(broker))
            async with running(link) as owner:
                session = await taken(broker, properties=b"\x21\0\1\x27\0\0\0\x64")
                granted = await owner.until_up()
                assert (granted.receive_maximum, granted.maximum_packet_size) == (1, 100)
                link.publish(Publish("large", bytes(100), 1))
                link.publish(Publish("a", b"", 1))
                link.publish(Publish("b", b"", 1))
                _, body = await session.packet()
                assert body.startswith(b"\0\1a") and not session._reader._buffer  # type: ignore[attr-defined]
                session.puback(packet_id(body), 0x97)
                assert (await session.packet())[1].startswith(b"\0\1b")
                assert link.refused == {"packet_too_large": 1, "0x97": 1}

    async def test_qos_0_without_a_connection_is_dropped_and_counted(self) -> None:
        link = MqttLink(LinkOptions(host="127.0.0.1", port=1, client_id="c"))
        done = asyncio.Event()
        assert link.publish(Publish("t", b""), done.set)
        await asyncio.wait_for(done.wait(), 5)
        assert link.dropped == 1 and await link.flush(1)

    async def test_a_full_outbox_takes_nothing(self) -> None:
        link = MqttLink(LinkOptions(host="127.0.0.1", port=1, client_id="c", outbox=1))
        assert link.publish(Publish("t", b"", 1)) and not link.publish(Publish("t", b"", 1))
        assert not await link.flush(0.01)

    async def test_an_exception_of_on_acked_comes_out_of_run(self) -> None:
        def fails() -> None:
            raise RuntimeError("the publisher's fault")

        async with peer() as broker:
            link = MqttLink(options(broker))
            owner = Owner(link)
            task = asyncio.create_task(link.run(owner.take, owner))
            await taken(broker)
            await owner.until_up()
            link.publish(Publish("t", b""), fails)
            with pytest.raises(RuntimeError, match="the publisher's fault"):
                await task

    async def test_a_client_that_is_not_read_fills_its_outbox_and_no_more(self) -> None:
        async with peer() as broker:
            link = MqttLink(options(broker, outbox_bytes=8 << 20))
            async with running(link) as owner:
                session = await taken(broker)
                await owner.until_up()
                sent = 0
                while link.publish(Publish("t", bytes(1 << 20))):
                    sent += 1
                    await asyncio.sleep(0)
                assert sent >= 8
                for _ in range(sent):
                    assert (await session.packet())[0] == 0x30
                assert await link.flush(5)


class TestConnecting:
    async def test_up_tells_which_filters_were_refused(self) -> None:
        async with peer() as broker:
            link = MqttLink(options(broker, subscriptions=(("a", 1), ("b", 1))))
            async with running(link) as owner:
                session = await broker.next()
                session.accept()
                await session.grant(1, 0x87)
                assert (await owner.until_up()).refused == ("b",)

    async def test_without_subscriptions_connack_is_enough(self) -> None:
        async with peer() as broker, running(MqttLink(options(broker, subscriptions=()))) as owner:
            (await broker.next()).accept()
            await owner.until_up()

    @pytest.mark.parametrize("missing", ["CONNACK", "SUBACK"])
    async def test_a_broker_that_does_not_answer_is_left(self, missing: str) -> None:
        async with peer() as broker, running(MqttLink(options(broker, connect_timeout_s=0.2))) as owner:
            session = await broker.next()
            if missing == "SUBACK":
                session.accept()
            await owner.until(lambda: bool(owner.downs))
            assert owner.downs[0].startswith(f"no {missing} within 0.2 s")

    async def test_a_refusal_says_why(self) -> None:
        async with peer() as broker, running(MqttLink(options(broker))) as owner:
            (await broker.next()).send(0x20, b"\0\x87\x08\x1f\0\x05later")
            await owner.until(lambda: bool(owner.downs))
            assert owner.downs == ["the broker refused: not authorized (0x87): later"]

    async def test_nobody_there_is_said_with_the_address(self) -> None:
        link = MqttLink(LinkOptions(host="127.0.0.1", port=1, client_id="c", reconnect_min_s=0.01))
        async with running(link) as owner:
            await owner.until(lambda: len(owner.downs) >= 2)
            assert owner.downs[0].startswith("no connection to 127.0.0.1:1: ")

    def test_files_of_tls_are_looked_at_at_once(self, tmp_path: Path) -> None:
        bad = tmp_path / "ca.pem"
        bad.write_text("no certificate")
        plain = LinkOptions(host="h", port=1, client_id="c", tls=True)
        for changed in ({"ca": str(bad)}, {"ca": str(tmp_path / "missing")}, {"cert": str(bad)}):
            with pytest.raises(UsageError, match=r"expected .* as PEM in "):
                MqttLink(msgspec.structs.replace(plain, **changed))

    def test_waits_double_with_full_jitter_and_start_anew(self) -> None:
        waits = []
        for _ in range(200):
            tested = Backoff(0.2, 30)
            waits.append([tested.wait_s(0) for _ in range(12)])
        for turn in range(12):
            bound = min(30, 0.2 * 2 ** (turn + 1))
            seen = [wait[turn] for wait in waits]
            assert max(seen) <= bound and min(seen) < bound / 4 and max(seen) > bound * 0.75
        assert all(tested.wait_s(60) <= 0.2 for _ in range(100))


class TestTheEnd:
    async def test_cancelling_says_goodbye_after_the_allowed_pubacks(self) -> None:
        async with peer() as broker:
            link = MqttLink(options(broker))
            owner = Owner(link)
            task = asyncio.create_task(link.run(owner.take, owner))
            session = await taken(broker)
            session.publish("t", b"x", packet_id=9)
            await owner.until(lambda: len(owner.messages) == 1)
            task.cancel()
            assert await session.gone() == b"\x40\x02\0\x09\xe0\0"
            await asyncio.wait((task,))
            assert task.cancelled() and owner.downs == []

    @pytest.mark.parametrize("turns", range(0, 36, 2))
    async def test_cancelled_at_any_await_it_leaves_nothing(self, turns: int) -> None:
        async with peer() as broker:
            link = MqttLink(options(broker))
            owner = Owner(link)
            task = asyncio.create_task(link.run(owner.take, owner))

            async def serve() -> None:
                await taken(broker)

            serving = asyncio.create_task(serve())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait((task,), timeout=5)
            assert task.cancelled()
            serving.cancel()
            await asyncio.wait((serving,))
            assert link._connection is None
        gc.collect()  # an unclosed socket would warn here, and a warning is an error

    async def test_cancelled_while_waiting_to_reconnect(self) -> None:
        link = MqttLink(LinkOptions(host="127.0.0.1", port=1, client_id="c", reconnect_min_s=1000))
        owner = Owner(link)
        task = asyncio.create_task(link.run(owner.take, owner))
        await owner.until(lambda: bool(owner.downs))
        task.cancel()
        await asyncio.wait((task,), timeout=5)
        assert task.cancelled()
