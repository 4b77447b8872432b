"""A seeded simulation of the core: random messages, commits, outcomes, full outboxes, kills and starts.

Gateway, admission, queue, dispatcher and results are real; links, journal and executor are simulators. After every
step each ledger closes over frames that can be pointed at; at the end every message has exactly one fate.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from penstock_gateway.ledger import Counts, Fate
from penstock_models.items import Item, Outcome, Refusal
from tests.fakes.executor import ANSWER, turns
from tests.fakes.gateway_core import Core, Disk, FakeLink, core, route

DUPLICATE: Fate = ("duplicate", "duplicate")
CAM = "penstock/v1/home/dev/{device}/{stream}/frame"
ROUTES = (route(queue=6), route("latest", CAM, queue=4))
DROPPING = (route(queue=5, on_full="drop_oldest"), route("latest", CAM, queue=3))
STEPS = 150
STARTS = 3


class World:
    """What outlives the gateway: its disk, the broker's unacknowledged messages, and what was sent."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.disk = Disk()
        self.unacked: dict[int, dict[str, object]] = {}
        self.identity: dict[int, object] = {}  # handle → what makes a frame the same frame
        self.seqs: Counter[str] = Counter()
        self.handles = 0
        self.received = 0
        self.ledgers: list[Counts] = []

    def send_every(self, gw: Core) -> None:
        """A device sends a frame, or the same one again; some are broken, some without a number, some late."""
        if every_link(gw).paused:
            return
        rng, stream = self.rng, self.rng.choice(("a/vib", "b/vib", "c/vib"))
        self.handles += 1
        payload = rng.choice((b"[1]", b"[1]", b"[1]", b"{", b""))
        options: dict[str, object] = {"payload": payload}
        if rng.random() < 0.7:
            again = rng.random() < 0.2 and self.seqs[stream]
            seq = self.seqs[stream] - 1 if again else self.seqs[stream] + rng.choice((0, 0, 0, 2))
            self.seqs[stream] = max(self.seqs[stream], seq + 1)
            options |= {"boot": "b", "seq": seq}
            self.identity[self.handles] = (stream, seq)
        else:
            options["payload"] = (
                payload.rstrip(b"1]") + b"%d]" % self.handles
            )  # equal payloads would be one frame
            self.identity[self.handles] = self.handles
        if rng.random() < 0.1:
            options["dl"] = 1
        self.unacked[self.handles] = {"stream": stream, **options}
        self.deliver(gw, self.handles)

    def deliver(self, gw: Core, handle: int, dup: bool = False) -> None:
        message = dict(self.unacked[handle])
        self.received += 1
        gw.bring(str(message.pop("stream")), **message, ack=handle, dup=dup, link=every_link(gw))  # type: ignore[arg-type]

    def send_latest(self, gw: Core) -> None:
        self.received += 1
        stream = self.rng.choice(("x/cam", "y/cam"))
        payload = self.rng.choice((b"[1]", b"[1]", b"?"))
        gw.bring(stream, payload, kind="frame", link=gw.links["latest"], qos=self.rng.randrange(2))

    def note_acks(self, gw: Core) -> None:
        for handle in every_link(gw).acked:
            self.unacked.pop(handle, None)
        every_link(gw).acked.clear()

    def outcome(self, item: Item) -> Outcome:
        roll = self.rng.random()
        if roll < 0.1:
            raise RuntimeError("the executor broke")
        return ANSWER if roll < 0.8 else Refusal("failed", "model_error", "no")


def every_link(gw: Core) -> FakeLink:
    return next(link for name, link in gw.links.items() if name.startswith("every"))


async def step(world: World, gw: Core) -> None:
    roll = world.rng.random()
    if roll < 0.40:
        world.send_every(gw)
    elif roll < 0.55:
        world.send_latest(gw)
    elif roll < 0.70:
        gw.journal.commit()
    elif roll < 0.85:
        await gw.executor.finish(world.outcome, count=1)
    elif roll < 0.95:
        gw.results.deliver(world.rng.randrange(4))
    else:
        gw.results.room = world.rng.choice((1, 2, 4, 10_000))
    await gw.check()
    world.note_acks(gw)


async def drain(world: World, gw: Core) -> None:
    """Let everything end: the outbox has room, the disk writes, the executor answers."""
    gw.results.room = 10_000
    for _ in range(60):
        gw.journal.commit()
        await gw.executor.finish(world.outcome)
        gw.results.deliver()
        await turns()
        world.note_acks(gw)
    await gw.check()


@pytest.mark.parametrize("routes", [ROUTES, DROPPING], ids=["wait", "drop_oldest"])
async def test_every_frame_has_one_fate_over_kills_and_full_outboxes(
    tmp_path: Path, seed: int, routes: tuple[str, ...]
) -> None:
    world = World(random.Random(seed))
    for start in range(STARTS):
        last = start == STARTS - 1
        async with core(tmp_path, *routes, disk=world.disk, threads=2) as gw:
            world.received += len(world.disk.rows)
            began = world.received - len(world.disk.rows)
            for handle in list(world.unacked):
                world.deliver(gw, handle, dup=True)
            for _ in range(STEPS):
                await step(world, gw)
            if last:
                await drain(world, gw)
            assert gw.ledger.received == world.received - began
            gw.kill()
        world.ledgers.append(gw.ledger)
    check_the_end(world)


def check_the_end(world: World) -> None:
    assert world.unacked == {} and world.disk.rows == {}
    assert world.ledgers[-1].in_flight == 0
    fates: dict[object, list[Fate]] = {key: [] for key in world.identity.values()}
    for handle, fate in world.disk.settled:
        fates[world.identity[handle]].append(fate)
    for key, found in fates.items():
        settled = [fate for fate in found if fate != DUPLICATE]
        assert len(settled) == 1, f"{key}: {found}"
