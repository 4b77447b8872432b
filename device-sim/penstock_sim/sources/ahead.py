"""Read an iterator ahead in a thread, a bounded number of items, so that its work hides behind the consumer's waits."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from typing import TypeVar

import msgspec

_Item = TypeVar("_Item")


class _End(msgspec.Struct, frozen=True):
    error: Exception | None = None


def read_ahead(items: Iterator[_Item], depth: int) -> Generator[_Item, None, None]:
    """Yield what `items` yields, in order, with up to `depth` items waiting ready.

    The thread starts with the first `next`, is the only one that touches `items`, and ends when the generator is
    closed or dropped. An exception of `items` is raised where its item would have come.
    """
    ready: queue.SimpleQueue[_Item | _End] = queue.SimpleQueue()
    room = threading.Semaphore(depth)
    closed = threading.Event()
    worker = threading.Thread(target=_fill, args=(items, ready, room, closed), name="read-ahead", daemon=True)
    worker.start()
    try:
        while not isinstance(item := ready.get(), _End):
            room.release()
            yield item
        if item.error is not None:
            raise item.error
    finally:
        closed.set()
        room.release()
        worker.join()


def _fill(
    items: Iterator[_Item],
    ready: queue.SimpleQueue[_Item | _End],
    room: threading.Semaphore,
    closed: threading.Event,
) -> None:
    end = _End()
    try:
        room.acquire()
        for item in items:
            ready.put(item)
            room.acquire()
            if closed.is_set():
                break
        if isinstance(items, Generator):
            items.close()
    except Exception as error:  # carried to the consumer, who owns it
        end = _End(error)
    ready.put(end)
