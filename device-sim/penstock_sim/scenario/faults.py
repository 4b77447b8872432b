"""The faults of a scenario: what breaks, when, for how long. Only what is said of them; who does it stands elsewhere.

A fault on the link acts between the devices and the broker, one on a process on a gateway or broker that the run has
started, one on devices in what these send.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

At = Annotated[float, Meta(ge=0, le=7 * 86_400)]
For = Annotated[float, Meta(gt=0, le=7 * 86_400)]
Milliseconds = Annotated[float, Meta(ge=0, le=600_000)]
Share = Annotated[float, Meta(gt=0, le=1)]

Hostile = Literal[
    "huge_pixels",
    "bomb",
    "truncated",
    "empty",
    "random",
    "wrong_type",
    "deep_json",
    "not_finite",
    "wrong_shape",
]
HOSTILE: tuple[Hostile, ...] = Hostile.__args__  # type: ignore[attr-defined]


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", kw_only=True):
    """`at_s` counts from the run's begin."""

    at_s: At

    @property
    def ends_s(self) -> float:
        """When it is over; `at_s` for what is done at once."""
        return self.at_s + getattr(self, "for_s", 0.0)


class LinkCut(Fault, tag="link_cut", frozen=True, kw_only=True):
    """Every connection ends, and nobody gets through for `for_s`; `silent`: nothing gets through, and nobody is told."""

    for_s: For
    silent: bool = False


class Latency(Fault, tag="latency", frozen=True, kw_only=True):
    """`delay_ms` more each way, with up to `jitter_ms` on top; nothing overtakes."""

    for_s: For
    delay_ms: Milliseconds
    jitter_ms: Milliseconds = 0.0


class Bandwidth(Fault, tag="bandwidth", frozen=True, kw_only=True):
    """So many bytes a second each way, over all connections together."""

    for_s: For
    bytes_per_s: Annotated[float, Meta(ge=100, le=1e11)]


class Flapping(Fault, tag="flapping", frozen=True, kw_only=True):
    """The link is cut for `down_s` and there for `up_s`, in turn."""

    for_s: For
    down_s: For
    up_s: For


class BrokerRestart(Fault, tag="broker_restart", frozen=True, kw_only=True):
    """The broker is killed and comes back after `for_s`."""

    for_s: For = 1.0


class GatewayKill(Fault, tag="gateway_kill", frozen=True, kw_only=True):
    """SIGKILL; the gateway comes back after `for_s`."""

    for_s: For = 1.0


class GatewayPause(Fault, tag="gateway_pause", frozen=True, kw_only=True):
    """SIGSTOP for `for_s`, as a host that sleeps."""

    for_s: For


class AcceleratorLoss(Fault, tag="accelerator_loss", frozen=True, kw_only=True):
    """The gateway's processes that have this library loaded crash, and for `for_s` it is not there: what an accelerator
    that fell off the bus looks like to those who used it. A relative path starts at the scenario's folder."""

    for_s: For
    library: Annotated[str, Meta(min_length=1, max_length=4096)]


class Devices(Fault, frozen=True, kw_only=True):
    """A fault of devices: those whose mix is `devices`, left out all of them."""

    devices: str = ""


class Malformed(Devices, tag="malformed", frozen=True, kw_only=True):
    """That share of the frames is cut off or filled with noise."""

    for_s: For
    share: Share = 0.1


class HostilePayloads(Devices, tag="hostile", frozen=True, kw_only=True):
    """That share of the frames is made to do harm, each of one of these kinds."""

    for_s: For
    share: Share = 0.1
    payloads: Annotated[tuple[Hostile, ...], Meta(min_length=1, max_length=100)] = HOSTILE


class ClockJump(Devices, tag="clock_jump", frozen=True, kw_only=True):
    """The devices' clocks jump by `by_ms` and stay there."""

    by_ms: Annotated[int, Meta(ge=-(10**12), le=10**12)]


class Reboot(Devices, tag="reboot", frozen=True, kw_only=True):
    """The devices start again: a new connection, a new `boot`, `seq` from 0."""


class PayloadChange(Devices, tag="payload_change", frozen=True, kw_only=True):
    """The streams change to another payload type in mid-stream: sensors to `encoding`, cameras to PNG."""

    encoding: Literal["tensor", "cbor", "json", "senml"] = "json"


AnyFault = (
    LinkCut | Latency | Bandwidth | Flapping | BrokerRestart | GatewayKill | GatewayPause
    | AcceleratorLoss | Malformed | HostilePayloads | ClockJump | Reboot | PayloadChange
)  # fmt: skip

LINK = (LinkCut, Latency, Bandwidth, Flapping)
PROCESS = (BrokerRestart, GatewayKill, GatewayPause, AcceleratorLoss)


def kind(fault: Fault) -> str:
    """The word that the file uses for it."""
    return str(type(fault).__struct_config__.tag)
