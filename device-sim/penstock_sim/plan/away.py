"""The way from the gateways to the cloud tier and back: a link of some bandwidth, then the tier's machines in turns."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from penstock_models.scheduling.request import Flow
from penstock_sim.plan.host import Frame, Host, Lane
from penstock_sim.plan.kernel import Kernel
from penstock_sim.plan.profile import Profile
from penstock_sim.plan.work import Route


class Away:
    """The way to the cloud tier: one link that all share, then its machines in turns."""

    def __init__(self, cloud: Profile, routes: Sequence[Route]) -> None:
        facts = cloud.facts
        self._lanes = [Lane(msgspec.structs.replace(route, mode="latest")) for route in routes]
        self._there_s, self.back_s = facts.before_ms / 1e3, facts.after_ms / 1e3
        self.busy_s = 0.0
        self.next = 0
        self._bytes_per_s = facts.bytes_per_s
        self._free_at = 0.0

    def there(self, now: float, nbytes: int) -> float:
        """When so many bytes that are sent now will have arrived."""
        return self._through(now, nbytes) + self._there_s

    def send(self, kernel: Kernel, now: float, frame: Frame, machines: Sequence[Host]) -> None:
        """Send a frame to the machine whose turn it is. It has a flow of its own: what is sent there waits beside what its
        stream sent before, as requests of a server do."""
        server = machines[self.next]
        self.next = (self.next + 1) % len(machines)
        through = self._through(now, frame.sending.nbytes)
        self.busy_s += through - max(now, self._free_at)
        self._free_at = through
        lane = self._lanes[frame.sending.route]
        away = Frame(Flow("", lane), lane, frame.sending, frame.sent, frame)
        kernel.at(through + self._there_s, server.process, _arrive, server, away)

    def _through(self, now: float, nbytes: int) -> float:
        return max(now, self._free_at) + (nbytes / self._bytes_per_s if self._bytes_per_s else 0.0)


def _arrive(server: Host, frame: Frame) -> None:
    server.take(frame)
    server.kick()
