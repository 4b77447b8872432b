"""What goes wrong in the devices themselves: spoiled frames, reboots, another payload type in mid-stream."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import msgspec
import numpy as np

from penstock_models.errors import UsageError
from penstock_sim.load.fleet import Device, Fleet
from penstock_sim.load.spoiled import hostile, malformed
from penstock_sim.load.streams import Change
from penstock_sim.scenario.faults import (
    HOSTILE,
    AnyFault,
    HostilePayloads,
    Malformed,
    PayloadChange,
    Reboot,
)
from penstock_sim.scenario.tree import Stream
from penstock_sim.sources import Payload, Ring

Spoiling = Malformed | HostilePayloads


def change_of(faults: Sequence[AnyFault], mix: str, seed: str) -> Change | None:
    """What becomes of the payloads of a stream of that mix; None where nothing does."""
    mine = [f for f in faults if isinstance(f, Spoiling) and f.devices in ("", mix)]
    if not mine:
        return None
    dice = random.Random(seed)
    for kind in HOSTILE:  # what takes long to make is made before the run
        hostile(kind, Payload(b""), random.Random(0))

    def change(at_s: float, payload: Payload) -> Payload:
        for fault in mine:
            if fault.at_s <= at_s < fault.ends_s and dice.random() < fault.share:
                if isinstance(fault, Malformed):
                    return malformed(payload, dice)
                return hostile(dice.choice(fault.payloads), payload, dice)
        return payload

    return change


Others = Mapping[tuple[str, str], Ring]
"""What a stream sends after a change of its payload type, by (device, stream)."""


async def act(fleet: Fleet, faults: Sequence[AnyFault], begin_s: float, others: Others, run: str) -> None:
    """Do at their times, from the loop's time `begin_s`, what changes devices for good; returns when all is done."""
    starts = 0
    for fault in sorted(faults, key=lambda f: f.at_s):
        if not isinstance(fault, Reboot | PayloadChange):
            continue
        await asyncio.sleep(max(0.0, begin_s + fault.at_s - asyncio.get_running_loop().time()))
        starts += isinstance(fault, Reboot)
        for device in fleet.devices:
            if fault.devices not in ("", device.mix):
                continue
            if isinstance(fault, Reboot):
                fleet.reboot(device, f"{run}-{starts}")
            else:
                _change_type(device, others)


def _change_type(device: Device, others: Others) -> None:
    for stream in device.streams:
        stream.use(others[stream.stream.device, stream.stream.stream])


def other_rings(
    faults: Sequence[AnyFault],
    mix: str,
    stream: Stream,
    rings: Sequence[Ring],
    seeds: Sequence[int],
    folder: Path,
) -> list[Ring] | None:
    """What the streams of a mix send after a change of payload type, beside each of their rings; None without such a
    fault. A camera sends PNG instead of JPEG, a sensor the fault's encoding.

    Raises:
        UsageError: a source that has no other type.
    """
    fault = next((f for f in faults if isinstance(f, PayloadChange) and f.devices in ("", mix)), None)
    if fault is None:
        return None
    if rings[0].media_type == "image/jpeg":
        return [_as_png(ring) for ring in rings]
    if not hasattr(stream.source, "encoding"):
        raise UsageError(
            f"expected a source with another payload type for the stream {stream.name!r} of {mix!r}"
        )
    source = msgspec.structs.replace(stream.source, encoding=fault.encoding)
    return [source.open(seed, stream.rate_hz, folder) for seed in seeds]


def _as_png(ring: Ring) -> Ring:
    frames = [msgspec.structs.replace(frame, data=_png(frame.data), media_type=None) for frame in ring.frames]
    return Ring(ring.name, "image/png", ring.rate_hz, frames)


def _png(jpeg: bytes) -> bytes:
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise UsageError("expected a JPEG that OpenCV can read")
    return cv2.imencode(".png", image)[1].tobytes()
