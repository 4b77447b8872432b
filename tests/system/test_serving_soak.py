"""Versions come, go, fail and die while requests come in bursts and are cancelled: each request ends once, and the sums
close to the last one."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from penstock_models.resident import proportional_bytes
from penstock_models.serving.executor import VersionOptions
from penstock_models.versions.config import ModelConfig
from penstock_models.versions.policy import parse_policy
from tests.models.hosted import children
from tests.models.test_serving import Site, put, serving

pytestmark = [pytest.mark.system, pytest.mark.soak, pytest.mark.slow]

SHORT_S, LONG_S = 30.0, 600.0
STREAMS = 12


class Storm:
    """Everything that may happen to a serving core, one thing at a time, by a seed."""

    def __init__(self, site: Site, seed: int) -> None:
        self.site = site
        self.chance = random.Random(seed)
        self.sent = 0
        self.cancelled = 0
        self.done: Counter[str] = Counter()
        self.newest = 1
        self.own = children()

    def publish(self) -> None:
        self.newest += 1
        right = self.chance.random() < 0.7
        put(self.site.store, self.newest, float(self.newest), right=right)
        self.done["good" if right else "wrong golden"] += 1

    def publish_broken(self) -> None:
        self.newest += 1
        path = put(self.site.store, self.newest, 1.0)
        whole = path.read_bytes()
        path.write_bytes(whole[: self.chance.randrange(1, len(whole))])
        self.done["half a file"] += 1

    def withdraw(self) -> None:
        paths = sorted(self.site.store.iterdir())
        if len(paths) > 3:
            self.chance.choice(paths[:-2]).unlink()
            self.done["taken out of the store"] += 1

    def kill(self) -> None:
        if victims := sorted(children() - self.own):
            os.kill(self.chance.choice(victims), self.chance.choice([signal.SIGKILL, signal.SIGSEGV]))
            self.done["killed"] += 1

    def configure(self) -> None:
        policy = self.chance.choice(["latest:1", "latest:2", "latest:3"])
        transition: Any = self.chance.choice(["availability", "resource"])
        shadow = self.chance.choice(["", str(self.newest)])
        options = VersionOptions(isolation=self.chance.choice(["none", "process"]))
        config = ModelConfig("m", parse_policy(policy), transition, shadow=shadow)
        self.site.core.configure([(config, options)])
        self.done["configured"] += 1

    def burst(self) -> None:
        for _ in range(self.chance.randrange(100, 800)):
            self.send(self.chance.choice([0.005, 0.05, 1.0]))
        self.done["burst"] += 1

    def cancel(self) -> None:
        """Of what waits now, take some out, as a caller who went away does."""
        waiting = [r for flow in self.site.client.flows.values() for r in flow.waiting]
        for request in waiting[:: self.chance.randrange(1, 4)]:
            if self.site.core.scheduler.withdraw(request):
                self.cancelled += 1
                self.site.client.settled([request], ("dropped", "cancelled"))
        self.done["cancelled"] += bool(waiting)

    def send(self, within_s: float) -> None:
        self.sent += 1
        self.site.submit("m", f"s{self.chance.randrange(STREAMS)}", within_s)

    async def blow(self, seconds: float) -> None:
        acts: list[tuple[Callable[[], None], float]] = [
            (self.publish, 1.0), (self.publish_broken, 0.4), (self.withdraw, 0.5), (self.kill, 0.5),
            (self.configure, 0.4), (self.burst, 3.0), (self.cancel, 3.0),
        ]  # fmt: skip
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            act = self.chance.choices([act for act, _ in acts], [weight for _, weight in acts])[0]
            act()
            for _ in range(10):
                self.send(5.0)
                await asyncio.sleep(self.chance.uniform(0.0, 0.03))


@pytest.mark.timeout(LONG_S + 120)
async def test_every_request_ends_once_whatever_happens(
    tmp_path: Path, seed: int, soak: bool, record_property: Callable[[str, object], None]
) -> None:
    store = tmp_path / "store"
    store.mkdir()
    put(store, 1, 1.0)
    async with serving(tmp_path, ModelConfig("m")) as site:
        storm = Storm(site, seed)
        sizes = []
        for _ in range(10):
            await storm.blow((LONG_S if soak else SHORT_S) / 10)
            sizes.append(await asyncio.to_thread(proportional_bytes, os.getpid()))
        put(store, storm.newest + 1, 77.0)
        site.core.configure([(ModelConfig("m"), VersionOptions())])
        assert await site.core.scheduler.drain(20.0)
        await site.until(lambda: site.state(storm.newest + 1) == "available")
        assert await site.ask("m") == (
            storm.newest + 1,
            77.0,
        )  # after all that, the newest good version answers
        ended = site.client.ended
        record_property("ended", dict(ended))
        record_property("happened", dict(storm.done))
        record_property("memory_mb", [round(size / 1e6) for size in sizes])
        assert sum(ended.values()) == storm.sent + 1 and not site.client._waiting
        assert ended["dropped: cancelled"] == storm.cancelled
        assert ended["ok"] > 0.2 * storm.sent
        assert set(ended) <= {
            "ok", "expired: in_queue", "expired: predicted_late", "failed: not_ready", "failed: model_error",
            "failed: model_timeout", "dropped: cancelled", "rejected: quarantined",
        }  # fmt: skip
        assert sizes[-1] < 1.2 * sizes[2] + 20e6
