"""The outbox: bounds, the QoS 1 window, and what a reconnect sends again. Read back with the decoder."""

from functools import partial

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from penstock_gateway.mqtt import Message, Publish
from penstock_gateway.mqtt.decode import Decoder
from penstock_gateway.mqtt.outbox import LAST_PACKET_ID, Limits, Outbox

WIDE = Limits(protocol=5, window=LAST_PACKET_ID)


class Reader:
    """Reads what an outbox gives, as (message, packet id)."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._ids: list[int] = []
        self._decoder = Decoder(5, self._arrive)

    def _arrive(self, packet_id: int) -> int:
        self._ids.append(packet_id)
        return packet_id

    def all(self) -> list[Message]:
        found: list[Message] = []
        while data := self._outbox.take():
            found += self._decoder.feed(data).messages
        return found


def filled(outbox: Outbox, *qualities: int) -> Outbox:
    for i, qos in enumerate(qualities):
        assert outbox.put(Publish("t", str(i).encode(), qos), None)
    return outbox


def numbers(messages: list[Message]) -> list[int]:
    return [int(message.payload) for message in messages]


def test_the_bounds_are_messages_and_bytes() -> None:
    by_count, by_bytes = Outbox(3, 1 << 20), Outbox(100, 1000)
    assert [by_count.put(Publish("t", b"", 1), None) for _ in range(5)] == [True] * 3 + [False] * 2
    assert [by_bytes.put(Publish("t", bytes(300), 1), None) for _ in range(4)] == [True] * 2 + [False] * 2


def test_a_puback_makes_room() -> None:
    outbox = Outbox(1, 1 << 20)
    outbox.opened(WIDE, False)
    done: list[str] = []
    assert outbox.put(Publish("t", b"", 1), lambda: done.append("a"))
    (sent,) = Reader(outbox).all()
    assert not outbox.put(Publish("t", b"", 1), None)
    outbox.acked(sent.ack, 0)
    for on_acked in outbox.take_done():
        on_acked()
    assert (done, len(outbox)) == (["a"], 0)
    assert outbox.put(Publish("t", b"", 1), None)


def test_the_window_is_the_brokers_and_order_is_kept() -> None:
    outbox = Outbox(100, 1 << 20)
    outbox.opened(Limits(protocol=5, window=2), False)
    reader = Reader(filled(outbox, 0, 1, 1, 1, 0))
    first = reader.all()
    assert numbers(first) == [0, 1, 2] and not outbox.sendable
    outbox.acked(first[1].ack, 0)
    assert outbox.sendable and numbers(reader.all()) == [3, 4]


def test_a_resumed_session_gets_the_same_ids_with_dup_and_in_order() -> None:
    outbox = Outbox(100, 1 << 20)
    outbox.opened(Limits(protocol=5, window=3), False)
    reader = Reader(filled(outbox, 1, 1, 1, 1, 1))
    first = reader.all()
    outbox.acked(first[0].ack, 0)
    outbox.closed()
    outbox.opened(Limits(protocol=5, window=1), True)
    again = reader.all()
    assert [(m.ack, m.dup, int(m.payload)) for m in again] == [(first[1].ack, True, 1)]
    outbox.closed()
    outbox.opened(WIDE, True)
    rest = reader.all()
    assert numbers(rest) == [1, 2, 3, 4]
    assert [m.dup for m in rest] == [True, True, False, False]
    assert len({m.ack for m in rest}) == 4


def test_a_forgotten_session_gets_them_as_new_messages() -> None:
    outbox = Outbox(100, 1 << 20)
    outbox.opened(WIDE, False)
    reader = Reader(filled(outbox, 1, 1))
    assert len(reader.all()) == 2
    outbox.closed()
    outbox.opened(WIDE, False)
    assert [(m.dup, int(m.payload)) for m in reader.all()] == [(False, 0), (False, 1)]


def test_what_is_not_kept_goes_with_its_connection() -> None:
    """A camera's picture would be old on the next one. It has its PUBACK while there is a connection."""
    outbox, done = Outbox(10, 1 << 20), []

    def put(payload: bytes, kept: bool) -> None:
        assert outbox.put(Publish("t", payload, 1, kept=kept), lambda: done.append(payload))

    put(b"1", False)
    assert (outbox.dropped, len(outbox)) == (1, 0)
    outbox.opened(Limits(protocol=5, window=3), False)
    for number, kept in enumerate([False, True, False, False, True], 2):
        put(str(number).encode(), kept)
    acked, *_ = Reader(outbox).all()
    outbox.acked(acked.ack, 0)
    outbox.closed()
    for on_acked in outbox.take_done():
        on_acked()
    assert (outbox.dropped, done) == (3, [b"1", b"2", b"4", b"5"])
    outbox.opened(WIDE, True)
    assert numbers(Reader(outbox).all()) == [3, 6] and not outbox._reserved


def test_without_a_connection_qos_0_is_dropped_and_said_done() -> None:
    outbox = Outbox(100, 1 << 20)
    assert outbox.put(Publish("t", b""), lambda: None)
    assert (outbox.dropped, len(outbox), len(outbox.take_done())) == (1, 0, 1)
    outbox.opened(Limits(protocol=5, window=1), False)
    filled(outbox, 1, 1, 0)
    outbox.take()
    outbox.closed()
    assert (outbox.dropped, len(outbox)) == (2, 2)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (Publish("t", bytes(2000), 1), "packet_too_large"),
        (Publish("t", bytes(2000), 0), "packet_too_large"),
        (Publish("t/#", b"", 1), "not_encodable"),
        (Publish("t", b"", 0, correlation=bytes(70_000)), "not_encodable"),
    ],
)
def test_what_cannot_be_sent_is_refused_and_stops_nobody(message: Publish, reason: str) -> None:
    outbox = Outbox(100, 1 << 20)
    outbox.opened(Limits(protocol=5, window=1, max_packet=1000), False)
    assert outbox.put(message, lambda: None) and outbox.put(Publish("t", b"7", 1), None)
    assert numbers(Reader(outbox).all()) == [7]
    assert (outbox.refused, len(outbox.take_done())) == ({reason: 1}, 1)


def test_a_refusing_puback_is_counted_by_its_reason() -> None:
    outbox = Outbox(100, 1 << 20)
    outbox.opened(WIDE, False)
    first, second = Reader(filled(outbox, 1, 1)).all()
    outbox.acked(first.ack, 0x97)
    outbox.acked(second.ack, 0x10)  # no subscriber: taken all the same
    outbox.acked(4711, 0x97)  # nobody waits for it
    assert (outbox.refused, outbox.refused_topic, len(outbox)) == ({"0x97": 1}, "t", 0)


def test_a_modest_broker_gets_a_lower_qos_and_no_retain() -> None:
    outbox = Outbox(100, 1 << 20)
    outbox.opened(Limits(protocol=5, window=1, maximum_qos=0, retain=False), False)
    done: list[int] = []
    for i in range(3):
        outbox.put(Publish(f"t{i}", str(i).encode(), 1, True), partial(done.append, i))
    assert [(m.qos, m.retain, m.dup) for m in Reader(outbox).all()] == [(0, False, False)] * 3
    for on_acked in outbox.take_done():
        on_acked()
    assert done == [0, 1, 2]


def test_packet_ids_go_round_and_skip_those_in_use() -> None:
    outbox = Outbox(10, 1 << 20)
    outbox.opened(Limits(protocol=5, window=2), False)
    reader = Reader(filled(outbox, 1))
    held = reader.all()[0].ack
    seen = set()
    for _ in range(LAST_PACKET_ID + 10):
        filled(outbox, 1)
        (sent,) = reader.all()
        assert sent.ack != held
        seen.add(sent.ack)
        outbox.acked(sent.ack, 0)
    assert (held, min(seen), max(seen)) == (1, 2, LAST_PACKET_ID)


class TestRetained:
    """Of one topic the broker keeps the last message, so of those that wait only the last is sent."""

    def put(self, outbox: Outbox, *payloads: bytes, topic: str = "status", qos: int = 1) -> None:
        for payload in payloads:
            assert outbox.put(Publish(topic, payload, qos, True), partial(self.done.append, payload))

    def settle(self, outbox: Outbox) -> list[bytes]:
        for on_acked in outbox.take_done():
            on_acked()
        return self.done

    def setup_method(self) -> None:
        self.done: list[bytes] = []

    def test_an_outage_of_hours_leaves_the_last_status_and_the_last_receipts(self) -> None:
        outbox = Outbox(10, 2000)
        for i in range(10_000):
            self.put(outbox, b"%d" % i)
            self.put(outbox, b"%d" % i, topic=f"receipt/{i % 3}")
        assert len(outbox) == 4
        assert len(self.settle(outbox)) == 20_000 - 4
        outbox.opened(WIDE, False)
        sent = Reader(outbox).all()
        assert [(m.topic, m.payload) for m in sent] == [
            ("status", b"9999"), ("receipt/0", b"9999"), ("receipt/1", b"9997"), ("receipt/2", b"9998"),
        ]  # fmt: skip
        for message in sent:
            outbox.acked(message.ack, 0)
        assert (len(outbox), len(self.settle(outbox))) == (0, 20_000)
        assert outbox.put(Publish("t", bytes(1900), 1), None), "the bytes are free again"

    def test_the_newest_gets_in_where_nothing_else_does(self) -> None:
        outbox = Outbox(2, 1 << 20)
        self.put(outbox, b"old")
        filled(outbox, 1)
        assert not outbox.put(Publish("t", b"", 1), None)
        self.put(outbox, b"new")
        assert (len(outbox), self.settle(outbox)) == (2, [b"old"])

    def test_one_that_does_not_fit_in_bytes_leaves_the_old_one(self) -> None:
        outbox = Outbox(10, 1000)
        self.put(outbox, b"old")
        assert not outbox.put(Publish("status", bytes(2000), 1, True), None)
        outbox.opened(WIDE, False)
        assert [m.payload for m in Reader(outbox).all()] == [b"old"] and self.settle(outbox) == []

    def test_what_was_sent_is_not_replaced(self) -> None:
        outbox = Outbox(10, 1 << 20)
        outbox.opened(WIDE, False)
        reader = Reader(outbox)
        self.put(outbox, b"sent")
        (sent,) = reader.all()
        outbox.closed()
        self.put(outbox, b"waits", b"newer")
        outbox.opened(WIDE, True)
        again = reader.all()
        assert [(m.payload, m.dup) for m in again] == [(b"sent", True), (b"newer", False)]
        assert sent.ack == again[0].ack and self.settle(outbox) == [b"waits"]

    def test_nothing_overtakes_a_message_of_its_topic(self) -> None:
        outbox = Outbox(10, 1 << 20)
        self.put(outbox, b"first")
        assert outbox.put(Publish("status", b"not retained", 1), None)
        self.put(outbox, b"last")
        outbox.opened(WIDE, False)
        assert [m.payload for m in Reader(outbox).all()] == [b"first", b"not retained", b"last"]

    def test_one_that_went_with_the_connection_is_not_replaced(self) -> None:
        outbox = Outbox(10, 1 << 20)
        outbox.opened(Limits(protocol=5, window=1), False)
        filled(outbox, 1, 1)
        outbox.take()
        self.put(outbox, b"lost", qos=0)
        outbox.closed()
        assert (outbox.dropped, self.settle(outbox)) == (1, [b"lost"])
        outbox.opened(WIDE, False)
        self.put(outbox, b"new", qos=0)
        assert Reader(outbox).all()[-1].payload == b"new" and self.settle(outbox) == [b"lost", b"new"]


class Life(RuleBasedStateMachine):
    """Any history of puts, PUBACKs and reconnects: QoS 1 arrives at least once, is done exactly once, in order.

    Of retained ones the last arrives, and every one is done exactly once, in order of its topic.
    """

    def __init__(self) -> None:
        super().__init__()
        self.outbox = Outbox(30, 1 << 20)
        self.reader = Reader(self.outbox)
        self.open = False
        self.session = False
        self.window = 0
        self.next = 0
        self.taken: set[int] = set()
        self.done: list[int] = []
        self.unacked: dict[int, int] = {}
        self.delivered: set[int] = set()
        self.heard: dict[str, int] = {}
        self.wanted: dict[str, int] = {}

    @rule(qos=st.sampled_from((0, 1)))
    def put(self, qos: int) -> None:
        self.offer(Publish("t", str(self.next).encode(), qos))

    @rule(topic=st.sampled_from(("r", "s", "t")))
    def put_retained(self, topic: str) -> None:
        self.offer(Publish(topic, str(self.next).encode(), 1, True))

    def offer(self, message: Publish) -> None:
        number = self.next
        if self.outbox.put(message, lambda: self.done.append(number)):
            self.taken.add(number)
            self.next += 1
            if message.qos:
                self.wanted[message.topic] = number
        else:
            assert len(self.outbox) == 30

    @precondition(lambda self: not self.open)
    @rule(window=st.integers(1, 5), present=st.booleans())
    def connect(self, window: int, present: bool) -> None:
        self.outbox.opened(Limits(protocol=5, window=window), present)
        self.open, self.window = True, window

    @precondition(lambda self: self.open)
    @rule()
    def lose(self) -> None:
        self.outbox.closed()
        self.open = False
        self.unacked.clear()

    @precondition(lambda self: self.open)
    @rule()
    def send(self) -> None:
        last: dict[str, int] = {}
        for message in self.reader.all():
            number = int(message.payload)
            assert number > last.get(message.topic, -1)
            last[message.topic] = number
            self.heard[message.topic] = max(number, self.heard.get(message.topic, -1))
            if message.qos:
                assert message.ack not in self.unacked
                self.unacked[message.ack] = number
                self.delivered.add(number)
        assert len(self.unacked) <= self.window

    @precondition(lambda self: self.unacked)
    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        packet_id = data.draw(st.sampled_from(sorted(self.unacked)))
        self.outbox.acked(packet_id, 0)
        assert self.unacked.pop(packet_id) in self.delivered

    @invariant()
    def the_count_is_what_is_not_done(self) -> None:
        for on_acked in self.outbox.take_done():
            on_acked()
        assert len(self.done) == len(set(self.done))
        assert len(self.outbox) == len(self.taken) - len(self.done)

    def teardown(self) -> None:
        if self.open:
            self.lose()
        self.connect(window=5, present=True)
        while len(self.outbox):
            self.send()
            for packet_id in list(self.unacked):
                self.outbox.acked(packet_id, 0)
                del self.unacked[packet_id]
            self.the_count_is_what_is_not_done()
        self.the_count_is_what_is_not_done()
        assert set(self.done) == self.taken
        assert all(self.heard[topic] >= number for topic, number in self.wanted.items())


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=40)
