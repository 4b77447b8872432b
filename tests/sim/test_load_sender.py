"""The sender keeps intended times whatever lanes do, hands over what is due in order, and counts what it could not."""

import asyncio
import time
from collections.abc import Sequence
from typing import cast

import numpy as np
import pytest

from penstock_models.errors import PenstockError
from penstock_sim.load.lane import Due, Lane, Sending
from penstock_sim.load.schedule import Periodic, Poisson, Schedule, merge
from penstock_sim.load.sender import Sender
from penstock_sim.load.streams import LoadStream, VirtualStream
from penstock_sim.sources import Payload, Ring, Source


class Ends:
    """A source of three payloads."""

    name, media_type, rate_hz = "ends", "application/x-tensor", 1.0

    def payloads(self) -> object:
        return iter([Payload(b"%d" % n) for n in range(3)])


class Book:
    """A lane that notes what it is given, and when."""

    def __init__(self) -> None:
        self.given: list[tuple[float, float, bytes]] = []
        self.ended = 0

    def send(self, frames: Sequence[Due]) -> None:
        now = time.monotonic()
        self.given += [(now, frame.intended_s, frame.payload.data) for _, frame in frames]

    def end(self) -> None:
        self.ended += 1


RING = Ring("ring", "application/x-tensor", 1.0, [Payload(b"%d" % n) for n in range(4)])


def stream(source: Source = RING) -> LoadStream:
    return LoadStream(VirtualStream("d", "s", source, Periodic(1.0)), "t", 5, "b")


def sender(books: Sequence[Book], schedules: Sequence[Schedule], sending: Sending, **more: object) -> Sender:
    streams = [(stream(), cast(Lane, book)) for book in books]
    return Sender(streams, schedules, sending, **more)  # type: ignore[arg-type]


async def test_every_intended_time_is_kept_and_none_comes_early() -> None:
    books, sending = [Book(), Book()], Sending()
    schedules: list[Schedule] = [Periodic(50.0, 0.003), Poisson(80.0, seed=4)]
    begin = time.monotonic() + 0.05
    await sender(books, schedules, sending).run(begin, 0.4)
    times, owners = merge([Periodic(50.0, 0.003), Poisson(80.0, seed=4)], 0.4)
    for number, book in enumerate(books):
        mine = times[owners == number]
        assert [intended for _, intended, _ in book.given] == pytest.approx(begin + mine, abs=1e-6)
        assert all(now >= intended for now, intended, _ in book.given)
        assert [body for _, _, body in book.given] == [b"%d" % (n % 4) for n in range(len(mine))]
        assert book.ended == 1
    assert sending.lag_ms.count == len(times) and sending.unsent.total() == 0


async def test_a_run_goes_on_where_the_one_before_was_planned_to() -> None:
    book, sending = Book(), Sending()
    sends = sender([book], [Periodic(100.0)], sending)
    for _ in range(2):
        await sends.run(time.monotonic(), 0.1)
    assert len(book.given) == 20
    steps = np.diff([intended for _, intended, _ in book.given])
    assert np.delete(steps, 9) == pytest.approx(0.01, abs=1e-6)


async def test_a_lane_that_never_takes_delays_no_other_and_ends_unsent() -> None:
    sending, book = Sending(), Book()
    stuck = Lane(sending)
    sends = Sender(
        [(stream(), stuck), (stream(), cast(Lane, book))], [Periodic(100.0), Periodic(100.0)], sending
    )
    running = asyncio.create_task(sends.run(time.monotonic(), 0.3))
    done, _ = await asyncio.wait([running], timeout=0.6)
    assert not done  # it waits for what is still in a lane
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (len(book.given), sending.unsent, sending.held) == (30, {"end": 30}, 0)
    assert all(now - intended < 1.0 for now, intended, _ in book.given)


async def test_what_was_planned_and_not_due_at_a_cancellation_is_unsent() -> None:
    book, sending = Book(), Sending()
    running = asyncio.create_task(sender([book], [Periodic(100.0)], sending).run(time.monotonic() + 30, 60.0))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (book.given, sending.unsent, book.ended) == ([], {"end": 25}, 1)


async def test_a_generator_that_is_late_sends_all_and_says_by_how_much() -> None:
    book, sending = Book(), Sending()
    await sender([book], [Periodic(1000.0)], sending).run(time.monotonic() - 5.0, 1.0)
    assert len(book.given) == 1000
    assert 4000 < (sending.lag_ms.percentile(50) or 0) < 6000


async def test_it_ends_with_its_sources() -> None:
    book, sending = Book(), Sending()
    sends = Sender([(stream(cast(Source, Ends())), cast(Lane, book))], [Periodic(200.0)], sending)
    await asyncio.wait_for(sends.run(time.monotonic(), 3600.0), 5)
    assert [body for _, _, body in book.given] == [b"0", b"1", b"2"]
    assert sending.unsent.total() == 0


async def test_a_check_that_fails_ends_the_run() -> None:
    def check() -> None:
        raise PenstockError("the connection is gone")

    book, sending = Book(), Sending()
    with pytest.raises(PenstockError, match="gone"):
        await sender([book], [Periodic(100.0)], sending, check=check).run(time.monotonic(), 1.0)
    assert (sending.unsent, book.ended) == ({"end": 25}, 1)


class Busy(Book):
    """A lane that takes as long as the next frame needs to become due."""

    def send(self, frames: Sequence[Due]) -> None:
        super().send(frames)
        time.sleep(0.002)


async def test_a_sender_without_a_moment_to_spare_lets_others_run() -> None:
    """The next frame is always due when it has handed one over; results and reports must come in all the same."""
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    beside = asyncio.create_task(others())
    await sender([Busy()], [Periodic(1000.0)], Sending()).run(time.monotonic(), 0.3)
    beside.cancel()
    assert turns > 50
