"""Which messages become frames that are run, and which are settled on arrival (contracts 1, 2, 4, 5).

Decides only: what is refused here was never decoded, journalled or queued. It fills in what the message says of
itself and remembers who the frame is.
"""

from __future__ import annotations

from collections.abc import Iterable

from penstock_gateway.config import LimitsConfig
from penstock_gateway.envelope import Header, Parsed, read_message
from penstock_gateway.formats import Profile
from penstock_gateway.frames import Frame, Lane, Stream
from penstock_gateway.identity import RecentDigests, StreamIdentity, Verdict, frame_digest
from penstock_gateway.mqtt import Message
from penstock_gateway.salvage import salvage
from penstock_gateway.timing import Timing, judge
from penstock_models.items import Item, Refusal
from penstock_models.scheduling.request import HISTORICAL_RANK, NO_DEADLINE

DUPLICATE = Refusal("duplicate", "duplicate")
MAX_AGE = Refusal("expired", "max_age")
ON_ARRIVAL = Refusal("expired", "on_arrival")

RECENT_DIGESTS = 4096
"""Frames without a number that are remembered for the broker's redelivery, for each lane as that has a connection of
its own; Mosquitto had 720 outstanding at most."""


class Admission:
    """Judges frames.

    Args:
        prefixes: where a Response Topic may begin; a frame that names another is answered on its result topic alone.
        identities: what the journal knows of each stream's boots, by "DEVICE/STREAM".
        digests: what the journal knows of frames without a number.
    """

    def __init__(
        self,
        limits: LimitsConfig,
        prefixes: tuple[str, ...],
        identities: dict[str, StreamIdentity],
        digests: Iterable[bytes],
    ) -> None:
        self._limits = limits
        self._prefixes = prefixes
        self._identities = identities
        self._restored = frozenset(digests)
        self._digests: dict[Lane, RecentDigests] = {}

    def judge(self, frame: Frame, message: Message) -> Refusal | None:
        """Fill in a frame from its message; why it goes no further, or None."""
        parsed = self._read(frame, message)
        if not self._is_new(frame, message):  # asked of bad frames too: their redelivery is no second frame
            return DUPLICATE
        if isinstance(parsed, Refusal):
            return parsed
        return self._time(frame, parsed.header, message.expiry_s)

    def carried(self, frame: Frame, message: Message) -> Refusal | None:
        """Fill in a frame that an earlier start accepted: it is historical, and known to be new."""
        parsed = self._read(frame, message)
        if isinstance(parsed, Refusal):
            return parsed
        frame.historical, frame.rank = True, HISTORICAL_RANK
        return None

    def number(self, stream: Stream) -> StreamIdentity:
        """The numbers of a stream: what the journal remembers, else none yet."""
        if stream.identity is None:
            identity = self._identities.get(stream.key)
            gap_s = stream.lane.route.gap_s
            if identity is None:
                identity = self._identities[stream.key] = StreamIdentity(stream.key, gap_s)
            identity.gap_s = gap_s
            stream.identity = identity
        return stream.identity

    def _read(self, frame: Frame, message: Message) -> Parsed | Refusal:
        frame.qos = message.qos
        if message.response_topic and message.response_topic.startswith(self._prefixes):
            frame.response_topic, frame.correlation = message.response_topic, message.correlation
        profile = frame.stream.lane.route.profile
        parsed = self._parse(message, profile)
        if isinstance(parsed, Parsed):
            header = parsed.header
            frame.item = Item(parsed.payload, frame.stream.key)
            frame.rank = 9 - header.pr
        else:
            kind = message.content_type or profile.content_type
            header = salvage(message.payload, kind, message.user)
        frame.seq, frame.boot, frame.ts = header.seq, header.boot, header.ts
        return parsed

    def _parse(self, message: Message, profile: Profile) -> Parsed | Refusal:
        if not message.payload:
            return Refusal("rejected", "empty")
        if len(message.payload) > self._limits.max_frame_bytes:
            return Refusal("rejected", "too_large", f"{len(message.payload)} bytes")
        return read_message(
            message.payload, content_type=message.content_type, user=message.user, route=profile
        )

    def _is_new(self, frame: Frame, message: Message) -> bool:
        stream = frame.stream
        if frame.boot is None or frame.seq is None:
            if stream.lane.route.mode == "latest":  # a clean session has no redelivery
                return True
            frame.digest = frame_digest(message.packet_id, message.topic, message.payload)
            return self._is_new_digest(stream.lane, frame.digest, message.dup)
        verdict, missing = self.number(stream).offer(frame.boot, frame.seq, frame.arrived)
        stream.counts.missing_upstream += missing
        return verdict is not Verdict.DUPLICATE

    def _is_new_digest(self, lane: Lane, digest: bytes, dup: bool) -> bool:
        if dup and digest in self._restored:
            return False
        if lane not in self._digests:
            self._digests[lane] = RecentDigests(RECENT_DIGESTS)
        return self._digests[lane].offer(digest, dup)

    def _time(self, frame: Frame, header: Header, expiry_s: int | None) -> Refusal | None:
        route = frame.stream.lane.route
        timing: Timing = judge(
            mode=route.mode,
            deadline_ms=route.deadline_ms,
            max_age_ms=route.max_age_ms,
            ts=header.ts,
            dl=header.dl,
            expiry_s=expiry_s,
            arrived=frame.arrived,
            arrived_ms=frame.arrived_ms,
        )
        frame.deadline, frame.ts_suspect = timing.deadline, timing.ts_suspect
        if timing.expired:
            return MAX_AGE
        if timing.historical:
            frame.historical, frame.rank, frame.deadline = True, HISTORICAL_RANK, NO_DEADLINE
        return ON_ARRIVAL if frame.deadline <= frame.arrived else None
