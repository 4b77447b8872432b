"""Hosts on devices with verbs for what devices do, and the machine that opens them."""

import asyncio
from asyncio import Future
from collections.abc import Callable, Sequence

from penstock_models.devices.health import Rules
from penstock_models.devices.supervised import Limits
from penstock_models.hosts import Host
from penstock_models.items import Answer, Item, JsonValues, Outcome, Refusal, ServableInfo
from tests.models.loaded import fates

QUICK = Rules(
    errors=3,
    errors_limit=9,
    good_probes=3,
    probe_every_s=0.01,
    rebuild_s=0.02,
    rebuild_max_s=0.1,
    return_s=0.05,
    return_max_s=0.2,
    steady_s=3600.0,
)
LIMITS = Limits(open_s=0.3, build_s=5.0, probe_s=0.1)
ITEM = Item(JsonValues(b"[1]"))
FAILED = Refusal("failed", "model_error", "the device said no")
ENDED = Refusal("failed", "model_timeout", "ended", suspect=True)


class FakeHost:
    """One version on one device, with verbs for what devices do."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.info = ServableInfo("made", 1, "sha256:1", f"fake:{device}", "raw", 8, False, 1.0, 1)
        self.resident_bytes = 1000
        self.lost: Future[str] = asyncio.get_running_loop().create_future()
        self.closed = self.ended = False
        self.held: list[tuple[Future[list[Outcome]], int]] = []
        self.ran = 0
        self.last: Outcome = Answer()
        """What batches get that run while it is closed."""
        self._answer: Outcome | None = Answer()
        self._golden: bool | None = True

    def run(self, items: Sequence[Item], timeout_s: float) -> Future[list[Outcome]]:
        assert not self.closed, "a closed host must get no run"
        self.ran += 1
        future: Future[list[Outcome]] = asyncio.get_running_loop().create_future()
        if self._answer is None:
            self.held.append((future, len(items)))
        else:
            future.set_result([self._answer] * len(items))
        return future

    async def probe(self) -> bool:
        if self._golden is None:
            await asyncio.get_running_loop().create_future()
        return bool(self._golden)

    async def close(self) -> None:
        self.closed = True
        await asyncio.sleep(0.005)
        self._resolve(self.last)
        self.ended = True

    def hold(self) -> None:
        """Keep batches running until released."""
        self._answer = None

    def fail(self, refusal: Refusal = FAILED, golden: bool | None = False) -> None:
        """Fail every batch; the golden sample is wrong too, or right, or (None) hangs."""
        self._answer, self._golden = refusal, golden

    def crash(self) -> None:
        """Die as a process does: what runs is answered, then it is lost."""
        self._resolve(Refusal("failed", "model_error", "ended by SIGSEGV", suspect=True))
        self.lost.set_result("ended by SIGSEGV")

    def _resolve(self, outcome: Outcome) -> None:
        for future, count in self.held:
            if not future.done():
                future.set_result([outcome] * count)
        self.held.clear()


class Box:
    """A machine with devices: opens hosts, and can make a device refuse, wait or answer wrongly."""

    def __init__(self) -> None:
        self.hosts: list[FakeHost] = []
        self.refuses: dict[str, Exception] = {}
        self.waits: dict[str, asyncio.Event] = {}
        self.asked: list[str] = []
        self.changes = 0

    async def open(self, device: str) -> Host:
        self.asked.append(device)
        if device in self.waits:
            await self.waits[device].wait()
        else:
            await asyncio.sleep(0)
        if device in self.refuses:
            raise self.refuses[device]
        host = FakeHost(device)
        self.hosts.append(host)
        return host

    def changed(self) -> None:
        self.changes += 1

    @property
    def open_hosts(self) -> list[str]:
        return [host.device for host in self.hosts if not host.ended]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # the condition is another object's state
            await asyncio.sleep(0.002)


async def fate(host: Host, count: int = 1) -> str:
    (one,) = set(fates(await host.run([ITEM] * count, 1.0)))
    return one
