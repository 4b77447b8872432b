"""Which stream a topic belongs to: found once, then remembered. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from penstock_gateway.frames import Stream
from penstock_gateway.lanes import Lane
from penstock_gateway.ledger import Fate, Ledger
from penstock_gateway.topics import is_name, receipt_topic, result_topic

BAD_TOPIC: Fate = ("rejected", "topic")
QUOTA: Fate = ("rejected", "quota")


class Streams:
    """The known streams by topic. At most `limit`; a stream beyond is `rejected: quota`."""

    def __init__(self, lanes: Sequence[Lane], ledger: Ledger, root: str, site: str, limit: int) -> None:
        self._lanes = lanes
        self._ledger = ledger
        self._root = root
        self._site = site
        self._limit = limit
        self._by_topic: dict[str, Stream] = {}

    def __iter__(self) -> Iterator[Stream]:
        return iter(self._by_topic.values())

    def __len__(self) -> int:
        return len(self._by_topic)

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
        if len(self._by_topic) >= self._limit:
            return QUOTA
        topics = (
            result_topic(self._root, self._site, device, name),
            receipt_topic(self._root, self._site, device, name),
        )
        stream = Stream(device, name, lane, self._ledger.stream(f"{device}/{name}"), topics)
        lane.streams += 1
        self._by_topic[topic] = stream
        return stream
