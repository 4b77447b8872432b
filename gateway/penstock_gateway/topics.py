"""Topics: the filters that routes are made of, and the names of our own topics (contracts 1).

Pure text rules after MQTT 4.7. A route's filter may name a level: `{device}` and `{stream}` are `+` to the broker and
give the frame its device and stream. Whether a name is acceptable is the caller's question (`is_name`), since a topic
that matches with a bad name is counted as `rejected: topic` and one that does not match is nobody's.
"""

from __future__ import annotations

import re

import msgspec

from penstock_models.errors import UsageError

MAX_TOPIC_BYTES = 65535
"""The longest topic or filter that MQTT can carry, in UTF-8 bytes."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PLACES = ("{device}", "{stream}")


def is_name(text: str) -> bool:
    """Say whether `text` may name a site, gateway, device or stream."""
    return _NAME.fullmatch(text) is not None


def is_topic(text: str) -> bool:
    """Say whether `text` may be published to: not empty, no wildcard, no NUL, not longer than MQTT allows."""
    if not text or any(c in text for c in "+#\0"):
        return False
    try:
        return len(text.encode()) <= MAX_TOPIC_BYTES
    except UnicodeEncodeError:  # a lone surrogate has no UTF-8 form
        return False


class TopicFilter(msgspec.Struct, frozen=True):
    """A parsed filter. `levels` are those of `subscription`; `device` and `stream` are level numbers, -1 without."""

    text: str
    subscription: str
    levels: tuple[str, ...]
    device: int = -1
    stream: int = -1

    @classmethod
    def parse(cls, text: str) -> TopicFilter:
        """Parse a route's topic.

        Raises:
            UsageError: saying which level is wrong and what is allowed there.
        """
        if not text or "\0" in text or len(text.encode(errors="replace")) > MAX_TOPIC_BYTES:
            raise UsageError(f"expected a topic filter of 1 to {MAX_TOPIC_BYTES} bytes, came {text[:80]!r}")
        if text.startswith("$share/"):
            raise UsageError(f"topic {text!r}: leave `$share/GROUP/` out and set `share` in [mqtt]")
        levels = text.split("/")
        for number, level in enumerate(levels):
            _check_level(text, level, last=number == len(levels) - 1)
        for place in _PLACES:
            if levels.count(place) > 1:
                raise UsageError(f"topic {text!r} names {place} twice: once is enough, write + for the other")
        device, stream = (levels.index(p) if p in levels else -1 for p in _PLACES)
        plain = tuple("+" if level in _PLACES else level for level in levels)
        return cls(text, "/".join(plain), plain, device, stream)

    def match(self, topic: str) -> tuple[str | None, str | None] | None:
        """Match a topic; None where it does not, else (device, stream) as the topic has them, None where unnamed.

        The names come unchecked: ask `is_name`.
        """
        parts = topic.split("/")
        if not _matches(self.levels, parts):
            return None
        return (
            parts[self.device] if self.device >= 0 else None,
            parts[self.stream] if self.stream >= 0 else None,
        )

    def overlaps(self, other: TopicFilter) -> bool:
        """Say whether one topic can match both filters."""
        mine, theirs = self.levels, other.levels
        if _is_hidden(mine[0]) != _is_hidden(theirs[0]):
            return False  # a leading wildcard never matches a $-topic
        for a, b in zip(mine, theirs):
            if a == "#" or b == "#":
                return True
            if a != b and a != "+" and b != "+":
                return False
        longer = mine if len(mine) > len(theirs) else theirs
        # `a/#` also matches `a`, its parent.
        return abs(len(mine) - len(theirs)) == 0 or _only_hash_left(longer, min(len(mine), len(theirs)))


def _is_hidden(level: str) -> bool:
    return level.startswith("$")


def _only_hash_left(levels: tuple[str, ...], start: int) -> bool:
    return levels[start:] == ("#",)


def _matches(levels: tuple[str, ...], parts: list[str]) -> bool:
    if parts[0].startswith("$") and levels[0] in ("+", "#"):
        return False
    for number, level in enumerate(levels):
        if level == "#":
            return True
        if number == len(parts) or (level != "+" and level != parts[number]):
            return False
    return len(levels) == len(parts)


def _check_level(text: str, level: str, last: bool) -> None:
    if level in _PLACES or level == "+":
        return
    if level == "#":
        if not last:
            raise UsageError(f"topic {text!r}: # is allowed as the last level only")
    elif "+" in level or "#" in level:
        raise UsageError(f"topic {text!r}: a wildcard stands for a whole level, not for a part of {level!r}")
    elif "{" in level or "}" in level:
        raise UsageError(
            f"topic {text!r}: expected {{device}} or {{stream}} as a whole level, came {level!r}; "
            "write + for a level that needs no name"
        )


def root_problem(root: str) -> str | None:
    """Say what is wrong with a root for our own topics, None where nothing is."""
    if not is_topic(root):
        return "must be a topic without wildcards"
    if root.startswith("$") or "" in root.split("/"):
        return "must not start with $ nor hold an empty level"
    return None


def device_topic(root: str, site: str, device: str, stream: str, kind: str) -> str:
    """Name a stream's topic; `kind` is `frame`, `data`, `result` or `receipt`."""
    return f"{root}/v1/{site}/dev/{device}/{stream}/{kind}"


def result_topic(root: str, site: str, device: str, stream: str) -> str:
    """Name the topic on which a stream's results go out."""
    return device_topic(root, site, device, stream, "result")


def receipt_topic(root: str, site: str, device: str, stream: str) -> str:
    """Name the retained topic that tells a device what it need not send again."""
    return device_topic(root, site, device, stream, "receipt")


def device_status_topic(root: str, site: str, device: str) -> str:
    """Name the retained topic on which a device says `online` or `offline`."""
    return f"{root}/v1/{site}/dev/{device}/status"


def gateway_topic(root: str, site: str, gateway: str, kind: str) -> str:
    """Name a topic of a gateway's own; `kind` is `status` or `stats`."""
    return f"{root}/v1/{site}/gw/{gateway}/{kind}"


def own_filters(root: str, site: str) -> tuple[TopicFilter, ...]:
    """What gateways of this site publish: no route may listen there, or a result would become a frame."""
    kinds = ("result", "receipt", "event", "snapshot")
    own = [f"{root}/v1/{site}/dev/+/+/{kind}" for kind in kinds]
    return tuple(TopicFilter.parse(text) for text in [*own, f"{root}/v1/{site}/gw/#"])
