"""Which stream a topic belongs to: found once, then remembered. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from penstock_gateway.frames import Lane, Stream
from penstock_gateway.ledger import Counts, Fate, Ledger
from penstock_gateway.topics import is_name, receipt_topic, result_topic

BAD_TOPIC: Fate = ("rejected", "topic")

TOPICS = 10_000
"""Topics that are remembered; one beyond is matched against the routes again."""


class Streams:
    """The known streams, at most `limit`; a stream beyond is a stranger.

    A stranger is not remembered, and is counted in the total only. Several topics may make one stream, where a route
    names it: of them `TOPICS` are remembered.
    """

    def __init__(self, lanes: Sequence[Lane], ledger: Ledger, root: str, site: str, limit: int) -> None:
        self._lanes = lanes
        self._ledger = ledger
        self._root = root
        self._site = site
        self._limit = limit
        self._by_topic: dict[str, Stream] = {}
        self._by_name: dict[tuple[str, Lane], Stream] = {}

    def __iter__(self) -> Iterator[Stream]:
        return iter(self._by_name.values())

    def find(self, topic: str) -> Stream | Fate | None:
        """The stream of a topic; the fate of a frame on a topic that makes none; None where no route takes it."""
        stream = self._by_topic.get(topic)
        if stream is not None:
            return stream
        for lane in self._lanes:
            names = lane.route.filter.match(topic)
            if names is not None:
                return self._admit(topic, lane, *names)
        return None

    def _admit(self, topic: str, lane: Lane, device: str | None, name: str | None) -> Stream | Fate:
        device = lane.route.default_device if device is None else device
        name = lane.route.default_stream if name is None else name
        if not is_name(device) or not is_name(name):
            return BAD_TOPIC
        if (f"{device}/{name}", lane) not in self._by_name and len(self._by_name) >= self._limit:
            return self._make(device, name, lane, self._ledger.unattributed)
        stream = self._named(device, name, lane)
        lane.streams.add(stream)
        if len(self._by_topic) >= TOPICS:
            del self._by_topic[next(iter(self._by_topic))]
        self._by_topic[topic] = stream
        return stream

    def is_stranger(self, stream: Stream) -> bool:
        return stream.counts is self._ledger.unattributed

    def recall(self, key: str) -> Stream | None:
        """The stream "DEVICE/STREAM" of an earlier start; None where no `every` route can have brought it.

        Of several any will do: who the frames are and where receipts go is the stream's, not the route's.
        """
        device, _, name = key.partition("/")
        lanes = [lane for lane in self._lanes if lane.route.mode == "every" and lane.may_name(device, name)]
        return self._named(device, name, lanes[0]) if lanes else None

    def _named(self, device: str, name: str, lane: Lane) -> Stream:
        stream = self._by_name.get((f"{device}/{name}", lane))
        if stream is None:
            stream = self._make(device, name, lane, self._ledger.stream(f"{device}/{name}"))
            self._by_name[stream.key, lane] = stream
        return stream

    def _make(self, device: str, name: str, lane: Lane, counts: Counts) -> Stream:
        topics = (
            result_topic(self._root, self._site, device, name),
            receipt_topic(self._root, self._site, device, name),
        )
        return Stream(device, name, lane, counts, topics)
