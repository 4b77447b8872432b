"""What saturates first: which part had no room left when a load was too much. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import msgspec

from penstock_sim.run.records import Row

FULL = 0.85
"""A share of its cores from which a part counts as full: averages of seconds hide the full moments in them."""


class Limit(msgspec.Struct, frozen=True):
    """`part` is `generator`, `broker`, `gateway`, `machine` (of all of them), `model`, `deadline` or `none`; `why` says it in
    words."""

    part: str
    why: str


def first(rows: Sequence[Row], on_time: bool) -> Limit:
    """The limit in a probe that failed.

    Args:
        on_time: whether the generator kept its times; where it did not, it is a limit itself.
    """
    cores = next((row.gateway.cores for row in rows if row.gateway is not None), None)
    busy = {name: _cpu(rows, name) for name in ("generator", "broker", "gateway")}
    gateway, broker = busy["gateway"] or _remote_cpu(rows), busy["broker"]
    if gateway is not None and cores and gateway >= FULL * cores:
        return Limit("gateway", f"the gateway used {gateway:.2f} of its {cores} cores")
    if gateway is not None and cores and _all_of(busy, gateway) >= FULL * cores:
        parts = ", ".join(f"{name} {cpu:.2f}" for name, cpu in busy.items() if cpu is not None)
        return Limit("machine", f"all {cores} cores of this machine were busy: {parts}")
    if broker is not None and broker >= FULL:
        return Limit("broker", f"the broker's one thread was {broker:.0%} busy")
    if not on_time:
        return Limit("generator", "the generator was late, see lag_p99_ms: load from another machine")
    if waiting := _waiting(rows):
        return Limit("model", f"{waiting:.0f} frames waited for their model while processors had room")
    return Limit("deadline", "nothing was full: single frames took longer than the deadline")


def _all_of(busy: dict[str, float | None], gateway: float) -> float:
    """Cores in use where all stand on one machine; 0 where the gateway is elsewhere."""
    if busy["gateway"] is None:
        return 0.0
    return gateway + sum(cpu or 0.0 for name, cpu in busy.items() if name != "gateway")


def _cpu(rows: Sequence[Row], name: str) -> float | None:
    values = [row.processes[name].cpu for row in rows[1:] if name in row.processes]
    return median(values) if values else None


def _remote_cpu(rows: Sequence[Row]) -> float | None:
    values = [row.gateway.cpu for row in rows[1:] if row.gateway is not None and row.gateway.cpu is not None]
    return median(values) if values else None


def _waiting(rows: Sequence[Row]) -> float:
    values = [row.gateway.waiting for row in rows[1:] if row.gateway is not None]
    return median(values) if values else 0.0
