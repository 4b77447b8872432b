"""What a device keeps until its receipt says that it is safe (contracts 5). Pure: one boot of one stream.

Shared by the virtual devices, which send what they keep at once (`keep`, `receipt`, `all`), and by the kit for those
who write real ones, which also keeps what cannot go out yet (`put`, `take`, `reopen`, `probe`).

How a frame moves. It waits until it is sent, and then is out until a receipt covers it. What a receipt lists as missing,
and after a new connection all that is out, is due again; that goes before what was never sent. Three rules are not
obvious:

- Until the first receipt, only the oldest frame is out. The first `seq` that a gateway sees of a boot opens its count:
  were the first frame lost and a later one seen, then the receipt would cover what never arrived.
- A frame that was listed is covered only by a receipt that comes after it was sent again. A gateway passes a gap in
  time, and an outage may be longer: what this device still has is sent, and counted as late there.
- A frame that was sent again and is listed once more is only due when the receipt covers what was sent after it;
  before that the listing is an old one. `probe` is the way out where nothing is sent after it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Annotated, Generic, TypeVar

import msgspec
from msgspec import Meta

T = TypeVar("T")


class Receipt(msgspec.Struct, frozen=True):
    """Every `seq` up to `through` is safe except those in `missing`; `window` more may be sent (0: pause)."""

    boot: str
    through: int
    missing: tuple[tuple[int, int], ...] = ()
    window: Annotated[int, Meta(ge=0)] = 1 << 30
    v: Annotated[int, Meta(ge=1, le=1)] = 1


class Store(Generic[T]):
    """Frames by `seq` from their keeping to their receipt; `limit` of them, the oldest goes first and is counted."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.forgotten = 0
        """Frames that were dropped without a receipt since the store was full."""
        self._begin()

    def _begin(self) -> None:
        self._frames: dict[int, T] = {}  # in order of seq
        self._waiting: deque[int] = deque()  # never sent, in order
        self._due: set[int] = set()  # to be sent again
        self._line: deque[int] | None = (
            deque()
        )  # these in order, and some that are not due any more; None: to be made
        self._out: dict[int, bool] = {}  # sent and not receipted: whether the broker is known to have it
        self._listed: dict[
            int, int
        ] = {}  # was missing: the highest number that was out when it was sent again
        self._newest = self._sent = -1
        self._window = self._room = self._limit
        self._opened = False

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def paused(self) -> bool:
        """Whether the gateway asks to wait for its next receipt, as its `window` was used up by `keep` since the last."""
        return self._room <= 0

    @property
    def out(self) -> int:
        """Frames that were sent and have no receipt."""
        return len(self._out)

    # --- keeping ------------------------------------------------------------------------------------------------

    def keep(self, seq: int, frame: T) -> None:
        """Keep what is sent now."""
        if seq <= self._newest:
            self.clear()
        self._add(seq, frame)
        self._send(seq, posted=True)
        self._shrink()
        self._room -= 1

    def put(self, seq: int, frame: T, *, sent: bool = False) -> list[int]:
        """Keep what is to be sent; returns the numbers that had to go for it.

        Args:
            seq: above all that came before.
            sent: it may have been sent before, by an earlier run of the device.
        """
        self._add(seq, frame)
        if sent:
            self._repeat(seq)
        else:
            self._waiting.append(seq)
        return self._shrink()

    def clear(self) -> None:
        """Begin anew, with a new boot: what was kept had no receipt, and is counted as forgotten."""
        self.forgotten += len(self._frames)
        self._begin()

    def drop_oldest(self) -> int:
        """Forget the oldest frame without its receipt, and count that; returns its number."""
        seq = next(iter(self._frames))
        self._forget(seq)
        self.forgotten += 1
        return seq

    def release(self, seq: int) -> bool:
        """Forget a frame that cannot have a receipt; False where it is gone already."""
        known = seq in self._frames
        if known:
            self._forget(seq)
        return known

    # --- sending ------------------------------------------------------------------------------------------------

    def take(self) -> tuple[int, T] | None:
        """The next frame that may be sent, which is noted as out; None where there is none, or the window is used."""
        if len(self._out) >= (self._window if self._opened else 1):
            return None
        seq = self._next()
        if seq is None:
            return None
        self._send(seq)
        return seq, self._frames[seq]

    def posted(self, seq: int) -> None:
        """The broker has it: it is not on its way there any more."""
        if seq in self._out:
            self._out[seq] = True

    def reopen(self) -> None:
        """A new connection: what the broker had may be lost, so it is due again, one frame until a receipt comes.

        What the broker never acknowledged stays out: its sender sends that again itself.
        """
        for seq in [seq for seq, posted in self._out.items() if posted]:
            del self._out[seq]
            self._repeat(seq)
        self._opened = False

    def probe(self) -> tuple[int, T] | None:
        """A frame that is to be sent since no receipt came for long; None where one is on its way to the broker.

        It is the newest one that is out: where others before it were lost, the gateway will list them. Before the first
        receipt it is the oldest, which opens the count. In a pause with nothing out it is the next one, since what the
        device waits for may be lost as well.
        """
        posted = [seq for seq, posted in self._out.items() if posted]
        if posted:
            self._listed = dict.fromkeys(self._listed, -1)
            seq = max(posted) if self._opened else min(posted)
        elif self._out or (due := self._next()) is None:
            return None
        else:
            seq = due
        self._send(seq)
        return seq, self._frames[seq]

    # --- hearing ------------------------------------------------------------------------------------------------

    def hear(self, receipt: Receipt) -> list[int]:
        """Forget what is safe, and note what is missing as due again; returns the numbers of the former."""
        self._opened, self._window, self._room = True, receipt.window, receipt.window
        ranges = iter(sorted(receipt.missing))
        first, last = next(ranges, _NONE)
        safe: list[int] = []
        missing: list[int] = []
        for seq in self._frames:
            if seq > receipt.through:
                break
            while seq > last:
                first, last = next(ranges, _NONE)
            (missing if seq >= first else safe).append(seq)
        for seq in missing:
            self._miss(seq, receipt.through)
        done = [seq for seq in safe if self._is_covered(seq)]
        for seq in done:
            self._forget(seq)
        return done

    def receipt(self, receipt: Receipt) -> list[tuple[int, T]]:
        """Forget what is safe; returns what is to be sent again, in order, which is noted as sent."""
        self.hear(receipt)
        again = sorted(self._due)
        for seq in again:
            self._send(seq, posted=True)
        return [(seq, self._frames[seq]) for seq in again]

    def all(self) -> Sequence[tuple[int, T]]:
        """What is not receipted, in order: to be sent again over a new connection."""
        return list(self._frames.items())

    # --- inside -------------------------------------------------------------------------------------------------

    def _add(self, seq: int, frame: T) -> None:
        if seq <= self._newest:
            raise ValueError(f"expected a seq above {self._newest}, came {seq}")
        self._newest = seq
        self._frames[seq] = frame

    def _shrink(self) -> list[int]:
        return [self.drop_oldest() for _ in range(len(self._frames) - self._limit)]

    def _next(self) -> int | None:
        if self._line is None:
            self._line = deque(sorted(self._due))
        while self._line and self._line[0] not in self._due:
            self._line.popleft()
        if self._line:
            return self._line[0]
        return self._waiting[0] if self._waiting else None

    def _send(self, seq: int, *, posted: bool = False) -> None:
        self._due.discard(seq)
        if self._waiting and self._waiting[0] == seq:
            self._waiting.popleft()
        self._sent = max(self._sent, seq)
        if seq in self._listed:
            self._listed[seq] = self._sent
        self._out[seq] = posted

    def _repeat(self, seq: int) -> None:
        self._due.add(seq)
        self._line = None

    def _miss(self, seq: int, through: int) -> None:
        """A receipt lists it. On its way to the broker it is not lost, and never sent it is not missing."""
        if self._out.get(seq) and (seq not in self._listed or through > self._listed[seq]):
            self._listed[seq] = self._sent
            del self._out[seq]
            self._repeat(seq)
        elif seq in self._due:
            self._listed[seq] = self._sent

    def _is_covered(self, seq: int) -> bool:
        """Whether a receipt may speak of it: it was sent, and if it was listed, after that."""
        return seq in self._out or (seq in self._due and seq not in self._listed)

    def _forget(self, seq: int) -> None:
        del self._frames[seq]
        self._out.pop(seq, None)
        self._listed.pop(seq, None)
        self._due.discard(seq)
        if self._waiting and self._waiting[0] == seq:
            self._waiting.popleft()


_NONE = (1 << 62, 1 << 62)
