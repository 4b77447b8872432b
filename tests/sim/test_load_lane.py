"""A lane sends what is due in order, keeps what cannot go, and counts what it gives up; nothing is counted twice."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import cast

import hypothesis.strategies as st
import pytest
from hypothesis import given

from penstock_sim.load import lane as lanes
from penstock_sim.load.connection import Connection
from penstock_sim.load.lane import Due, Lane, Sending
from penstock_sim.load.schedule import Periodic
from penstock_sim.load.streams import LoadStream, VirtualStream
from penstock_sim.sources import Payload, Ring
from penstock_sim.store import Receipt


class Wire:
    """A connection that takes `room` packets and is busy then; what was written lies in `calls`, one list a call."""

    def __init__(self, room: int = 10**9) -> None:
        self.room = room
        self.calls: list[list[bytes]] = []
        self.on_room: Callable[[], None] = lambda: None
        self._id = 0

    @property
    def busy(self) -> bool:
        return self.room <= self._id

    def packet_id(self) -> int:
        self._id += 1
        return self._id

    def write(self, packets: Sequence[bytes]) -> None:
        self.calls.append(list(packets))

    @property
    def bodies(self) -> list[bytes]:
        return [packet[-4:] for packets in self.calls for packet in packets]

    def more(self, room: int) -> None:
        self.room += room
        self.on_room()


def used(lane: Lane, wire: Wire, repeated: Sequence[Due] = ()) -> Wire:
    lane.use(cast(Connection, wire), repeated)
    return wire


def stream(store: int = 0, size: int = 4) -> LoadStream:
    """Its bodies end in their number."""
    ring = Ring(
        "r", "application/x-tensor", 1.0, [Payload(bytes(size - 4) + b"%04d" % n) for n in range(500)]
    )
    return LoadStream(VirtualStream("d", "s", ring, Periodic(1.0), 1), "t", 5, "b0", keeps=store)


def due(source: LoadStream, count: int, ago_s: float = 0.0) -> list[Due]:
    now = time.monotonic()
    frames = [source.take(now - ago_s, now, 1) for _ in range(count)]
    return [(source, frame) for frame in frames if frame is not None]


def numbers(*found: int) -> list[bytes]:
    return [b"%04d" % n for n in found]


def test_what_is_due_goes_out_at_once_with_one_call() -> None:
    sending, source = Sending(), stream()
    lane = Lane(sending)
    wire = used(lane, Wire())
    lane.send(due(source, 3))
    assert len(wire.calls) == 1 and wire.bodies == numbers(0, 1, 2)
    assert (source.track.sent, sending.held, sending.late, sending.unsent.total()) == (3, 0, 0, 0)


def test_what_finds_no_room_waits_in_order_and_counts_from_its_intended_time() -> None:
    sending, source = Sending(), stream()
    lane = Lane(sending)
    wire = used(lane, Wire(room=2))
    lane.send(due(source, 4, ago_s=1.0))
    lane.send(due(source, 1))
    assert (wire.bodies, sending.held, source.track.sent) == (numbers(0, 1), 3, 2)
    wire.more(2)
    assert (wire.bodies, sending.held) == (numbers(0, 1, 2, 3), 1)
    wire.more(9)
    assert (wire.bodies, sending.held, source.track.sent) == (numbers(0, 1, 2, 3, 4), 0, 5)
    assert sending.late == 4
    assert sending.sent_lag_ms.highest == pytest.approx(1000, rel=0.2)
    assert sending.lag_ms.count == 0  # that is the generator's own, which handed them over in time


def test_without_a_connection_everything_waits_and_goes_out_over_the_next() -> None:
    sending, source = Sending(), stream()
    lane = Lane(sending)
    lane.send(due(source, 2))
    assert (sending.held, source.track.sent) == (2, 0)
    first = used(lane, Wire(room=1))
    lane.use(None)
    lane.send(due(source, 1))
    assert used(lane, Wire()).bodies == numbers(1, 2)
    assert (first.bodies, sending.held) == (numbers(0), 0)


def test_what_went_stale_is_given_up_when_there_is_room() -> None:
    sending, source = Sending(), stream()
    lane = Lane(sending, fresh_s=2.0)
    lane.send([*due(source, 2, ago_s=5.0), *due(source, 1, ago_s=1.0)])
    assert used(lane, Wire()).bodies == numbers(2)
    assert (sending.unsent, sending.held, source.track.sent) == ({"stale": 2}, 0, 1)


def test_a_device_that_keeps_its_frames_sends_old_ones_too() -> None:
    sending, source = Sending(), stream(store=5)
    lane = Lane(sending, fresh_s=2.0)
    lane.send(due(source, 2, ago_s=500.0))
    assert used(lane, Wire()).bodies == numbers(0, 1)
    assert not sending.unsent


def test_a_store_that_may_send_no_more_waits_for_its_receipt_but_repeats() -> None:
    sending, source = Sending(), stream(store=5)
    lane = Lane(sending)
    wire = used(lane, Wire())
    lane.send(due(source, 1))
    assert source.store is not None
    again = source.store.receipt(Receipt("b0", through=0, missing=((0, 0),), window=0))
    lane.send([(source, frame) for _, frame in again])
    lane.send(due(source, 1))
    assert (wire.bodies, sending.held, source.again) == (numbers(0, 0), 1, 1)
    source.store.receipt(Receipt("b0", through=0, window=5))
    lane.flush()
    assert (wire.bodies, sending.held) == (numbers(0, 0, 1), 0)
    assert sending.sent_lag_ms.count == 2  # a repetition is no second sending


def test_what_is_repeated_goes_in_front_of_what_waits_and_is_no_second_frame() -> None:
    sending, source = Sending(), stream(store=9)
    lane = Lane(sending)
    used(lane, Wire())
    lane.send(due(source, 2))
    lane.use(None)
    lane.send(due(source, 1))
    assert source.store is not None
    kept = [(source, frame) for _, frame in source.store.all()]
    wire = used(lane, Wire(room=2), kept)
    assert wire.bodies == numbers(0, 1)
    lane.repeat(kept[1:])
    wire.more(9)
    assert (wire.bodies, sending.held) == (numbers(0, 1, 1, 2), 0)
    assert (source.track.sent, source.again, sending.sent_lag_ms.count) == (3, 3, 3)


def test_beyond_the_most_that_may_wait_the_oldest_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "MAX_HELD", 3)
    sending, source = Sending(), stream()
    lane = Lane(sending)
    lane.send(due(source, 5))
    assert (sending.unsent, sending.held) == ({"full": 2}, 3)
    assert used(lane, Wire()).bodies == numbers(2, 3, 4)


def test_repetitions_end_with_the_connection_that_they_were_for() -> None:
    """Else a device that starts again would send its old numbers under its new name."""
    sending, source = Sending(), stream(store=9)
    lane = Lane(sending)
    used(lane, Wire())
    lane.send(due(source, 2))
    lane.use(None)
    assert source.store is not None
    for _ in range(3):  # a link that flaps
        used(lane, Wire(room=0), [(source, frame) for _, frame in source.store.all()])
        assert sending.held == 2
        lane.use(None)
    lane.send(due(source, 1))
    assert sending.held == 1
    source.reboot("b1")
    assert used(lane, Wire()).bodies == numbers(2)
    assert (source.track.sent, source.again) == (1, 0)


def test_the_end_gives_up_what_waits_but_repetitions_were_sent_before() -> None:
    sending, source = Sending(), stream(store=9)
    lane = Lane(sending)
    used(lane, Wire(room=2))
    lane.send(due(source, 2))
    assert source.store is not None
    lane.send([(source, frame) for _, frame in source.store.all()])
    lane.send(due(source, 3))
    lane.end()
    assert (sending.unsent, sending.held) == ({"end": 3}, 0)


def test_much_that_waits_is_written_a_megabyte_at_a_time() -> None:
    class Choking(Wire):
        """Busy once it was written to."""

        def write(self, packets: Sequence[bytes]) -> None:
            super().write(packets)
            self.room = 0

    sending, source = Sending(), stream(size=100_000)
    lane = Lane(sending)
    lane.send(due(source, 50))
    wire = used(lane, Choking())
    assert len(wire.calls) == 1 and len(wire.bodies) == 11
    wire.more(10**9)
    assert len(wire.calls) == 2 and sending.held == 50 - 22


async def test_whoever_waits_for_the_lanes_to_be_empty_is_told() -> None:
    sending, source = Sending(), stream()
    lane = Lane(sending)
    await asyncio.wait_for(sending.empty(), 1)
    lane.send(due(source, 1))
    waiting = asyncio.create_task(sending.empty())
    await asyncio.sleep(0)
    assert not waiting.done()
    used(lane, Wire())
    await asyncio.wait_for(waiting, 1)


VERBS = st.sampled_from(["send", "stale", "more", "connect", "lose"])


@given(steps=st.lists(st.tuples(VERBS, st.integers(0, 4)), max_size=30))
def test_every_frame_is_sent_once_or_waits_or_was_given_up(steps: list[tuple[str, int]]) -> None:
    sending, source = Sending(), stream()
    lane, wires, taken = Lane(sending, fresh_s=2.0), [Wire(room=0)], 0
    for what, count in steps:
        if what in ("send", "stale"):
            lane.send(due(source, count, ago_s=9.0 if what == "stale" else 0.0))
            taken += count
        elif what == "connect":
            wires.append(used(lane, Wire(count)))
        elif what == "lose":
            lane.use(None)
        elif lane.connection is not None:
            wires[-1].more(count)
        sent = [body for wire in wires for body in wire.bodies]
        assert len(sent) + sending.held + sending.unsent.total() == taken
        assert sent == sorted(set(sent)) and source.track.sent == len(sent)
    lane.end()
    assert sending.held == 0 and source.track.sent + sending.unsent.total() == taken
