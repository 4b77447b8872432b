"""Puts beside each second of the load what the machines did in it."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import psutil

from penstock_sim.run import wire
from penstock_sim.run.broker_sampler import BrokerSampler
from penstock_sim.run.records import Machine, Row
from penstock_sim.run.sampler import GatewaySampler, NetworkRate, NetworkSample, ProcessSample, ProcessSampler
from penstock_sim.site.gateway import Pages

Pids = Callable[[], Sequence[int | None]]
"""The processes that something consists of at this moment."""


class Sampling:
    """`processes` are those of this machine, by name; `gateway` with its children."""

    def __init__(self, processes: Mapping[str, Pids], pages: Pages | None, broker: BrokerSampler) -> None:
        self._processes = {
            name: (ProcessSampler(name == "gateway"), pids) for name, pids in processes.items()
        }
        self._gateway = GatewaySampler(pages) if pages is not None else None
        self._broker, self._generator = broker, NetworkRate()

    async def row(self, second: wire.Second) -> Row:
        now_s = time.monotonic()
        gateway = await self._gateway.sample(now_s) if self._gateway is not None else None
        network: dict[str, NetworkSample | None] = {
            "generator": self._generator.of(second.bytes_received, second.bytes_sent, now_s),
            "broker": self._broker.sample(now_s),
            "gateway": gateway.network if gateway is not None else None,
        }
        return Row(
            second=second.number,
            mixes=second.mixes,
            connected=second.connected,
            held=second.held,
            unsent=second.unsent,
            lag_p99_ms=second.lag_p99_ms,
            processes=self._usage(now_s),
            network={name: sample for name, sample in network.items() if sample is not None},
            gateway=gateway,
        )

    def _usage(self, now_s: float) -> dict[str, ProcessSample]:
        found = {name: sampler.sample(pids(), now_s) for name, (sampler, pids) in self._processes.items()}
        return {name: sample for name, sample in found.items() if sample is not None}


def machine() -> Machine:
    """This one."""
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    cores = len(os.sched_getaffinity(0))
    memory = psutil.virtual_memory().total / 1e9
    return Machine(processor, cores, round(memory, 1), platform.python_version(), version("penstock"))
