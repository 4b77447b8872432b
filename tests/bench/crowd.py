"""Groups of devices that send more than can be answered, in a process of their own: what became of each frame.

    python -m tests.bench.crowd PORT GROUPS

GROUPS is a JSON list of `Group`. Prints as JSON, for each group by its name, its frames as [due_s, told_s, status, total_ms,
queue_ms, behind_ms]: times of the monotonic clock, null where nothing was told; what the gateway says it took, and how much of that in
the queue; and how long after the deadline the result came here, by the gateway's stamp of the arrival. Beside them stand `start_s`, `late_p99_ms` of the
sending, and `cpu_s` of this process. Each group has a connection and a thread, which sends as that of `cameras` does.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from penstock_sim.load.packets import PublishTemplate
from tests.bench.cameras import LEAD_S, Due, boot, results, send
from tests.bench.traffic import poisson


class Group(msgspec.Struct, frozen=True):
    """`count` devices that send one picture, together `rate` frames a second, at moments of a Poisson process.

    `topic` is what stands in their topics before the device; `deadline_ms` is their route's.
    """

    name: str
    topic: str
    image: str
    count: int
    rate: float
    seconds: float
    deadline_ms: int
    priority: int = 5
    qos: int = 0
    seed: int = 0


Told = tuple[float, str, float, float, float]
"""The last five of what is printed of a frame."""


class Ledger:
    """What was told of the frames of each group, by their numbers."""

    def __init__(self, groups: list[Group]) -> None:
        self.told: dict[str, dict[int, Told]] = {group.name: {} for group in groups}
        self._deadlines = {group.name: group.deadline_ms for group in groups}

    def take(self, result: dict[str, Any]) -> None:
        now, now_ms = time.monotonic(), time.time() * 1e3
        name = result["device"].partition("-")[0]
        behind = now_ms - result["arrived"] - self._deadlines[name]
        took = result["latency_ms"]
        self.told[name][result["seq"]] = (now, result["status"], took["total"], took["queue"], behind)


def planned(group: Group, start: float) -> list[Due]:
    """The group's frames, its devices in turns."""
    start_id = boot()
    templates = [
        PublishTemplate(f"{group.topic}/{group.name}-{n}/cam/frame", group.qos, 5, "", start_id)
        for n in range(group.count)
    ]
    user = (("pr", str(group.priority)),)
    moments = poisson([group.rate], group.seconds, group.seed)
    return [(start + moment, templates[n % group.count], user) for n, (moment, _) in enumerate(moments)]


async def main() -> None:
    port, groups = int(sys.argv[1]), msgspec.json.decode(sys.argv[2], type=list[Group])
    ledger, cpu = Ledger(groups), time.process_time()
    async with results(port, ledger.take):
        start = time.monotonic() + LEAD_S
        due = {group.name: planned(group, start) for group in groups}
        sending = [
            asyncio.to_thread(send, port, f"bench-{group.name}", Path(group.image), due[group.name])
            for group in groups
        ]
        late_ms = await asyncio.gather(*sending)
    frames = {
        name: [
            [moment, *ledger.told[name].get(seq, (None, "", 0.0, 0.0, 0.0))]
            for seq, (moment, _, _) in enumerate(sent)
        ]
        for name, sent in due.items()
    }
    late_p99_ms = float(np.percentile([value for group in late_ms for value in group], 99))
    found = {
        "frames": frames,
        "start_s": start,
        "late_p99_ms": late_p99_ms,
        "cpu_s": time.process_time() - cpu,
    }
    print(msgspec.json.encode(found).decode())


if __name__ == "__main__":
    asyncio.run(main())
