"""What the faults of a scenario may cost the devices of a mix."""

import math
from typing import Any

import pytest

from penstock_sim.measure.closing import Allowed
from penstock_sim.measure.window import MixSecond
from penstock_sim.run.allowance import allowed, together
from penstock_sim.run.records import Row
from penstock_sim.scenario import Devices, Stream
from penstock_sim.scenario import faults as f
from penstock_sim.scenario.things import Bytes

CAM = Devices(name="cam", stream=(Stream(source=Bytes(size=1), rate_hz=1),))
STORE = Devices(name="cam", store=5, stream=CAM.stream)
AT: dict[str, Any] = {"at_s": 5.0, "for_s": 1.0}
ROWS = [
    Row(
        second=n, mixes={"cam": MixSecond(1, 1, 0, {}, ""), "vib": MixSecond(9, 9, 0, {}, "")}, connected=2, held=0,
        unsent=0, lag_p99_ms=None,
    )
    for n in range(10)
]  # fmt: skip
"""One frame of `cam` a second."""

ALL_OF_IT = Allowed(lost=math.inf, unheard=True, delayed=True)


@pytest.mark.parametrize(
    ("faults", "mix", "forgotten", "expected"),
    [
        ([], CAM, 0, Allowed()),
        ([], CAM, 5, Allowed()),
        ([], STORE, 5, Allowed(lost=5)),
        ([f.Latency(delay_ms=5, **AT)], CAM, 0, Allowed(delayed=True)),
        ([f.Bandwidth(bytes_per_s=1000, **AT)], CAM, 0, Allowed(unheard=True, delayed=True)),
        ([f.LinkCut(**AT)], CAM, 0, ALL_OF_IT),
        ([f.LinkCut(**AT)], STORE, 0, Allowed(unheard=True, delayed=True)),
        ([f.LinkCut(**AT)], STORE, 1, Allowed(1, True, True)),
        ([f.Flapping(down_s=1, up_s=1, **AT)], CAM, 0, ALL_OF_IT),
        ([f.BrokerRestart(**AT)], CAM, 0, ALL_OF_IT),
        ([f.GatewayPause(**AT)], CAM, 0, ALL_OF_IT),
        ([f.GatewayKill(**AT)], CAM, 0, Allowed(math.inf, True, True, uncounted=4)),
        ([f.GatewayKill(at_s=0)], CAM, 0, Allowed(math.inf, True, True, uncounted=1)),
        ([f.Reboot(at_s=1)], CAM, 0, Allowed(math.inf, unheard=True)),
        ([f.Reboot(at_s=1, devices="cam")], STORE, 0, Allowed(unheard=True)),
        ([f.Reboot(at_s=1, devices="vib")], CAM, 0, Allowed()),
        ([f.Malformed(**AT), f.HostilePayloads(**AT), f.ClockJump(at_s=1, by_ms=5), f.PayloadChange(at_s=1)], CAM, 0,
         Allowed()),
    ],
)  # fmt: skip
def test_a_fault_may_cost_what_it_breaks_and_no_more(
    faults: list[f.AnyFault], mix: Devices, forgotten: int, expected: Allowed
) -> None:
    assert allowed(faults, mix, ROWS, forgotten) == expected


def test_mixes_that_cannot_be_told_apart_are_allowed_what_each_is() -> None:
    assert together([Allowed(lost=2, uncounted=2), Allowed(lost=5, delayed=True, uncounted=3)]) == Allowed(
        lost=7, delayed=True, uncounted=5
    )
