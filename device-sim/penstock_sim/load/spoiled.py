"""Frames as broken and hostile devices send them: cut off, noise, bombs, lies about their type. Pure, and small.

Nothing here needs more than some kilobytes to send; what some would cost an unguarded receiver is the point.
"""

from __future__ import annotations

import functools
import random
import struct
import zlib
from collections.abc import Sequence

import msgspec

from penstock_sim.scenario.faults import Hostile
from penstock_sim.sources import Payload

_NESTED = 5000
_SIDE = 60_000


def malformed(payload: Payload, dice: random.Random) -> Payload:
    """The frame cut off somewhere, or with a tenth of its bytes replaced by noise."""
    data, size = payload.data, len(payload.data) // 10
    if dice.random() < 0.5 or size < 2:
        return _with(payload, data[: dice.randrange(max(1, len(data)))])
    begin = dice.randrange(len(data) - size)
    noise = bytes([data[begin] ^ 0xFF]) + dice.randbytes(size - 1)  # its first byte is surely another one
    return _with(payload, data[:begin] + noise + data[begin + size :])


def hostile(kind: Hostile, payload: Payload, dice: random.Random) -> Payload:
    """One frame of this kind, in the place of `payload`."""
    match kind:
        case "huge_pixels":
            return Payload(png(_SIDE, _SIDE, b""), media_type="image/png")
        case "bomb":
            return Payload(_bomb(), media_type="image/png")
        case "truncated":
            return _with(payload, payload.data[: len(payload.data) // 2])
        case "empty":
            return _with(payload, b"")
        case "random":
            return _with(payload, dice.randbytes(max(1, len(payload.data))))
        case "wrong_type":
            return msgspec.structs.replace(payload, media_type="application/x-nothing", truth=None)
        case "deep_json":
            nested = b'{"v":1,"data":%b%b}' % (b"[" * _NESTED, b"]" * _NESTED)
            return Payload(nested, media_type="application/json", spoiled=True)
        case "not_finite":
            return _tensor([float("nan"), float("inf"), -float("inf"), 1e38])
        case "wrong_shape":
            return _tensor([1.0, 2.0, 3.0])


@functools.cache
def _bomb() -> bytes:
    """Some kilobytes that are 16 MB unpacked."""
    return png(4000, 4000, zlib.compress(bytes(4001 * 4000), 9))


def png(width: int, height: int, pixels: bytes) -> bytes:
    """A grey PNG of that size around a compressed stream, whole or not (ISO/IEC 15948, sections 5 and 11)."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, body) for name, body in chunks)


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _tensor(values: Sequence[float]) -> Payload:
    user = (("sh", str(len(values))), ("dt", "f32"))
    return Payload(struct.pack(f"<{len(values)}f", *values), user, media_type="application/x-tensor")


def _with(payload: Payload, data: bytes) -> Payload:
    return msgspec.structs.replace(payload, data=data, truth=None, spoiled=True)
