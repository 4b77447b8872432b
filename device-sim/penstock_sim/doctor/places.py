"""Where a topic belongs: to a stream of the device, to the gateway's answers, to nobody, or nowhere. Pure.

Owns the grammar of contracts 1 for one device, and what else is subscribed to, to hear what misses it: every topic that
has the device's name as one of its first levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from penstock_gateway.topics import TopicFilter, is_name, is_topic, own_filters, root_problem
from penstock_models.errors import UsageError

Kind = Literal["frame", "data", "own", "status", "result", "receipt", "other"]
_GATEWAYS = {"result": "result", "receipt": "receipt", "event": "other", "snapshot": "other"}
_DEPTH = 7
"""Levels among which the device's name is looked for."""
_NAMES = "names of 1 to 64 letters, digits, _ and -"


class Place(msgspec.Struct, frozen=True):
    """A topic that is as it should be. `stream` is "" where it is the device's own."""

    kind: Kind
    stream: str = ""


class Astray(msgspec.Struct, frozen=True):
    """A topic that no gateway takes. With `site` it is a good one of another site, which may have a device of this name."""

    expected: str
    came: str
    site: str = ""


class Places:
    """The topics of one device.

    Args:
        filters: further topics of this device, as a route has them (`cameras/{device}/jpeg`).

    Raises:
        UsageError: the device's name cannot stand in a topic, a filter is none, or it overlaps what gateways publish.
    """

    def __init__(self, device: str, site: str, root: str, filters: Sequence[str] = ()) -> None:
        if not is_topic(device) or "/" in device:
            raise UsageError(f"expected the name of a device, one level of a topic, came {device!r}")
        if not is_name(site):
            raise UsageError(f"expected a site of {_NAMES}, came {site!r}")
        if problem := root_problem(root):
            raise UsageError(f"root {root!r} {problem}")
        self._device, self._root = device, root.split("/")
        self._own = [_own_filter(text, root, site) for text in filters]
        self._prefix = [*self._root, "v1", site, "dev", device]

    @property
    def wanted(self) -> list[str]:
        """The filters without which nothing can be said. They do not overlap: Mosquitto would send a frame twice."""
        mine = [self._mine(f) for f in self._own]
        own = ["/".join(levels) for levels in mine if levels[: len(self._prefix)] != self._prefix]
        return list(dict.fromkeys(["/".join([*self._prefix, "#"]), *own]))

    @property
    def strays(self) -> list[str]:
        """Filters that hear what misses the grammar, and what does not, so they are for a connection of their own; none
        where the device is called as a level of every topic."""
        if self._device in self._prefix[:-1]:
            return []
        return ["+/" * depth + self._device + "/#" for depth in range(_DEPTH)]

    def is_wanted(self, topic: str) -> bool:
        """Whether it comes by the filters of `wanted`, as far as `find` judges it."""
        inside = topic.split("/")[: len(self._prefix)] == self._prefix
        return inside or any(own.match(topic) is not None for own in self._own)

    def find(self, topic: str) -> Place | Astray | None:
        """Judge a topic; None where it is none of Penstock's, or another device's."""
        levels = topic.split("/")
        for own in self._own:
            names = own.match(topic)
            if names is not None:
                return self._named(topic, *names)
        if levels[: len(self._prefix)] == self._prefix:
            return self._inside(topic, levels[len(self._prefix) :])
        return self._stray(topic, levels)

    def _mine(self, own: TopicFilter) -> list[str]:
        """The levels of a filter, with this device's name where it names one."""
        return [self._device if n == own.device else level for n, level in enumerate(own.levels)]

    def _named(self, topic: str, device: str | None, stream: str | None) -> Place | Astray | None:
        if device is not None and device != self._device:
            return None
        for name in (device, stream):
            if name is not None and not is_name(name):
                return Astray(_NAMES, f"{name!r}")
        return Place("own", topic if stream is None else stream)

    def _inside(self, topic: str, rest: list[str]) -> Place | Astray:
        match rest:
            case ["status"]:
                return Place("status") if is_name(self._device) else Astray(_NAMES, repr(self._device))
            case [stream, kind] if kind in _GATEWAYS or kind in ("frame", "data"):
                for name in (self._device, stream):
                    if not is_name(name):
                        return Astray(_NAMES, repr(name))
                return Place(_kind(kind), stream)
        return Astray(f"{'/'.join(self._prefix)}/STREAM/frame or /data", topic)

    def _stray(self, topic: str, levels: list[str]) -> Astray | None:
        if self._device not in levels or self._root[0].lower() not in (level.lower() for level in levels):
            return None
        at, depth = levels.index(self._device), len(self._root)
        if (
            levels[: depth + 1] == [*self._root, "v1"]
            and at != depth + 3
            and levels[depth + 2] in ("dev", "gw")
        ):
            return None  # another device's stream of that name, or a gateway's topic
        before, tail = levels[:at], levels[at + 1 :]
        if before[-1:] == ["gw"]:
            return None
        expected = f"{'/'.join(self._prefix)}/STREAM/frame or /data"
        site = before[-2] if len(before) >= 2 else ""
        grammar = [*self._root, "v1", site, "dev"]
        good = before[-len(grammar) :] == grammar and len(tail) in (1, 2) and levels[0] != ""
        return Astray(expected, topic, "/".join([*before[: -len(grammar)], site]) if good else "")


def _kind(kind: str) -> Kind:
    match kind:
        case "frame" | "data" | "result" | "receipt":
            return kind
    return "other"


def _own_filter(text: str, root: str, site: str) -> TopicFilter:
    found = TopicFilter.parse(text)
    for other in own_filters(root, site):
        if found.overlaps(other):
            raise UsageError(
                f"--filter {text!r} overlaps {other.subscription}, where gateways publish: name the device's topics only"
            )
    return found
