"""What the doctor can find: the faults with their weight and their cure, and the book in which findings are counted.

A finding is one fault of one stream: the first occurrence is described, the others are counted. The book is bounded by
the number of faults times the number of streams that are watched.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from penstock_models.errors import one_line

Severity = Literal["error", "warning"]
MOST_TEXT = 160
"""Characters of what a device says that are repeated to people."""


class Fault(msgspec.Struct, frozen=True):
    """A kind of fault: what it leads to, as `error` (frames are lost or wrong) or `warning`, and what to do."""

    name: str
    severity: Severity
    cure: str


_ALL = (
    Fault("topic", "error", "publish to ROOT/v1/SITE/dev/DEVICE/STREAM/frame or /data; names are letters, digits, _ and -"),
    Fault("content_type", "error", "set the MQTT 5 Content Type to what the payload is, or content_type in the route"),
    Fault("size", "error", "send one whole item a message, within the gateway's limits, that fills its shape exactly"),
    Fault("clock_skew", "error", "set the clock (NTP) before sending; until then leave ts out"),
    Fault("clock_jump", "error", "slew the clock instead of stepping it while frames are sent"),
    Fault("seq_gap", "warning", "count seq per stream, one more a frame; send kept frames again until their receipt"),
    Fault("boot", "error", "send a boot id with every seq: new at each start, the same until the next"),
    Fault("payload_type", "error", "keep one payload type a stream; publish another type as a stream of its own"),
    Fault("backoff", "error", "wait longer after each failed connection, at random up to a bound that doubles"),
    Fault("receipt", "error", "subscribe to STREAM/receipt; send what it lists as missing, and pause while window is 0"),
    Fault("expiry", "warning", "set the MQTT 5 Message Expiry of frames to 1 … 5 s, so that no old picture arrives"),
    Fault("retained", "error", "publish frames without the retain flag, and clear the one that the broker keeps"),
    Fault("refused", "error", "send what the gateway can read; the reason is one of the ledger's `rejected` reasons"),
)  # fmt: skip
FAULTS = {fault.name: fault for fault in _ALL}
"""The twelve of the contract, and `refused`: whatever else the gateway does not take."""


class Trouble(msgspec.Struct, frozen=True):
    """What a rule says about what it saw, `count` times; `topic`, `seq` and `at` (monotonic s) point to an example."""

    fault: str
    expected: str
    came: str
    topic: str = ""
    seq: int | None = None
    count: int = 1
    at: float | None = None


class Example(msgspec.Struct, frozen=True):
    """Where a fault was first seen; `at_s` in seconds since the watch began."""

    topic: str
    seq: int | None
    at_s: float


class Finding(msgspec.Struct, frozen=True):
    """A fault of a stream ("" where it is the device's), as often as it was seen."""

    fault: str
    severity: Severity
    stream: str
    expected: str
    came: str
    count: int
    example: Example
    cure: str


class Findings:
    """The findings so far, by fault and stream."""

    def __init__(self, began: float) -> None:
        self._began = began
        self._found: dict[tuple[str, str], Finding] = {}

    def add(self, trouble: Trouble, stream: str, at: float) -> None:
        """Describe a first trouble, count another; `at` where the trouble has no time of its own."""
        key = (trouble.fault, stream)
        known = self._found.get(key)
        if known is not None:
            self._found[key] = msgspec.structs.replace(known, count=known.count + trouble.count)
            return
        fault = FAULTS[trouble.fault]
        when = at if trouble.at is None else trouble.at
        example = Example(one_line(trouble.topic, MOST_TEXT), trouble.seq, round(when - self._began, 3))
        self._found[key] = Finding(
            fault.name,
            fault.severity,
            one_line(stream, MOST_TEXT),
            one_line(trouble.expected, MOST_TEXT),
            one_line(trouble.came, MOST_TEXT),
            trouble.count,
            example,
            fault.cure,
        )

    def has(self, fault: str, stream: str) -> bool:
        return (fault, stream) in self._found

    def all(self) -> tuple[Finding, ...]:
        """Errors first, then in the order of the faults' table."""
        order = list(FAULTS)
        return tuple(sorted(self._found.values(), key=lambda f: (f.severity, order.index(f.fault), f.stream)))
