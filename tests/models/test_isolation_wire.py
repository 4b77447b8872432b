"""What crosses between a host and its process: exactly what went in, and nothing that breaks a rule."""

import os
import socket
from collections.abc import Callable, Iterator

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock_models.errors import (
    BundleError,
    GoldenError,
    HostError,
    ModelRefused,
    PenstockError,
    PlacementError,
    TemporaryError,
    UsageError,
    one_line,
)
from penstock_models.isolation import buffers
from penstock_models.isolation.buffers import KEPT_BYTES, LARGEST_BYTES, Parts, Reader, TooLarge, Writer
from penstock_models.isolation.channel import MAX_MESSAGE, Channel, ChannelError
from penstock_models.isolation.line import Frame, Line
from penstock_models.isolation.packing import (
    PackedOutcome,
    pack_item,
    pack_outcome,
    unpack_item,
    unpack_outcome,
)
from penstock_models.isolation.words import (
    Call,
    Done,
    Failed,
    Loaded,
    Probe,
    Reply,
    Run,
    calls,
    failed,
    raised,
    replies,
)
from penstock_models.items import (
    Anomaly,
    Answer,
    Class,
    Detection,
    EncodedImage,
    Item,
    JsonValues,
    Named,
    Outcome,
    OutputTensor,
    Refusal,
    SenML,
    ServableInfo,
    Tensor,
)

Pair = tuple[Line[Reply], Line[Call]]


def lines() -> Pair:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Line[Reply](Channel(ours), replies, 3), Line[Call](Channel(theirs), calls, 3)


@pytest.fixture
def pair() -> Iterator[Pair]:
    host, process = lines()
    yield host, process
    host.close()
    process.close()


# --- exactly ---------------------------------------------------------------------------------------------------------

texts = st.text(max_size=20)
data = st.binary(max_size=200) | st.integers(0, 3 * buffers.SMALLEST_BYTES).map(bytes)
views: st.SearchStrategy[bytes | memoryview] = (
    data | data.map(lambda d: memoryview(d)) | data.map(lambda d: memoryview(bytearray(d)))
)
shapes = st.lists(st.integers(0, 2**62), max_size=8).map(tuple)
values = st.builds(Tensor, views, texts, shapes) | st.builds(JsonValues, views, texts, shapes)
payloads = (
    values
    | st.builds(EncodedImage, views, texts)
    | st.builds(SenML, views, st.booleans())
    | st.builds(Named, st.dictionaries(texts, values, max_size=3))
)
batches = st.lists(st.builds(Item, payloads, texts), max_size=5)

numbers = st.floats(allow_nan=False)
boxes = st.tuples(numbers, numbers, numbers, numbers)
answers = st.builds(
    Answer,
    detections=st.none() | st.lists(st.builds(Detection, boxes, numbers, texts), max_size=3).map(tuple),
    classes=st.none()
    | st.lists(st.builds(Class, texts, st.integers(0, 2**40), numbers), max_size=3).map(tuple),
    anomaly=st.none() | st.builds(Anomaly, numbers, st.none() | numbers),
    outputs=st.none() | st.dictionaries(texts, st.builds(OutputTensor, texts, shapes, data), max_size=3),
    decode_ms=numbers,
    infer_ms=numbers,
    width=st.integers(0, 2**31),
    height=st.integers(0, 2**31),
)
outcomes = st.lists(
    answers | st.builds(Refusal, texts, texts, texts | st.just("long " * 5000), st.booleans()), max_size=5
)


@given(st.lists(st.tuples(batches, outcomes), min_size=1, max_size=4))
@settings(max_examples=30)
def test_items_and_outcomes_cross_exactly_one_batch_after_the_other(
    exchanges: list[tuple[list[Item], list[Outcome]]],
) -> None:
    host, process = lines()
    for items, answered in exchanges:
        parts = Parts()
        host.say(host.slots[1], Run(tuple(pack_item(item, parts) for item in items), 0.1), parts)
        heard = process.hear()
        assert heard is not None and isinstance(heard[1], Run) and heard[1].timeout_s == 0.1
        slot = heard[0]
        assert [unpack_item(item, slot.reader) for item in heard[1].items] == items
        parts = Parts()
        process.say(slot, Done(tuple(pack_outcome(o, parts) for o in answered), "hangs"), parts)
        reply = host.hear()
        assert reply is not None and isinstance(reply[1], Done) and reply[1].hung == "hangs"
        assert [unpack_outcome(packed, reply[0].reader) for packed in reply[1].outcomes] == answered
        assert host.hear() is None and process.hear() is None
    host.close()
    process.close()


def test_not_a_number_crosses() -> None:
    packed = pack_outcome(Answer(anomaly=Anomaly(float("nan"), float("inf"))), Parts())
    again = unpack_outcome(
        msgspec.msgpack.decode(msgspec.msgpack.encode(packed), type=PackedOutcome), Reader()
    )
    assert isinstance(again, Answer) and again.anomaly is not None
    assert str(again.anomaly.score) == "nan" and again.anomaly.threshold == float("inf")


def test_items_are_views_and_outcomes_have_bytes_of_their_own(pair: Pair) -> None:
    host, process = pair
    parts = Parts()
    item = Item(Tensor(bytes(100_000)))
    outcome = Answer(outputs={"y": OutputTensor("uint8", (100_000,), bytes(100_000))})
    host.say(host.slots[1], Run((pack_item(item, parts),), 1.0), parts)
    slot, word = process.hear() or pytest.fail("nothing came")
    assert isinstance(word, Run)
    crossed = unpack_item(word.items[0], slot.reader).payload
    assert isinstance(crossed, Tensor) and isinstance(crossed.data, memoryview) and crossed.data.readonly
    parts = Parts()
    process.say(slot, Done((pack_outcome(outcome, parts),)), parts)
    slot, reply = host.hear() or pytest.fail("nothing came")
    assert isinstance(reply, Done)
    answer = unpack_outcome(reply.outcomes[0], slot.reader)
    assert isinstance(answer, Answer) and answer.outputs is not None
    assert type(answer.outputs["y"].data) is bytes


def test_many_labels_cross(pair: Pair) -> None:
    host, process = pair
    labels = tuple(f"label {n}" for n in range(21_000))
    info = ServableInfo(
        "m", 1, "sha256:1", "x:cpu", "classification", 1, False, 0.5, 3, labels, {1: 0.5, 2: 0.9}
    )
    process.say(process.slots[0], Loaded(info))
    assert host.hear() == (host.slots[0], Loaded(info))


@pytest.mark.parametrize(
    "error",
    [
        UsageError("no bundle at x"),
        BundleError("x: wrong"),
        ModelRefused("external_data", "weights elsewhere"),
        PlacementError("none", ["cuda: no", "npu: no"]),
        PlacementError("none"),
        GoldenError("wrong", ["sample 0: box", "sample 1: label"]),
        TemporaryError("disk", "no room"),
        BundleError("\udcff.bundle: wrong"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_errors_cross_with_what_they_carry(error: PenstockError) -> None:
    again = raised(msgspec.msgpack.decode(msgspec.msgpack.encode(failed(error)), type=Failed), "x")
    assert type(again) is type(error) and str(again) == one_line(str(error)) and vars(again) == vars(error)


def test_an_error_of_the_disk_stays_one() -> None:
    """Its cause does not cross, and with it would go that another try is worth it."""
    try:
        try:
            raise OSError(5, "input/output error")
        except OSError as error:
            raise BundleError("x: cannot read it") from error
    except BundleError as error:
        again = raised(failed(error), "x")
    assert isinstance(again, TemporaryError) and (again.reason, str(again)) == ("io", "io: x: cannot read it")


def test_an_unknown_error_is_the_host_s() -> None:
    error = raised(Failed("SyntaxError", "no"), "here")
    assert isinstance(error, HostError) and error.reason == "crashed" and "here: no" in str(error)


# --- bounds ----------------------------------------------------------------------------------------------------------


def test_a_buffer_grows_is_reused_and_a_large_one_is_let_go() -> None:
    writer, reader = Writer(), Reader()

    def crossed(size: int) -> bool:
        """Whether a new buffer was made."""
        parts = Parts()
        start, length = parts.add(b"x" * size)
        fd = writer.place(parts)
        if fd >= 0:
            reader.take(fd)
        assert bytes(reader.at(start, length)) == b"x" * size
        reader.trim()
        return fd >= 0

    sizes = [1, 50_000, 100_000, 70_000, KEPT_BYTES + 1, 1, 1]
    assert [crossed(size) for size in sizes] == [True, False, True, False, True, True, False]
    writer.close()


def test_a_buffer_that_could_not_be_filled_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader never got its descriptor, so it must not be used."""
    writer, parts = Writer(), Parts()
    span = parts.add(b"words")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space"):
        writer.place(parts)
    monkeypatch.undo()
    reader = Reader()
    reader.take(writer.place(parts))
    assert bytes(reader.at(*span)) == b"words"
    writer.close()


def test_more_than_the_largest_buffer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffers, "LARGEST_BYTES", 100_000)
    writer, parts = Writer(), Parts()
    parts.add(bytes(100_001))
    with pytest.raises(TooLarge, match="at most 100000"):
        writer.place(parts)


def unsealed(size: int) -> int:
    fd = os.memfd_create("unsealed", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    return fd


@pytest.mark.parametrize(
    "descriptor",
    [
        lambda: unsealed(4096),  # could be shrunk under the reader: a bus error
        lambda: unsealed(0),
        lambda: unsealed(LARGEST_BYTES + 1),
        lambda: os.open("/dev/zero", os.O_RDONLY),
        lambda: os.pipe()[0],
    ],
    ids=["unsealed", "empty", "huge", "device", "pipe"],
)
def test_what_is_no_buffer_is_refused_and_closed(descriptor: Callable[[], int]) -> None:
    fd = descriptor()
    with pytest.raises(ChannelError):
        Reader().take(fd)
    with pytest.raises(OSError):
        os.fstat(fd)


@pytest.mark.parametrize(
    ("start", "size"), [(-1, 1), (0, -1), (0, 1 << 40), (1 << 40, 1), (buffers.SMALLEST_BYTES, 1)]
)
def test_what_is_not_within_the_buffer_is_refused(start: int, size: int) -> None:
    writer, reader, parts = Writer(), Reader(), Parts()
    parts.add(b"12345")
    reader.take(writer.place(parts))
    with pytest.raises(ChannelError, match="of a buffer of"):
        reader.at(start, size)
    writer.close()


@pytest.mark.parametrize(
    "message",
    [
        b"rubbish",
        msgspec.msgpack.encode(Frame(3, b"")),
        msgspec.msgpack.encode(Frame(-1, b"")),
        msgspec.msgpack.encode(Frame(1, b"", 0, 100)),
        msgspec.msgpack.encode(Frame(1, b"rubbish")),
        msgspec.msgpack.encode(Frame(1, msgspec.msgpack.encode(Probe()))),  # a call is no reply
    ],
)
def test_what_is_no_word_is_refused(message: bytes, pair: Pair) -> None:
    host, process = pair
    process._channel.send(message)
    with pytest.raises(ChannelError) as refused:
        host.hear()
    assert not refused.value.closed


@pytest.mark.parametrize(
    "packed",
    [
        PackedOutcome(None, None),
        PackedOutcome(Answer(), Refusal("failed", "internal")),
        PackedOutcome(Answer(outputs={}), None, {"y": (0, 0)}),
    ],
)
def test_what_is_no_outcome_is_refused(packed: PackedOutcome) -> None:
    with pytest.raises(ValueError, match="outcome"):
        unpack_outcome(packed, Reader())


def test_long_messages_and_many_descriptors_are_refused() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel = Channel(ours)
    with pytest.raises(ChannelError, match="at most"):
        channel.send(bytes(MAX_MESSAGE + 1))
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    theirs.send(bytes(MAX_MESSAGE + 1))
    with pytest.raises(ChannelError, match="more than"):
        channel.receive()
    for count in (2, 5, 50):
        socket.send_fds(theirs, [b"x"], [0] * count)
        with pytest.raises(ChannelError, match="more than"):
            channel.receive()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    assert channel.receive() is None
    theirs.close()
    for act in (channel.receive, lambda: channel.send(b"x")):
        with pytest.raises(ChannelError) as refused:
            act()
        assert refused.value.closed
    channel.close()


def test_who_does_not_listen_is_refused_in_the_end(pair: Pair) -> None:
    host, _ = pair
    with pytest.raises(ChannelError, match="does not take its messages"):
        for _ in range(10_000):
            host.say(host.slots[1], Probe())
