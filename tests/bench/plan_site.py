"""The scenarios of `plan`, the site that they run on, and what the servers spend meanwhile."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from tests.bench.report import busy_s
from tests.bench.site import unexplained
from tests.conftest import ROOT
from tests.fakes.broker import Broker
from tests.fakes.gateway import Gateway

THREADS = 2
WARM_S = 1.0
HEAD = """
site = "home"
gateway = "bench"
threads = {threads}
[mqtt]
url = "{url}"
[models]
path = "{store}"
"""
CAMERA = """
[[route]]
topic = "penstock/v1/home/dev/{{device}}/{stream}/frame"
stream = "{stream}"
model = "{model}"
deadline_ms = {deadline}
"""
SENSOR = """
[[route]]
topic = "penstock/v1/home/dev/{{device}}/{stream}/frame"
stream = "{stream}"
model = "{model}"
mode = "every"
deadline_ms = {deadline}
queue = 100000
content_type = "application/x-tensor"
dtype = "i8"
shape = [640]
"""
DEVICES = """
[[device]]
name = "{model}"
count = {count}
qos = {qos}
[[device.stream]]
name = "{model}"
source = {source}
rate_hz = {rate}
arrivals = "{arrivals}"
"""
PICTURES = '{ kind = "images", folder = "pictures", frames = 1 }'
WINDOWS = '{ kind = "bytes", size = 640, media_type = "" }'  # the route says what they are


class Mix(NamedTuple):
    """Devices of one model. `load` is the share of the machine that they ask for, what a frame costs beside its model counted
    in."""

    model: str
    devices: int
    load: float
    arrivals: str = "poisson"
    deadline_ms: int = 5000
    sensor: bool = False


class Case(NamedTuple):
    name: str
    mixes: tuple[Mix, ...]


# No more than 100 streams: each has a schedule of its own, and the publisher draws from all of them in one go. Random arrivals ask
# for no more than 0.6: a machine whose speed differs by what the rules allow moves p99 there by less than the aim, at 0.8 by
# half of it and more.
CASES = (
    Case("half", (Mix("mobilenet", 8, 0.5, "periodic"),)),
    Case("poisson", (Mix("person", 100, 0.6),)),
    Case("shared", (Mix("mobilenet", 50, 0.3), Mix("person", 50, 0.3))),
    Case("overload", (Mix("mobilenet", 100, 1.5, deadline_ms=150),)),
    Case("sensor", (Mix("anomaly", 100, 0.5, sensor=True),)),
)
SIZES = {"anomaly": (1, 2, 4, 8, 16, 32, 64)}
SENSOR_RATE = 6000.0
"""Windows a second that count as all that the machine can do: the broker, the journal and the devices bound it, not the
model."""


class Spent(NamedTuple):
    """Processor seconds of the gateway's event loop, and of all that is neither that nor inference: broker, journal. `foreign` is
    the share of the cores that processes had which have nothing to do with it. `within_ms` is what frames took in the gateway on
    average."""

    loop_s: float
    beside_s: float
    foreign: float
    within_ms: float


def load(broker: Broker, gateway: Gateway, scenario: Path, seed: int) -> tuple[dict[str, Any], Spent]:
    """Run the devices once, warm; what came back, and what the servers spent."""
    words = ["-m", "tests.bench.plan_load", broker.url, str(scenario), str(seed), str(WARM_S)]
    with subprocess.Popen([sys.executable, *words], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "warm\n"
        began, busy = time.monotonic(), busy_s()
        before, within = (_threads(gateway.pid), _threads(broker.pid)), _within(gateway)
        line = process.stdout.readline()
        after = _threads(gateway.pid), _threads(broker.pid)
        took, busy = time.monotonic() - began, busy_s() - busy
        assert process.wait(30) == 0
    gateway.wait_for(lambda: gateway.ledger()["in_flight"] == 0, "has frames in flight")
    found = json.loads(line)
    wrong = unexplained(found["fates"])
    assert not wrong, f"expected answers from {scenario}, came {wrong}"
    ours = {tid: seconds - before[0].get(tid, 0.0) for tid, seconds in after[0].items()}
    broker_s = sum(after[1].values()) - sum(before[1].values())
    foreign = (busy - sum(ours.values()) - broker_s - found["cpu_s"]) / took / (os.cpu_count() or 1)
    loop_s = ours.pop(gateway.pid)
    inference_s = sum(sorted(ours.values())[-THREADS:])
    seconds, frames = (after - before for before, after in zip(within, _within(gateway)))
    beside_s = sum(ours.values()) - inference_s + broker_s
    return found, Spent(loop_s, beside_s, foreign, seconds / frames * 1e3)


def _within(gateway: Gateway) -> tuple[float, float]:
    """Seconds that answered frames took in the gateway, and how many they were."""
    page = gateway.get("/metrics")[1].decode()
    seconds, frames = (
        sum(map(float, re.findall(rf"^penstock_total_seconds_{part}\S* (\S+)$", page, re.MULTILINE)))
        for part in ("sum", "count")
    )
    return seconds, frames


def _threads(pid: int) -> dict[int, float]:
    """Processor seconds of each thread of a process since it began."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        found[int(task.name)] = int((task / "schedstat").read_text().split()[0]) / 1e9
    return found
