"""The kit's side of the connection: sends what its streams have, hears receipts and results, says who is there.

Runs on the event loop of the kit's thread. Nothing here waits while it holds the condition of what is shared, except for
the disk.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import partial

import msgspec

from penstock_gateway.mqtt import Granted, LinkOptions, Message
from penstock_gateway.mqtt.link import MqttLink
from penstock_gateway.wire import Result
from penstock_models.errors import PenstockError
from penstock_sim.device.connect import status
from penstock_sim.device.kept import Kept
from penstock_sim.device.message import Frame, is_numbered, message
from penstock_sim.device.shared import Shared
from penstock_sim.device.stall import Stall
from penstock_sim.store import Receipt

AT_ONCE, AT_ONCE_BYTES = 256, 16 << 20
"""Kept frames on their way to the broker at one time, over all streams."""

_receipts = msgspec.json.Decoder(Receipt)
_results = msgspec.json.Decoder(Result)


class Session:
    """One device's connection. `prefix` is its topics up to the stream: `penstock/v1/SITE/dev/DEVICE`."""

    def __init__(self, shared: Shared, options: LinkOptions, prefix: str) -> None:
        self._shared = shared
        self._prefix = prefix
        self._link = MqttLink(options)
        self._protocol = options.protocol
        self._on_way = self._on_way_bytes = 0
        self._newest: dict[str, tuple[str, int]] = {}  # sent by this session, by stream
        self._stalls: dict[str, Stall] = {}
        self._ending: asyncio.Event | None = None

    async def run(self) -> None:
        """Connect, and serve until `end`."""
        self._ending = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            link = group.create_task(self._link.run(self._heard, self), name="link")
            await self._ending.wait()
            if self._shared.online:
                self._link.publish(status(self._prefix, "offline"))
                await self._link.flush(1.0)
            link.cancel()
        for stall in self._stalls.values():
            stall.stop()

    def end(self) -> None:
        """Say goodbye and let `run` return."""
        if self._ending is not None:
            self._ending.set()

    # --- the link's state -----------------------------------------------------------------------------------------

    def up(self, granted: Granted) -> None:
        shared = self._shared
        self._protocol = granted.protocol
        with shared.changed:
            shared.online, shared.trouble = True, _refusal(granted)
            shared.connections += 1
            for kept in shared.kept.values():
                kept.reopen()
            waiting = [stream for stream, kept in shared.kept.items() if len(kept)]
            shared.changed.notify_all()
        self._link.publish(status(self._prefix, "online"))
        for stream in waiting:
            self._stall(stream).start()
        self.pump()

    def down(self, reason: str) -> None:
        shared = self._shared
        with shared.changed:
            shared.online, shared.trouble = False, reason
            self._count_link()
            shared.changed.notify_all()
        for stall in self._stalls.values():
            stall.stop()

    # --- sending --------------------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Send what may be sent now."""
        if not self._shared.online:
            return
        with self._shared.changed:
            fresh = [frame for lane in self._shared.fresh.values() if (frame := lane.take(time.monotonic()))]
            kept = [frame for lane in list(self._shared.kept.values()) for frame in self._take(lane)]
        for frame in fresh:
            self._send_fresh(frame)
        for frame in kept:
            self._send_kept(frame)

    def _take(self, kept: Kept[Frame]) -> list[Frame]:
        taken = []
        while self._on_way < AT_ONCE and self._on_way_bytes < AT_ONCE_BYTES:
            frame = kept.take()
            if frame is None:
                break
            self._start(frame)
            taken.append(frame)
        return taken

    def _start(self, frame: Frame) -> None:
        self._on_way += 1
        self._on_way_bytes += frame.nbytes

    def _send_fresh(self, frame: Frame) -> None:
        shared = self._shared
        expiry_s = max(1, round(shared.fresh_s))
        publish = message(frame, self._topic(frame), 0, self._protocol, expiry_s)
        shared.sent += 1
        if not self._link.publish(publish, partial(self._written, frame.stream)):
            shared.unproven += 1
            asyncio.get_running_loop().call_soon(self._written, frame.stream)

    def _written(self, stream: str) -> None:
        with self._shared.changed:
            self._shared.fresh[stream].written()
            self._count_link()
            self._shared.changed.notify_all()
        self.pump()

    def _send_kept(self, frame: Frame) -> None:
        boot, newest = self._newest.get(frame.stream, ("", -1))
        if boot == frame.boot and frame.seq <= newest:
            self._shared.again += 1
        else:
            self._shared.sent += 1
            self._newest[frame.stream] = (frame.boot, frame.seq)
        publish = message(frame, self._topic(frame), 1, self._protocol)
        if not self._link.publish(publish, partial(self._posted, frame)):
            self._posted(frame)  # no receipt will come, so it is sent again
        self._stall(frame.stream).start()

    def _posted(self, frame: Frame) -> None:
        """The broker has it, or refused it: either is found out by the receipt."""
        self._on_way -= 1
        self._on_way_bytes -= frame.nbytes
        shared = self._shared
        with shared.changed:
            self._count_link()
            kept = shared.kept[frame.stream]
            if is_numbered(frame, self._protocol):
                kept.posted(frame)
            elif kept.release(frame):
                shared.unproven += 1
                self._remove([frame])
                shared.changed.notify_all()
        self.pump()

    def _stall(self, stream: str) -> Stall:
        if stream not in self._stalls:
            self._stalls[stream] = Stall(partial(self._probe, stream))
        return self._stalls[stream]

    def _probe(self, stream: str) -> None:
        """No receipt came for long: send one frame again, which makes the gateway say what it has."""
        shared = self._shared
        with shared.changed:
            kept = shared.kept[stream]
            frame = kept.probe() if shared.online else None
            if frame is not None:
                self._start(frame)
                what = self._topic(frame)
                shared.silence = f"no receipt for {what}: no gateway has an `every` route for it now"
                shared.changed.notify_all()
            waits = len(kept) > 0
        if frame is not None:
            self._send_kept(frame)
        elif waits:
            self._stall(stream).start()

    # --- hearing --------------------------------------------------------------------------------------------------

    def _heard(self, messages: Sequence[Message]) -> None:
        for heard in messages:
            stream, _, kind = heard.topic.removeprefix(f"{self._prefix}/").partition("/")
            try:
                if kind == "receipt":
                    self._receipt(stream, _receipts.decode(heard.payload))
                elif kind == "result":
                    self._shared.results.take(_results.decode(heard.payload))
            except msgspec.MsgspecError as error:
                self._shared.undecodable += 1
                self._shared.trouble = f"expected a {kind} of version 1 on {heard.topic}: {error}"
            if heard.ack:
                self._link.ack(heard.ack)

    def _receipt(self, stream: str, receipt: Receipt) -> None:
        shared = self._shared
        with shared.changed:
            kept = shared.kept.get(stream)
            safe = kept.hear(receipt) if kept is not None else []
            shared.receipted += len(safe)
            self._remove(safe)
            waits = kept is not None and len(kept) > 0
            if safe:
                shared.silence = ""
                shared.changed.notify_all()
        if kept is not None and (safe or not receipt.window):
            self._stall(stream).progress(waits, receipt.window)
        self.pump()

    def _remove(self, frames: Sequence[Frame]) -> None:
        disk = self._shared.disk
        if disk is None or not frames:
            return
        try:
            disk.remove(frames)
        except PenstockError as error:  # they are sent again after the next start, and known there
            self._shared.trouble = str(error)

    def _count_link(self) -> None:
        shared, refused = self._shared, self._link.refused
        shared.dropped = self._link.dropped
        if (total := refused.total()) > shared.refused:
            shared.refused = total
            shared.changed.notify_all()
            shared.trouble = f"the broker refused {self._link.refused_topic}: {', '.join(refused)}"

    def _topic(self, frame: Frame) -> str:
        return f"{self._prefix}/{frame.stream}/{frame.kind}"


def _refusal(granted: Granted) -> str:
    refused = ", ".join(granted.refused)
    return f"the broker refused the subscription to {refused}" if refused else ""
