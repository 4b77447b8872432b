"""The MQTT codec: against the standards' own bytes, against itself, and against noise."""

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from penstock_gateway.mqtt import LinkOptions, Message, Publish, encode
from penstock_gateway.mqtt.acks import AckWindow
from penstock_gateway.mqtt.decode import Connack, Decoder, Disconnected, Pong, Read, Suback
from penstock_gateway.mqtt.wire import (
    PROTOCOL_MAX_PACKET,
    Prop,
    ProtocolError,
    properties,
    read_properties,
    read_varint,
    varint,
)

MQTT_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
TOPICS = st.text(st.characters(exclude_characters="\0+#", exclude_categories=["Cs"]), min_size=1, max_size=60)


def decoder(protocol: int = 5, max_packet: int = PROTOCOL_MAX_PACKET) -> Decoder:
    return Decoder(protocol, AckWindow().arrive, max_packet)


def packet(first: int, body: bytes) -> bytes:
    return bytes((first,)) + varint(len(body)) + body


def decoded(data: bytes, protocol: int = 5) -> Read:
    return decoder(protocol).feed(data)


def fields(message: Message) -> dict[str, object]:
    return msgspec.structs.asdict(message)


publishes = st.builds(
    Publish,
    topic=TOPICS,
    payload=st.binary(max_size=300),
    qos=st.sampled_from((0, 1)),
    retain=st.booleans(),
    content_type=MQTT_TEXT,
    expiry_s=st.none() | st.integers(0, 2**32 - 1),
    correlation=st.binary(max_size=40),
    user=st.lists(st.tuples(MQTT_TEXT, MQTT_TEXT), max_size=5).map(tuple),
)


@given(publishes, st.sampled_from((4, 5)), st.integers(1, 65535), st.booleans())
def test_a_publish_survives_the_wire(sent: Publish, protocol: int, packet_id: int, again: bool) -> None:
    dup = again and sent.qos == 1
    arrived: list[int] = []

    def arrive(seen: int) -> int:
        arrived.append(seen)
        return 7

    wire = encode.publish_header(sent, protocol, packet_id, dup) + sent.payload
    (got,) = Decoder(protocol, arrive).feed(wire).messages
    v5 = protocol == 5
    assert (got.topic, got.payload, got.qos, got.retain, got.dup) == (
        sent.topic, sent.payload, sent.qos, sent.retain, dup,
    )  # fmt: skip
    assert got.content_type == (sent.content_type if v5 else "")
    assert (got.expiry_s, got.correlation, got.user) == (
        (sent.expiry_s, sent.correlation, sent.user) if v5 else (None, b"", ())
    )
    assert (got.ack, arrived) == ((7, [packet_id]) if sent.qos else (0, []))


@given(st.lists(publishes, max_size=6), st.lists(st.integers(1, 200), min_size=1, max_size=30))
def test_chunks_do_not_matter(sent: list[Publish], cuts: list[int]) -> None:
    wire = b"".join(
        encode.publish_header(m, 5, i + 1) + m.payload + encode.pubacks([i + 1]) + b"\xd0\x00"
        for i, m in enumerate(sent)
    )
    whole, pieces = decoded(wire), Read([], [], [])
    slow, pos, turn = decoder(), 0, 0
    while pos < len(wire):
        step = cuts[turn % len(cuts)]
        read = slow.feed(wire[pos : pos + step])
        pieces.messages += read.messages
        pieces.acked += read.acked
        pieces.control += read.control
        pos, turn = pos + step, turn + 1
    assert [fields(m) for m in pieces.messages] == [fields(m) for m in whole.messages]
    assert (pieces.acked, pieces.control) == (whole.acked, whole.control)
    assert len(whole.messages) == len(whole.acked) == len(whole.control) == len(sent)


@given(st.lists(st.binary(max_size=400), max_size=8), st.sampled_from((4, 5)))
@example([b"\x30\x02\xff\xff"], 5)
@example([b"\x32\x04\x00\x01a\x00"], 4)
@example([b"\x30\x06\x00\x01a\x7f\x26\x00"], 5)
def test_noise_is_a_protocol_error_and_nothing_else(chunks: list[bytes], protocol: int) -> None:
    tested = decoder(protocol, max_packet=100_000)
    try:
        for chunk in chunks:
            tested.feed(chunk)
    except ProtocolError as error:
        assert str(error) and 0x80 <= error.reason <= 0xFF


@given(publishes, st.data())
def test_one_flipped_byte_is_a_message_or_a_protocol_error(sent: Publish, data: st.DataObject) -> None:
    wire = bytearray(encode.publish_header(sent, 5, 9) + sent.payload)
    at = data.draw(st.integers(0, len(wire) - 1))
    wire[at] ^= data.draw(st.integers(1, 255))
    try:
        for message in decoded(bytes(wire)).messages:
            assert len(message.payload) <= len(wire)
    except ProtocolError:
        pass


@given(st.integers(0, 268_435_455), st.binary(max_size=3))
def test_variable_byte_integers(value: int, rest: bytes) -> None:
    wire = varint(value)
    assert read_varint(wire + rest, 0, len(wire)) == (value, len(wire))


def test_a_variable_byte_integer_has_an_end() -> None:
    with pytest.raises(ValueError, match="268435456"):
        varint(268_435_456)


VALUES: dict[int, object] = {
    Prop.PAYLOAD_FORMAT: 1, Prop.MESSAGE_EXPIRY: 4_000_000_000, Prop.CONTENT_TYPE: "image/jpeg",
    Prop.RESPONSE_TOPIC: "r/1", Prop.CORRELATION_DATA: b"\0\1", Prop.SUBSCRIPTION_ID: 20_000,
    Prop.SESSION_EXPIRY: 7, Prop.SERVER_KEEP_ALIVE: 60, Prop.RECEIVE_MAXIMUM: 20, Prop.REASON_STRING: "später",
    Prop.USER: (("seq", "1"), ("seq", "2")),
}  # fmt: skip


def test_properties_survive_the_wire() -> None:
    wire = properties(VALUES)
    assert read_properties(wire, 0, len(wire)) == (VALUES, len(wire))


PLAIN = LinkOptions(host="h", port=1, client_id="c")
FULL = LinkOptions(
    host="h", port=1, client_id="c", username="u", password="p", session_expiry_s=3600, receive_maximum=100,
    max_packet=70_000, will=Publish("w", b"x", 1, True, content_type="t"), will_delay_s=5,
)  # fmt: skip


@pytest.mark.parametrize(
    ("options", "protocol", "wire"),
    [
        (PLAIN, 4, "100d 0004 4d515454 04 02 001e 0001 63"),
        (PLAIN, 5, "100e 0004 4d515454 05 02 001e 00 0001 63"),
        (FULL, 4, "1019 0004 4d515454 04 ec 001e 0001 63 0001 77 0001 78 0001 75 0001 70"),
        (
            FULL, 5,
            "1031 0004 4d515454 05 ec 001e 0d 11 00000e10 21 0064 27 00011170 0001 63"
            "09 03 0001 74 18 00000005 0001 77 0001 78 0001 75 0001 70",
        ),
    ],
)  # fmt: skip
def test_connect_byte_by_byte(options: LinkOptions, protocol: int, wire: str) -> None:
    assert encode.connect(options, protocol).hex() == wire.replace(" ", "")


@pytest.mark.parametrize(
    ("data", "wire"),
    [
        (encode.subscribe(10, [("a/b", 1), ("c/d", 0)], 4), "820e 000a 0003 612f62 01 0003 632f64 00"),
        (encode.subscribe(10, [("a/b", 1)], 5), "8209 000a 00 0003 612f62 21"),
        (encode.pubacks([1, 515]), "4002 0001 4002 0203"),
        (encode.disconnect(4, 0x82), "e000"),
        (encode.disconnect(5), "e000"),
        (encode.disconnect(5, 0x82), "e00182"),
    ],
)
def test_small_packets_byte_by_byte(data: bytes, wire: str) -> None:
    assert data.hex() == wire.replace(" ", "")


@pytest.mark.parametrize(
    ("protocol", "wire", "expected"),
    [
        (4, "20020105", Connack(True, 5)),
        (5, "20020001", Connack(False, 1)),  # a broker of 3.1.1 refuses a v5 CONNECT
        (5, "2006010003210014", Connack(True, 0, {Prop.RECEIVE_MAXIMUM: 20})),
        (4, "9004000a0180", Suback(10, b"\x01\x80")),
        (5, "9005000a000187", Suback(10, b"\x01\x87")),
        (5, "d000", Pong()),
        (5, "e000", Disconnected(0)),
        (5, "e0018e", Disconnected(0x8E)),
        (5, "e0028b00", Disconnected(0x8B)),
    ],
)
def test_what_a_broker_sends(protocol: int, wire: str, expected: object) -> None:
    assert decoded(bytes.fromhex(wire), protocol).control == [expected]


@pytest.mark.parametrize(
    ("wire", "acked"),
    [("40020007", (7, 0)), ("4003000710", (7, 0x10)), ("400400079700", (7, 0x97))],
)
def test_pubacks_with_and_without_a_reason(wire: str, acked: tuple[int, int]) -> None:
    assert decoded(bytes.fromhex(wire)).acked == [acked]


@pytest.mark.parametrize(
    ("protocol", "wire", "words"),
    [
        (5, packet(0x30, b"\0\2\xc3\x28\0x"), "not UTF-8"),
        (5, packet(0x30, b"\0\3a\0b\0x"), "U\\+0000"),
        (5, packet(0x30, b"\0\3a/#\0x"), "a topic name"),
        (5, packet(0x30, b"\0\0\0x"), "a topic name"),
        (4, packet(0x30, b"\0"), "no topic"),
        (4, packet(0x30, b"\0\x09abc"), "ends"),
        (5, packet(0x30, b"\0\1a"), "ends"),
        (5, packet(0x30, b"\0\1a\x03\x23\0\1"), "topic alias"),
        (5, packet(0x30, b"\0\1a\x02\x02\1"), "wants 4 bytes"),
        (5, packet(0x30, b"\0\1a\x04\x26\0\1k"), "a length is cut off"),
        (5, packet(0x30, b"\0\1a\x04\x01\1\x01\1"), "twice"),
        (5, packet(0x30, b"\0\1a\x01\x7f"), "0x7f is unknown"),
        (5, packet(0x34, b"\0\1a\0\1\0"), "got QoS 2"),
        (5, packet(0x32, b"\0\1a\0\0\0"), "packet id 0"),
        (5, b"\x30\xff\xff\xff\xff\x01", "four bytes"),
        (5, packet(0xF0, b""), "packet type 15"),
        (4, packet(0xE0, b""), "packet type 14"),
        (5, packet(0xD1, b""), "flags 0"),
        (5, packet(0x20, b"\2\0\0"), "CONNACK"),
        (5, packet(0x90, b"\0"), "packet id"),
        (5, packet(0x40, b"\0\1\0\0\0"), "too many"),
    ],
)
def test_what_breaks_the_protocol_is_named(protocol: int, wire: bytes, words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        decoded(wire, protocol)


def test_a_large_packet_is_refused_before_it_is_collected() -> None:
    with pytest.raises(ProtocolError, match="at most 1000 bytes, got one of 1000003") as caught:
        decoder(max_packet=1000).feed(b"\x30" + varint(999_999) + b"\0")
    assert caught.value.reason == 0x95


@pytest.mark.parametrize("topic", ["a/#", "a/+", "", "a\0b", "x" * 70_000, "\ud800"])
def test_a_topic_that_cannot_be_published_to(topic: str) -> None:
    with pytest.raises(ValueError, match=r"expected a topic|a string for MQTT"):
        encode.publish_header(Publish(topic, b""), 5)


def test_many_topics_are_not_kept() -> None:
    tested = decoder()
    for i in range(20_000):
        message = Publish(f"t/{i}", b"")
        assert tested.feed(encode.publish_header(message, 5)).messages[0].topic == message.topic
    assert len(tested._topics) <= 8192
