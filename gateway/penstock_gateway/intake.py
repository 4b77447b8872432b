"""Takes messages from the links: the journal, the queue, acknowledgement, back-pressure (contracts 5).

A `latest` frame is acknowledged and queued at once. An `every` frame goes to the journal first, and is acknowledged
and queued when it is durable, in the order of arrival. Even one that is settled at once, such as a duplicate, is
acknowledged only after all that came before it is durable.

A refused `every` frame has no row: it is counted with a barrier, and its result goes out before that is durable. The
other way round a kill between the two would lose the answer, as the frame is then known and its redelivery a duplicate.
So around a kill a refusal may be told twice, under two ids, or not at all where the broker did not take it in time; it
is counted once in any case. An answer, which has a row, is told at least once and always under one id.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from penstock_gateway.admission import DUPLICATE, Admission
from penstock_gateway.frames import Frame, Lane, Stream
from penstock_gateway.identity import StreamIdentity
from penstock_gateway.journal import Entry, Journal
from penstock_gateway.ledger import SUPERSEDED, Counts, Fate, Ledger
from penstock_gateway.metrics import Tally
from penstock_gateway.mqtt import Link, Message
from penstock_gateway.receipts import Receipts
from penstock_gateway.results import Results
from penstock_gateway.streams import Streams
from penstock_models.errors import UsageError
from penstock_models.items import Refusal
from penstock_models.scheduling.scheduler import Scheduler

FULL: Fate = ("dropped", "full")
MEMORY: Fate = ("dropped", "memory")
CANCELLED: Fate = ("dropped", "cancelled")
QUOTA = Refusal("rejected", "quota")


class Books(NamedTuple):
    """Where frames are counted: the whole ledger, and the part of it that the journal's durable books hold."""

    ledger: Ledger
    journalled: Counts

    def rest(self, journalled_streams: Collection[str]) -> Counts:
        """What a checkpoint holds: the total less what the journal counts with its rows.

        The journal keeps no `late`, and `missing_upstream` only of the streams ("DEVICE/STREAM") whose numbers it keeps.
        """
        total = self.ledger.total()
        rest = total.minus(self.journalled)
        rest.late = total.late
        rest.missing_upstream = sum(
            counts.missing_upstream
            for key, counts in self.ledger.streams.items()
            if key not in journalled_streams
        )
        return rest


class Durable(NamedTuple):
    """What waits for a commit: a message to acknowledge, and the frame to queue unless it is settled already."""

    link: Link
    ack: int
    frame: Frame | None = None


class Intake:
    """The way in for all lanes.

    Args:
        first_id: the first result id of this start, larger than any row of the journal.
    """

    def __init__(
        self,
        *,
        admission: Admission,
        streams: Streams,
        books: Books,
        results: Results,
        scheduler: Scheduler,
        journal: Journal,
        receipts: Receipts,
        tally: Tally,
        first_id: int,
    ) -> None:
        self._admission = admission
        self._streams = streams
        self._books = books
        self._results = results
        self._scheduler = scheduler
        self._journal = journal
        self._receipts = receipts
        self._tally = tally
        self._ids = itertools.count(first_id)
        self._paused: dict[Lane, Link] = {}
        self._numbered: dict[str, Stream] = {}

    def take(self, link: Link, messages: Sequence[Message]) -> None:
        """Admit what one read of a link's socket brought."""
        now, now_ms = time.monotonic(), time.time_ns() // 1_000_000
        touched: dict[Lane, None] = {}
        for message in messages:
            if message.retain:
                self._tally.retained_ignored += 1
                link.ack(message.ack)
                continue
            found = self._streams.find(message.topic)
            if not isinstance(found, Stream):
                self._strange(found)
                link.ack(message.ack)
            elif self._streams.is_stranger(found):
                self._turn_away(found, message, now, now_ms)
                link.ack(message.ack)
            elif found.lane.route.mode == "latest":
                self._take_latest(found, message, now, now_ms)
                link.ack(message.ack)
            else:
                touched[found.lane] = None
                self._take_every(link, found, message, now, now_ms)
        for lane in touched:
            self._hold_back(link, lane)
        self._scheduler.kick()

    def durable(self, tokens: Sequence[Durable], identities: Sequence[StreamIdentity]) -> None:
        """A commit made these safe: acknowledge, queue, tell the devices."""
        for link, ack, frame in tokens:
            link.ack(ack)
            if frame is not None:
                self._queue(frame)
                self._drop_oldest(frame.stream.lane)
        for identity in identities:
            self._receipts.changed(self._numbered[identity.key])
        self.resume()
        self._scheduler.kick()

    def passed(self, stream: Stream) -> None:
        """Gaps of a stream were passed: keep that, and tell the device."""
        if stream.lane.route.mode == "every" and stream.identity is not None:
            self._journal.touch(stream.identity)

    def recall(self, keys: Iterable[str]) -> None:
        """Tell the devices that the journal remembers where they stand: what they heard last may be out of date,
        and one that was told to pause waits for another word."""
        for key in keys:
            if (stream := self._streams.recall(key)) is not None:
                self._admission.number(stream)
                self._numbered[key] = stream
                self._receipts.watch(stream)
                self._receipts.changed(stream)

    def carry(self, entry: Entry) -> None:
        """Queue a frame that an earlier start left in the journal, behind the live ones."""
        found = self._streams.find(entry.message.topic)
        counts = found.counts if isinstance(found, Stream) else self._books.ledger.unattributed
        for book in (counts, self._books.journalled):
            book.received += 1
            book.carried += 1
        if not isinstance(found, Stream):  # its route is gone
            for book in (counts, self._books.journalled):
                book.settle(CANCELLED)
            self._journal.settle(entry.row, CANCELLED)
            return
        frame = self._frame(found, entry.row, entry.message, time.monotonic(), entry.arrived_ms)
        frame.row = entry.row
        frame.every = True  # whatever its route is now
        if refusal := self._admission.carried(frame, entry.message):
            self._results.refuse(frame, refusal)
        else:
            self._queue(frame)

    def let_go(self, frame: Frame) -> None:
        """A frame is settled for good: its lane has room."""
        lane = frame.stream.lane
        lane.let_go(frame)
        if self._paused:
            self.resume()
        if lane.halted and lane.window:
            self._receipts.room(lane)

    def _strange(self, fate: Fate | None) -> None:
        """A message that makes no stream: counted, and answered by nobody."""
        if fate is None:
            self._tally.unrouted += 1
        else:
            self._books.ledger.unattributed.received += 1
            self._books.ledger.unattributed.settle(fate)

    def _turn_away(self, stranger: Stream, message: Message, now: float, now_ms: int) -> None:
        """A stream beyond the quota: answered at once, and forgotten."""
        stranger.counts.received += 1
        frame = self._frame(stranger, next(self._ids), message, now, now_ms)
        frame.qos = message.qos
        self._results.refuse(frame, QUOTA)

    def _frame(self, stream: Stream, number: int, message: Message, now: float, now_ms: int) -> Frame:
        frame = Frame(stream, f"{number:x}", now, now_ms, len(message.payload))
        stream.lane.hold(frame)
        return frame

    def _take_latest(self, stream: Stream, message: Message, now: float, now_ms: int) -> None:
        stream.counts.received += 1
        frame = self._frame(stream, next(self._ids), message, now, now_ms)
        refusal = self._admission.judge(frame, message)
        if stream.identity is not None:
            self._receipts.watch(stream)
        if refusal is not None:
            self._results.refuse(frame, refusal)
            return
        older = stream.oldest
        if stream.lane.over(less=older):
            self._results.count(frame, MEMORY)
            return
        if older is not None:
            self._scheduler.withdraw(older)
            self._results.count(older, SUPERSEDED)
        self._queue(frame)

    def _take_every(self, link: Link, stream: Stream, message: Message, now: float, now_ms: int) -> None:
        stream.counts.received += 1
        self._books.journalled.received += 1
        number = next(self._ids)
        frame = self._frame(stream, number, message, now, now_ms)
        frame.every = True
        refusal = self._admission.judge(frame, message)
        if stream.identity is not None:
            self._number(stream, stream.identity)
        if frame.digest and refusal is not DUPLICATE:
            self._journal.remember(frame.digest)
        if refusal is None and not self._has_room(stream.lane):
            refusal = Refusal(*FULL)
        if refusal is None:
            refusal = self._append(link, frame, number, message)
        if refusal is not None:
            self._results.refuse(frame, refusal)
            self._journal.barrier(Durable(link, message.ack), (refusal.bucket, refusal.reason))

    def _queue(self, frame: Frame) -> None:
        """From now on the frame waits for its model."""
        lane = frame.stream.lane
        lane.line_up(frame)
        self._scheduler.submit(lane.target, frame)

    def _append(self, link: Link, frame: Frame, row: int, message: Message) -> Refusal | None:
        """Journal a frame; why it cannot be."""
        entry = Entry(row, frame.stream.key, message, frame.arrived_ms, frame.boot, frame.seq)
        try:
            self._journal.append(entry, Durable(link, message.ack, frame))
        except UsageError as error:  # a small journal takes less than max_frame_bytes
            return Refusal("rejected", "too_large", str(error))
        frame.row = row
        return None

    def _number(self, stream: Stream, identity: StreamIdentity) -> None:
        """Keep what this frame did to its stream's numbers with the same commit."""
        self._numbered[stream.key] = stream
        self._journal.touch(identity)
        self._receipts.watch(stream)

    def _has_room(self, lane: Lane) -> bool:
        """Whether a frame that came may stay, after what the route does when it is full.

        With `drop_oldest` it may: which frame goes is decided when it is durable, since until then neither it nor
        those that came in the same burst stand in the queue.
        """
        match lane.route.on_full:
            case "drop_newest":
                return not lane.over()
            case "drop_oldest":
                return not lane.bursting
            case _:
                return True

    def _drop_oldest(self, lane: Lane) -> None:
        """Let the oldest frames of a full lane go, so that a stream that floods it does not shut out the others."""
        while lane.route.on_full == "drop_oldest" and lane.over() and (oldest := lane.oldest()) is not None:
            self._scheduler.withdraw(oldest)
            self._results.count(oldest, FULL)

    def _hold_back(self, link: Link, lane: Lane) -> None:
        """Stop reading a full lane's socket; its broker keeps what comes, and pings go on."""
        if not lane.paused and ((lane.full and lane.route.on_full == "wait") or self._journal.full):
            lane.paused = True
            self._paused[lane] = link
            link.pause()
            self._tell_window(lane)

    def resume(self) -> None:
        """Read again where there is room."""
        for lane in [lane for lane in self._paused if lane.roomy and not self._journal.full]:
            lane.paused = False
            self._paused.pop(lane).resume()
            self._tell_window(lane)

    def _tell_window(self, lane: Lane) -> None:
        for stream in self._numbered.values():
            if stream.lane is lane:
                self._receipts.changed(stream)
