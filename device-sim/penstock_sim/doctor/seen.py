"""One message of a stream as the rules see it: read exactly as the gateway's admission reads it. Pure.

Sizes and picture headers are judged here too, in the gateway's order; pictures are not decoded, numbers not converted.
"""

from __future__ import annotations

import zlib

import msgspec

from penstock_gateway.envelope import Header, Parsed, read_message
from penstock_gateway.formats import Profile, bare_type, sniff
from penstock_gateway.mqtt import Message
from penstock_gateway.salvage import salvage
from penstock_models.images import MAX_PIXELS, checked_header
from penstock_models.items import EncodedImage, JsonValues, Payload, Refusal, Tensor
from penstock_models.rejection import Rejection
from penstock_sim.doctor.findings import Trouble


class Limits(msgspec.Struct, frozen=True):
    """What the gateway would take: its `[limits]`, and what its route says of payloads that do not say it."""

    max_frame_bytes: int = 8 << 20
    max_pixels: int = MAX_PIXELS
    profile: Profile = Profile()


class Seen(msgspec.Struct, frozen=True):
    """A frame that came `at` (monotonic s, `wall_ms` epoch ms).

    `declared` is its Content Type, `is_a` what its bytes look like ("" where they tell nothing), `form` its media type
    with the dtype of its values; `digest` tells its payload from another. `refusal` is what the gateway would say.
    """

    topic: str
    at: float
    wall_ms: int
    header: Header
    size: int
    declared: str
    is_a: str
    form: str
    digest: int
    expiry_s: int | None
    properties: bool
    """Whether it carries a property that only MQTT 5 has."""
    refusal: Refusal | None = None

    def trouble(self, fault: str, expected: str, came: str, count: int = 1) -> Trouble:
        """A trouble whose example this frame is."""
        return Trouble(fault, expected, came, self.topic, self.header.seq, count, self.at)


def look(message: Message, at: float, wall_ms: int, limits: Limits) -> Seen:
    """Read a message."""
    found = _read(message, limits)
    declared = bare_type(message.content_type)
    is_a = sniff(message.payload)
    kind = declared or bare_type(limits.profile.content_type) or is_a
    if isinstance(found, Parsed):
        header, form, refusal = found.header, _form(found.payload, kind), None
    else:
        header, form, refusal = salvage(message.payload, kind, message.user), kind, found
    return Seen(
        topic=message.topic,
        at=at,
        wall_ms=wall_ms,
        header=header,
        size=len(message.payload),
        declared=declared,
        is_a=is_a,
        form=form,
        digest=zlib.crc32(message.payload),
        expiry_s=message.expiry_s,
        properties=bool(
            message.content_type or message.user or message.response_topic or message.expiry_s is not None
        ),
        refusal=refusal,
    )


def _read(message: Message, limits: Limits) -> Parsed | Refusal:
    size = len(message.payload)
    if not size:
        return Refusal("rejected", "empty", "0 bytes")
    if size > limits.max_frame_bytes:
        return Refusal("rejected", "too_large", f"{size} bytes")
    parsed = read_message(
        message.payload, content_type=message.content_type, user=message.user, route=limits.profile
    )
    if isinstance(parsed, Parsed) and isinstance(parsed.payload, EncodedImage):
        try:
            checked_header(message.payload, limits.max_pixels)
        except Rejection as rejection:
            return rejection.refusal()
    return parsed


def _form(payload: Payload, kind: str) -> str:
    dtype = payload.dtype if isinstance(payload, Tensor | JsonValues) else ""
    return f"{kind} of {dtype}" if dtype else kind
