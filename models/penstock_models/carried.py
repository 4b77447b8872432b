"""What stateful models carry from frame to frame: state tensors and context samples, per stream, bounded."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping

from penstock_models.runtimes.session import Array

MAX_STREAMS = 4096

Memory = Mapping[str, Array]


class Carried:
    """Memories of streams, least recently used first to go; a stream without one starts from zeros. Thread-safe."""

    def __init__(self, max_streams: int = MAX_STREAMS) -> None:
        self._max = max_streams
        self._lock = threading.Lock()
        self._memories: OrderedDict[str, Memory] = OrderedDict()

    def get(self, stream: str) -> Memory:
        with self._lock:
            memory = self._memories.get(stream)
            if memory is None:
                return {}
            self._memories.move_to_end(stream)
            return memory

    def commit(self, memories: Mapping[str, Memory]) -> None:
        """Keep the new memories of a batch that ended well."""
        with self._lock:
            for stream, memory in memories.items():
                self._memories[stream] = memory
                self._memories.move_to_end(stream)
            while len(self._memories) > self._max:
                self._memories.popitem(last=False)

    def forget(self, stream: str) -> None:
        with self._lock:
            self._memories.pop(stream, None)
