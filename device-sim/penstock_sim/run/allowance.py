"""What the faults of a scenario may cost the devices of a mix, so that only what exceeds it is a difference. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from penstock_sim.measure.closing import Allowed
from penstock_sim.run.records import Row
from penstock_sim.scenario import Devices
from penstock_sim.scenario import faults as f

_LOSES = (f.LinkCut, f.Flapping, f.BrokerRestart, f.GatewayKill, f.GatewayPause)
"""Frames on their way are lost, where no device keeps them, and so are results."""

_UNHEARD = (*_LOSES, f.Bandwidth)
"""Brokers drop what a slow connection does not take."""

_DELAYS = (*_UNHEARD, f.Latency)
"""Answers come late to the devices that were in time at the gateway."""

_CHECKPOINT_S = 2
"""A killed gateway's books of `latest` streams are up to 1 s old (contracts 4); rows are whole seconds."""


def allowed(faults: Sequence[f.AnyFault], mix: Devices, rows: Sequence[Row], forgotten: int) -> Allowed:
    """For one mix.

    Args:
        rows: the run's seconds.
        forgotten: frames that its devices gave up without a receipt.
    """
    lossy = any(isinstance(fault, _LOSES) for fault in faults)
    rebooted = any(isinstance(fault, f.Reboot) and fault.devices in ("", mix.name) for fault in faults)
    return Allowed(
        lost=forgotten if mix.store else math.inf if lossy or rebooted else 0,
        unheard=rebooted or any(isinstance(fault, _UNHEARD) for fault in faults),
        delayed=any(isinstance(fault, _DELAYS) for fault in faults),
        uncounted=sum(
            _sent(rows, mix.name, fault.at_s) for fault in faults if isinstance(fault, f.GatewayKill)
        ),
    )


def together(found: Sequence[Allowed]) -> Allowed:
    """For several mixes whose books cannot be told apart."""
    return Allowed(
        sum(one.lost for one in found),
        any(one.unheard for one in found),
        any(one.delayed for one in found),
        sum(one.uncounted for one in found),
    )


def _sent(rows: Sequence[Row], mix: str, before_s: float) -> int:
    """Frames that were sent shortly before a moment."""
    near = (row for row in rows if before_s - _CHECKPOINT_S <= row.second + 1 <= before_s + 1)
    return sum(row.mixes[mix].sent for row in near)
