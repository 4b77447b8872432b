"""What one stream keeps, boot by boot, and what it sends next. Pure.

A receipt speaks of the newest boot that the gateway saw. So what an earlier start of the device left is sent first, and
the next boot begins when nothing of it is left: a frame of an old boot that came later would never be receipted.
"""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

import msgspec

from penstock_sim.store import Receipt, Store


class Numbered(Protocol):
    """A frame with its number. `nbytes` is what it counts for in a limit."""

    @property
    def boot(self) -> str: ...

    @property
    def seq(self) -> int: ...

    @property
    def nbytes(self) -> int: ...


T = TypeVar("T", bound=Numbered)

_UNBOUNDED = 1 << 62


class Limits(msgspec.Struct, frozen=True):
    """How much one stream keeps, over all boots."""

    frames: int = 10_000
    nbytes: int = 64 << 20


class Kept(Generic[T]):
    """The frames of one stream until their receipts; where a limit is reached the oldest goes first and is counted."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._stores: dict[str, Store[T]] = {}  # by boot, from the oldest
        self._frames: dict[tuple[str, int], T] = {}
        self._nbytes = 0
        self.forgotten = 0
        """Frames that were dropped without a receipt since the limit was reached."""

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def out(self) -> int:
        """Frames that were sent and have no receipt."""
        return sum(store.out for store in self._stores.values())

    def has_room(self, nbytes: int) -> bool:
        """Whether a frame of that size fits beside the others."""
        return len(self._frames) < self._limits.frames and self._nbytes + nbytes <= self._limits.nbytes

    def add(self, frame: T, *, sent: bool = False) -> list[T]:
        """Keep a frame; returns those that had to go for it. `sent` as in `Store.put`."""
        gone: list[T] = []
        while self._frames and not self.has_room(frame.nbytes):
            gone.append(self._drop_oldest())
        store = self._stores.setdefault(frame.boot, Store(_UNBOUNDED))
        store.put(frame.seq, frame, sent=sent)
        self._frames[frame.boot, frame.seq] = frame
        self._nbytes += frame.nbytes
        return gone

    def take(self) -> T | None:
        """The next frame that may be sent now, noted as sent."""
        store = self._first()
        found = store.take() if store is not None else None
        return found[1] if found is not None else None

    def posted(self, frame: T) -> None:
        """The broker has it."""
        if (store := self._stores.get(frame.boot)) is not None:
            store.posted(frame.seq)

    def reopen(self) -> None:
        """A new connection: see `Store.reopen`."""
        for store in self._stores.values():
            store.reopen()

    def probe(self) -> T | None:
        """What is to be sent again when no receipt came for long: see `Store.probe`."""
        store = self._first()
        found = store.probe() if store is not None else None
        return found[1] if found is not None else None

    def hear(self, receipt: Receipt) -> list[T]:
        """Forget what is safe, and return it."""
        store = self._stores.get(receipt.boot)
        return [self._pop(receipt.boot, seq) for seq in store.hear(receipt)] if store is not None else []

    def release(self, frame: T) -> bool:
        """Forget a frame that no receipt can speak of, as its number cannot travel; False where it is gone."""
        store = self._stores.get(frame.boot)
        known = store is not None and store.release(frame.seq)
        if known:
            self._pop(frame.boot, frame.seq)
        return known

    def _first(self) -> Store[T] | None:
        """The oldest boot that has something left; those before it are done."""
        while self._stores:
            boot = next(iter(self._stores))
            if len(self._stores[boot]) or len(self._stores) == 1:
                return self._stores[boot]
            del self._stores[boot]
        return None

    def _drop_oldest(self) -> T:
        boot, seq = next(iter(self._frames))
        self._stores[boot].drop_oldest()
        self.forgotten += 1
        return self._pop(boot, seq)

    def _pop(self, boot: str, seq: int) -> T:
        frame = self._frames.pop((boot, seq))
        self._nbytes -= frame.nbytes
        return frame
