"""Answers to inputs that a version has answered before: an exact hit, or none.

The key is a 128-bit hash of what the model is fed, after decoding and preprocessing, together with what else its answer
is made of (the picture's own size). The cache belongs to one loaded version, so that a swap never meets an answer of
another one. It is bounded in bytes; what was not asked for longest goes.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from hashlib import blake2b

import msgspec
import numpy as np

from penstock_models.feeding import Fed
from penstock_models.items import Answer

ENTRY_BYTES = 200
"""What an entry costs beside its answer."""


class AnswerCache:
    """The last answers of one version, which take `nbytes`. Thread-safe.

    Args:
        max_bytes: of the answers as they are sent; 0 keeps nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.nbytes = 0
        self._lock = threading.Lock()
        self._answers: OrderedDict[bytes, tuple[Answer, int]] = OrderedDict()

    def __bool__(self) -> bool:
        return self._max_bytes > 0

    def get(self, key: bytes, decode_ms: float) -> Answer | None:
        """The answer to an input that came before, marked `cached`."""
        with self._lock:
            found = self._answers.get(key)
            if found is None:
                return None
            self._answers.move_to_end(key)
        return msgspec.structs.replace(found[0], cached=True, decode_ms=decode_ms, infer_ms=0.0)

    def put(self, key: bytes, answer: Answer) -> None:
        """Keep an answer, unless it alone is larger than the cache."""
        nbytes = ENTRY_BYTES + len(msgspec.msgpack.encode(answer))
        if nbytes > self._max_bytes:
            return
        with self._lock:
            self._drop(key)
            self._answers[key] = answer, nbytes
            self.nbytes += nbytes
            while self.nbytes > self._max_bytes:
                self._drop(next(iter(self._answers)))

    def _drop(self, key: bytes) -> None:
        if (found := self._answers.pop(key, None)) is not None:
            self.nbytes -= found[1]


def fed_key(fed: Fed) -> bytes:
    """128 bits of all that an answer is made of."""
    found = blake2b(digest_size=16)
    found.update(f"{fed.source.rows} {fed.source.geometry} {fed.source.width} {fed.source.height}".encode())
    for name, rows in fed.rows.items():
        found.update(f"{name} {rows.dtype} {rows.shape}".encode())
        found.update(np.ascontiguousarray(rows).data)
    if fed.real is not None:  # what a reconstruction is compared with, before it was quantized
        found.update(np.ascontiguousarray(fed.real).data)
    return found.digest()
