"""What the device's own threads and the kit's share: streams, counts, and whether it is online."""

from __future__ import annotations

from threading import Condition

import msgspec

from penstock_sim.device.disk import Disk
from penstock_sim.device.fresh import Fresh
from penstock_sim.device.kept import Kept
from penstock_sim.device.message import Frame
from penstock_sim.device.results import Results


class Counters(msgspec.Struct, frozen=True):
    """What became of the frames so far. `sent` counts each once, `again` its further sendings.

    Of the kept ones `receipted` are safe, `waiting` wait for their receipt, `forgotten` had to go since the limit was
    reached, `unproven` could not be numbered (an image on MQTT 3.1.1). Of the others `stale` were too old or too many to
    be sent, `dropped` went with a connection. `refused` messages the broker did not take, `unread` results nobody read.
    """

    sent: int
    again: int
    receipted: int
    waiting: int
    forgotten: int
    unproven: int
    stale: int
    dropped: int
    refused: int
    unread: int
    undecodable: int
    connections: int


class Shared:
    """`changed` guards all of it."""

    def __init__(self, disk: Disk | None, fresh_s: float) -> None:
        self.changed = Condition()
        self.disk = disk
        self.fresh_s = fresh_s
        self.kept: dict[str, Kept[Frame]] = {}
        self.fresh: dict[str, Fresh[Frame]] = {}
        self.results = Results(self.changed)
        self.online = False
        self.trouble = "not connected yet"
        self.silence = ""
        """What has no receipt for long, as text; beside `trouble`, since the connection may be well."""
        self.connections = self.sent = self.again = self.receipted = self.unproven = self.undecodable = 0
        self.dropped = self.refused = 0

    def counters(self) -> Counters:
        """What became of the frames so far; the caller holds `changed`."""
        kept, fresh = self.kept.values(), self.fresh.values()
        return Counters(
            sent=self.sent,
            again=self.again,
            receipted=self.receipted,
            waiting=sum(map(len, kept)),
            forgotten=sum(one.forgotten for one in kept),
            unproven=self.unproven,
            stale=sum(one.stale for one in fresh),
            dropped=self.dropped,
            refused=self.refused,
            unread=self.results.unread,
            undecodable=self.undecodable,
            connections=self.connections,
        )

    def is_safe(self) -> bool:
        """Every kept frame has its receipt. Without a connection what is not kept is not waited for: it has `fresh_s`, and
        goes or not."""
        fresh = self.online and any(map(len, self.fresh.values()))
        return not fresh and not any(map(len, self.kept.values()))
