"""The messages that the gateway sends, as types (contracts 3, 4, 5, 8), and their encoding as JSON.

`v` is each message's tag, so it stands first, and a reader refuses a newer version by name. In a result a field that
says nothing is left out where only some frames have it (`detections`, `ts_suspect`, `correction_of` …) and is null
where every frame could (`seq`, `reason`, `answered_by`, `model`, `placement` …). Readers skip fields they do not know.
Nothing is decided here; who fills a message in knows its rules.
"""

from __future__ import annotations

from types import NoneType
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from penstock_gateway.ledger import BUCKETS, Counts
from penstock_models.items import Anomaly, Class, Detection, OutputTensor

MAX_STATS_STREAMS = 100
MAX_STATS_BYTES = 64_000
MAX_STARTS = 16
MAX_MISSING = 16

STATUSES = ("ok", "degraded", "unchanged", "expired", "rejected", "failed")
REASONS = sorted({reason for reasons in BUCKETS.values() for reason in reasons if reason})
ANSWERERS = ("edge", "cloud", "fallback", "cache")
OFFLOAD_REASONS = ("policy", "hard", "overflow", "audit", "infeasible", "budget", "breaker", "late", "error")


def _one_of(*words: str) -> Meta:
    """A closed list: stated in the schema, kept by who fills the message in."""
    return Meta(extra_json_schema={"enum": list(words)})


Milliseconds = Annotated[int, Meta(ge=0, description="epoch milliseconds")]


def _null() -> Any:
    """A field that is null until it is set, and is always written: unlike a plain default it is not left out."""
    return msgspec.field(default_factory=NoneType)


class ModelView(Struct, frozen=True):
    """Which model version gave an answer."""

    name: str
    version: int
    digest: str


class LatencyMs(Struct, frozen=True):
    """Where a frame's time went, in milliseconds; `total` is from arrival to the result."""

    queue: float = 0.0
    decode: float = 0.0
    infer: float = 0.0
    offload: float = 0.0
    total: float = 0.0


class Offload(Struct, frozen=True):
    """Where the frame was to be answered, and why there."""

    decision: Annotated[str, _one_of("edge", "cloud", "both")]
    reason: Annotated[str, _one_of(*OFFLOAD_REASONS)]
    score: float | None = None


class Result(Struct, kw_only=True, omit_defaults=True, tag_field="v", tag=1):
    """The answer to one frame, or why there is none. The one message that is filled in step by step."""

    id: str
    device: str
    stream: str
    seq: int | None
    boot: str | None
    ts: Annotated[int, Meta(description="epoch milliseconds, as the device said it")] | None
    arrived: Milliseconds
    status: Annotated[str, _one_of(*STATUSES)]
    reason: Annotated[str, _one_of(*REASONS)] | None
    answered_by: Annotated[str, _one_of(*ANSWERERS)] | None = _null()
    model: ModelView | None = _null()
    placement: str | None = _null()
    latency_ms: LatencyMs
    offload: Offload | None = _null()
    detections: tuple[Detection, ...] | None = None
    classes: tuple[Class, ...] | None = None
    anomaly: Anomaly | None = None
    outputs: dict[str, OutputTensor] | None = None
    ts_suspect: bool = False
    historical: bool = False
    correction_of: str | None = None


class Receipt(Struct, frozen=True, tag_field="v", tag=1):
    """What a device need not send again. `missing` are inclusive ranges of `seq`; `window` 0 means pause."""

    boot: str
    through: Annotated[int, Meta(ge=-1)]
    missing: Annotated[tuple[tuple[int, int], ...], Meta(max_length=MAX_MISSING)]
    window: Annotated[int, Meta(ge=0)]


class GatewayStatus(Struct, frozen=True, kw_only=True, tag_field="v", tag=1):
    """The retained status. `offline` is what the broker says when the gateway vanished."""

    state: Annotated[str, _one_of("online", "degraded", "stopped", "offline")]
    reasons: tuple[str, ...] = ()
    start: str
    since: Milliseconds


class LedgerView(Struct, frozen=True, kw_only=True):
    """The books: `received` is the sum of the eight buckets and `in_flight`.

    `reasons` splits the buckets; a plain `ok` has no reason, so it stands in `answered` alone.
    """

    received: int
    answered: int = 0
    unchanged: int = 0
    superseded: int = 0
    duplicate: int = 0
    expired: int = 0
    rejected: int = 0
    failed: int = 0
    dropped: int = 0
    in_flight: int
    reasons: dict[str, dict[str, int]] = {}
    missing_upstream: int = 0
    late: int = 0
    carried: int = 0

    @classmethod
    def of(cls, counts: Counts) -> LedgerView:
        """The view of some counts at this moment."""
        buckets: dict[str, int] = {}
        reasons: dict[str, dict[str, int]] = {}
        for (bucket, reason), n in counts.fates.items():
            buckets[bucket] = buckets.get(bucket, 0) + n
            if reason:
                reasons.setdefault(bucket, {})[reason] = n
        return cls(
            received=counts.received,
            in_flight=counts.received - sum(buckets.values()),
            reasons=reasons,
            missing_upstream=counts.missing_upstream,
            late=counts.late,
            carried=counts.carried,
            **buckets,
        )

    @property
    def settled(self) -> int:
        """How many frames have a fate."""
        return sum(getattr(self, bucket) for bucket in BUCKETS)


class Stats(Struct, frozen=True, kw_only=True, tag_field="v", tag=1):
    """The periodic totals; `streams` are those that changed most, the first ones most."""

    start: str
    uptime_s: float
    ledger: LedgerView
    streams: dict[str, LedgerView] = {}


class StartView(Struct, frozen=True, kw_only=True):
    """An ended start: `received` is the settled buckets, `carried_out` and `unknown`."""

    start: str
    began: Milliseconds
    ended: Milliseconds
    how: Annotated[str, _one_of("clean", "killed")]
    ledger: LedgerView
    carried_out: int = 0
    unknown: int = 0


class BuildStatus(Struct, frozen=True, kw_only=True):
    """The engine of a version on a device that builds one for minutes; another device answers meanwhile.

    `expected_s` is what the model's last build there took, null where none is known; `made_bytes` what engines in the making
    take on the disk by now. `reason` says why the last build failed, `retry_s` in how long it is tried again.
    """

    device: str
    phase: Annotated[str, _one_of("none", "building", "ready", "serving", "failed")]
    elapsed_s: float = 0.0
    expected_s: float | None = None
    made_bytes: int = 0
    retry_s: float = 0.0
    reason: str | None = None


class ModelStatus(Struct, frozen=True, kw_only=True):
    """A version of a model. `placement` is where it was proven to run, null where it is not loaded.

    `parked` versions are loaded when somebody asks for them. `reason` and `error` say why the last try to load it failed,
    `next_try` when it is tried again; `note` what else there is to know, such as that its file has changed.
    """

    name: str
    version: int
    digest: str
    state: Annotated[
        str, _one_of("new", "preparing", "loading", "available", "unloading", "parked", "failed")
    ]
    placement: str | None = None
    labels: tuple[str, ...] = ()
    since: int = 0
    load_ms: float = 0.0
    resident_bytes: int = 0
    reason: str | None = None
    error: str | None = None
    attempts: int = 0
    next_try: int | None = None
    note: str | None = None
    builds: tuple[BuildStatus, ...] = ()


class RouteStatus(Struct, frozen=True, kw_only=True):
    """A route and what waits on it; `paused` where its connection does not read, since it is full.

    `infeasible` says why its deadline cannot be met even by a frame alone, as of now.
    """

    index: int
    topic: str
    model: str
    mode: Annotated[str, _one_of("latest", "every")]
    waiting: int = 0
    waiting_bytes: int = 0
    paused: bool = False
    infeasible: str | None = None


class LinkStatus(Struct, frozen=True, kw_only=True):
    """A connection to the broker; `protocol` is 4 (3.1.1) or 5, null while it is down.

    `reason` says why it is down, or what the broker did not subscribe it to. `refused` counts, by reason code, messages
    that the broker did not take, `dropped` those that went with a connection or had none.
    """

    name: str
    connected: bool
    since: Milliseconds
    protocol: int | None = None
    overruns: int = 0
    refused: dict[str, int] = {}
    dropped: int = 0
    reason: str | None = None


class StatusPage(Struct, frozen=True, kw_only=True, tag_field="v", tag=1):
    """`/v1/status`."""

    start: str
    uptime_s: float
    state: Annotated[str, _one_of("online", "degraded", "stopped")]
    ledger: LedgerView
    starts: Annotated[tuple[StartView, ...], Meta(max_length=MAX_STARTS)] = ()
    streams: dict[str, LedgerView] = {}
    models: tuple[ModelStatus, ...] = ()
    problems: tuple[str, ...] = ()
    routes: tuple[RouteStatus, ...] = ()
    links: tuple[LinkStatus, ...] = ()


_encode = msgspec.json.Encoder().encode
_result = msgspec.json.Decoder(Result)
_receipt = msgspec.json.Decoder(Receipt)


def encode_result(result: Result) -> bytes:
    return _encode(result)


def encode_receipt(receipt: Receipt) -> bytes:
    return _encode(receipt)


def encode_status(status: GatewayStatus | StatusPage) -> bytes:
    return _encode(status)


def encode_stats(stats: Stats) -> bytes:
    """Encode within the bounds of contracts 1, as `bounded` does."""
    return _encode(bounded(stats))


def bounded(stats: Stats) -> Stats:
    """Bring stats within the bounds of contracts 1: the streams that changed least are left out until they fit."""
    streams = list(stats.streams.items())
    keep = min(len(streams), MAX_STATS_STREAMS)
    while True:
        fewer = msgspec.structs.replace(stats, streams=dict(streams[:keep]))
        size = len(_encode(fewer))
        if size <= MAX_STATS_BYTES or keep == 0:
            return fewer
        keep = keep * MAX_STATS_BYTES // (size + MAX_STATS_BYTES // 50)


def decode_result(payload: bytes) -> Result:
    """Read a result.

    Raises:
        msgspec.ValidationError: the message has a newer `v` or another shape; it names the field.
        msgspec.DecodeError: it is no JSON.
    """
    return _result.decode(payload)


def decode_receipt(payload: bytes) -> Receipt:
    """Read a receipt; raises as `decode_result` does."""
    return _receipt.decode(payload)
