"""A device's frames as messages (contracts 1, 2): what a frame is on its way, and its form on the wire.

On MQTT 5 the number, the times and the form of a tensor are user properties. 3.1.1 has none: there a tensor goes in a
CBOR envelope, and a JSON or CBOR map takes the number in. An encoded image has no place for it.
"""

from __future__ import annotations

import cbor2
import msgspec
import numpy as np
from numpy.typing import ArrayLike

from penstock_gateway.formats import NUMPY_NAMES, sniff
from penstock_gateway.header import MAX_INT
from penstock_gateway.mqtt import Publish
from penstock_gateway.topics import is_name
from penstock_models.errors import UsageError
from penstock_sim.sources.encodings import ENVELOPES, stamp

TENSOR = "application/x-tensor"
KINDS = ("frame", "data")
_SHORT = {numpy: short for short, numpy in NUMPY_NAMES.items()}
_OVERHEAD = 256
"""Bytes that a frame is counted for beside its payload."""


class Tensor(msgspec.Struct, frozen=True):
    """An array as the wire has it: little-endian bytes, `sh` its shape, `dt` the short name of its dtype."""

    data: bytes
    sh: tuple[int, ...]
    dt: str


class Frame(msgspec.Struct, frozen=True):
    """A frame on its way. `ts` is epoch ms, `dl` a deadline in ms; `sh` and `dt` are a tensor's."""

    stream: str
    kind: str
    boot: str
    seq: int
    ts: int
    payload: bytes
    content_type: str = ""
    dl: int | None = None
    pr: int | None = None
    sh: tuple[int, ...] = ()
    dt: str = ""

    @property
    def nbytes(self) -> int:
        return len(self.payload) + _OVERHEAD


def tensor(array: ArrayLike) -> Tensor:
    """An array, or nested lists of numbers, as a tensor.

    Raises:
        UsageError: a dtype that the wire does not have.
    """
    made = np.asarray(array)
    if made.dtype.name not in _SHORT:
        raise UsageError(f"expected an array of one of {', '.join(_SHORT)}, came {made.dtype.name}")
    little = made.astype(made.dtype.newbyteorder("<"), copy=False)
    return Tensor(little.tobytes(), made.shape or (1,), _SHORT[made.dtype.name])


def check(frame: Frame) -> None:
    """Raise UsageError for what a gateway would refuse whatever it holds."""
    if not is_name(frame.stream):
        raise UsageError(f"expected a stream's name of 1 to 64 of A-Z a-z 0-9 _ -, came {frame.stream!r}")
    if frame.kind not in KINDS:
        raise UsageError(f"expected the kind {' or '.join(KINDS)}, came {frame.kind!r}")
    if not frame.payload:
        raise UsageError(f"expected a frame of at least one byte for the stream {frame.stream!r}, came none")
    for name, value, most in (
        ("ts", frame.ts, MAX_INT),
        ("deadline_ms", frame.dl, MAX_INT),
        ("priority", frame.pr, 9),
    ):
        if value is not None and not 0 <= value <= most:
            raise UsageError(f"expected {name} to be 0 to {most}, came {value}")


def image_type(payload: bytes) -> str:
    """The content type of an encoded image, "" for anything else: there the gateway's route decides."""
    found = sniff(payload)
    return found if found.startswith("image/") else ""


def is_numbered(frame: Frame, protocol: int) -> bool:
    """Whether the frame's number can travel with it, so that it can have a receipt. `protocol` is 4 or 5."""
    return protocol == 5 or bool(frame.dt) or _takes_stamp(frame)


def message(frame: Frame, topic: str, qos: int, protocol: int, expiry_s: int | None = None) -> Publish:
    """The message of a frame for a connection of that protocol."""
    if protocol == 5:
        return Publish(
            topic, frame.payload, qos, content_type=frame.content_type, expiry_s=expiry_s, user=_user(frame)
        )
    return Publish(topic, _enveloped(frame), qos)


def _user(frame: Frame) -> tuple[tuple[str, str], ...]:
    found: dict[str, object] = {"boot": frame.boot, "seq": frame.seq, "ts": frame.ts, **_options(frame)}
    if frame.dt:
        found |= {"sh": "x".join(map(str, frame.sh)), "dt": frame.dt}
    return tuple((key, str(value)) for key, value in found.items())


def _options(frame: Frame) -> dict[str, int]:
    return {key: value for key, value in (("dl", frame.dl), ("pr", frame.pr)) if value is not None}


def _enveloped(frame: Frame) -> bytes:
    if frame.dt:
        head = {"v": 1, "boot": frame.boot, "seq": frame.seq, "ts": frame.ts, **_options(frame)}
        return cbor2.dumps({**head, "sh": list(frame.sh), "dt": frame.dt, "data": frame.payload})
    if _takes_stamp(frame):
        return stamp(frame.content_type, frame.payload, frame.boot, frame.seq, frame.ts)
    return frame.payload


def _takes_stamp(frame: Frame) -> bool:
    """Whether it is an envelope that the device's own code made, with room for the number."""
    if frame.content_type not in ENVELOPES:
        return False
    if frame.content_type == "application/json":
        return frame.payload[:2] != b"{}" and frame.payload[:1] == b"{"
    return 0xA1 <= frame.payload[0] <= 0xA0 + 20
