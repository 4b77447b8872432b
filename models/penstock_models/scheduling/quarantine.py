"""Payloads that brought a version down: the same again is refused before it runs. Pure: time comes in as an argument.

Guilty is what failed in the runtime, alone or after its batch was taken apart, while the version answered others: a
version that fails whatever it is given is broken itself, and nothing is quarantined for that. Remembered is a 128-bit
hash of the payload per version, the last `MOST` of them for `HELD_S`: a gateway that was mended serves them again.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b

from penstock_models.items import EncodedImage, Item, JsonValues, Named, Payload, SenML, Tensor

QUARANTINED: tuple[str, str] = ("rejected", "quarantined")

MOST = 1000
HELD_S = 600.0
GUILTY = frozenset(("model_error", "model_timeout"))
PROVEN = 3
"""Answers of a version since its last failure that show that it works."""


class Quarantine:
    """What was guilty of late."""

    def __init__(self) -> None:
        self._until: dict[bytes, float] = {}
        self._once: dict[bytes, None] = {}

    def __len__(self) -> int:
        return len(self._until)

    def holds(self, digest: str, item: Item, now: float) -> bool:
        """Whether this item brought that version down."""
        self._forget(now)
        return bool(self._until) and fingerprint(digest, item) in self._until

    def add(self, digest: str, item: Item, now: float, sure: bool) -> None:
        """Remember a guilty item; the oldest one is forgotten for it where there are too many.

        Args:
            sure: it failed by its own fault. Else it failed once, perhaps because the machine stood still, and is
                remembered only when that comes again.
        """
        key = fingerprint(digest, item)
        if not sure and key not in self._once:
            self._once[key] = None
            if len(self._once) > MOST:
                del self._once[next(iter(self._once))]
            return
        self._until.pop(key, None)
        self._until[key] = now + HELD_S
        self._forget(now)

    def _forget(self, now: float) -> None:
        """Drop what was held long enough, and the oldest beyond `MOST`: while nothing is held no payload is hashed."""
        while self._until and (len(self._until) > MOST or next(iter(self._until.values())) <= now):
            del self._until[next(iter(self._until))]


def fingerprint(digest: str, item: Item) -> bytes:
    """128 bits of a version and of what an item brings for it."""
    found = blake2b(digest.encode(), digest_size=16)
    for part in _parts(item.payload):
        found.update(len(part).to_bytes(8, "little"))
        found.update(part)
    return found.digest()


def _parts(payload: Payload) -> Iterator[bytes | memoryview]:
    """What tells two payloads apart."""
    match payload:
        case EncodedImage():
            yield payload.data
        case SenML():
            yield payload.data
        case Tensor():
            yield f"{payload.dtype} {payload.shape}".encode()
            yield payload.data
        case JsonValues():
            yield f"json {payload.dtype} {payload.shape}".encode()
            yield payload.text
        case Named():
            for name, value in payload.values.items():
                yield name.encode()
                yield from _parts(value)
