"""Rules about one frame's payload and its message: content type, size, what else is refused, type, expiry. Pure."""

from __future__ import annotations

from penstock_gateway.formats import CONTENT_TYPES
from penstock_sim.doctor.findings import Trouble
from penstock_sim.doctor.seen import Limits, Seen

_OF_SIZE = {"empty", "too_large", "pixels", "shape"}
_JSON = {"application/json", "application/senml+json"}
_CBOR = {"application/cbor", "application/senml+cbor"}


def payload_trouble(seen: Seen, limits: Limits) -> Trouble | None:
    """What is wrong with the payload of one frame, as the gateway judges it; None where nothing is."""
    reason = seen.refusal.reason if seen.refusal is not None else ""
    detail = seen.refusal.detail if seen.refusal is not None else ""
    if reason in _OF_SIZE:
        return seen.trouble("size", _wanted_size(reason, limits), detail)
    if reason == "content_type":
        return seen.trouble("content_type", f"one of {', '.join(sorted(CONTENT_TYPES))}", detail)
    if _lies(seen) and (reason or seen.declared.startswith("image/")):
        looks = seen.is_a or "no picture at all"
        return seen.trouble("content_type", f"{seen.declared}, as it says", f"bytes that are {looks}")
    if reason:
        return seen.trouble("refused", "a frame that the gateway can read", f"rejected: {reason}: {detail}")
    return None


def _wanted_size(reason: str, limits: Limits) -> str:
    match reason:
        case "pixels":
            return f"at most {limits.max_pixels} pixels"
        case "shape":
            return "as many bytes as shape and dtype need"
        case _:
            return f"1 to {limits.max_frame_bytes} bytes"


def _lies(seen: Seen) -> bool:
    """Whether the bytes are plainly of another type than is declared."""
    if not seen.declared or seen.is_a == seen.declared:
        return False
    if seen.declared.startswith("image/"):
        return True
    return bool(seen.is_a) and not any({seen.declared, seen.is_a} <= family for family in (_JSON, _CBOR))


class PayloadType:
    """The type of a stream's payload stays: media type, and dtype where the message says it. A new boot may change it."""

    def __init__(self) -> None:
        self._boot: str | None = None
        self._form = ""

    def observe(self, seen: Seen) -> list[Trouble]:
        if seen.refusal is not None:
            return []
        if not self._form or seen.header.boot != self._boot:
            self._boot, self._form = seen.header.boot, seen.form
            return []
        if seen.form == self._form:
            return []
        before, self._form = self._form, seen.form
        return [seen.trouble("payload_type", f"{before} as before, within one boot", seen.form)]


class Expiry:
    """Frames carry a Message Expiry, where the device speaks MQTT 5 and nobody keeps them (`every` routes do)."""

    def __init__(self) -> None:
        self._without = 0
        self._first: Seen | None = None

    def observe(self, seen: Seen) -> None:
        if seen.expiry_s is None:
            self._without += 1
            self._first = self._first or seen

    def close(self) -> list[Trouble]:
        """To be asked at the end, of a stream without receipts: only then it is known that none came."""
        if self._first is None:
            return []
        expected = "a Message Expiry on each frame of a camera"
        return [self._first.trouble("expiry", expected, "no Message Expiry", self._without)]
