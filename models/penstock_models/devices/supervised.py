"""A host that outlives its hosts: opened again on another device when one fails, and back on the preferred when it is well.

Acts only: holds the hosts, runs their golden samples, keeps time limits; `supervision` decides. How a host is opened is
the caller's port, so that it may be a process, or threads of this one.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from asyncio import Future
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import msgspec

from penstock_models.devices.supervision import Action, Close, Open, Probe, Ran, Slot, Supervision, Switch
from penstock_models.errors import BundleError, ModelRefused, PlacementError, one_line
from penstock_models.hosts import Host
from penstock_models.items import Answer, Item, Outcome, Refusal, ServableInfo

OpenHost = Callable[[str], Awaitable[Host]]
"""Opens a host on that device, warm and golden. Raises as loading does; when it is cancelled it leaves nothing behind."""

MODEL_FAULTS = frozenset({"model_error", "model_output", "model_timeout"})


class Limits(msgspec.Struct, frozen=True):
    """Seconds that a host may take: to open, to open where an engine is built, and for a golden sample, which may have to
    wait behind the batches in line."""

    open_s: float
    build_s: float
    probe_s: float


class SupervisedHost:
    """A `Host` over a preference list of devices. Used from one event loop."""

    def __init__(
        self,
        name: str,
        supervision: Supervision,
        open_host: OpenHost,
        *,
        on_change: Callable[[], None],
        limits: Limits,
    ) -> None:
        """`open` is the usual way in.

        Args:
            name: the version's, for status lines.
            on_change: called when `available`, `info` or `degraded` may have changed.
        """
        self.supervision = supervision
        self.lost: Future[str] = asyncio.get_running_loop().create_future()
        self._name = name
        self._open_host = open_host
        self._on_change = on_change
        self._limits = limits
        self._hosts: dict[Slot, Host] = {}
        self._info: ServableInfo | None = None
        self._error: Exception | None = None
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._group = asyncio.TaskGroup()
        self._ends: set[asyncio.Task[None]] = set()

    @classmethod
    async def open(
        cls,
        name: str,
        supervision: Supervision,
        open_host: OpenHost,
        *,
        on_change: Callable[[], None] = lambda: None,
        limits: Limits,
    ) -> SupervisedHost:
        """Open the first host: the best device that takes the version, or the best quick one while an engine is built.

        Raises:
            ModelRefused, BundleError: the version itself is wrong, whatever the device.
            PlacementError: no device took it; every reason is named. Of an only device its own error is raised, whatever
                it is.
        """
        host = cls(name, supervision, open_host, on_change=on_change, limits=limits)
        try:
            await host._first()
        except BaseException:
            await host.close()
            raise
        return host

    # --- a Host ------------------------------------------------------------------------------------------------------

    @property
    def info(self) -> ServableInfo:
        """Of the host that serves, or served last."""
        assert self._info is not None, "opened before it is handed out"
        return self._info

    @property
    def resident_bytes(self) -> int:
        """Of all hosts that are open, also one that is only tried."""
        return sum(host.resident_bytes for host in self._hosts.values())

    @property
    def available(self) -> bool:
        """Whether some host serves; while none does, runs are `failed: not_ready`."""
        return "serving" in self._hosts

    @property
    def degraded(self) -> str:
        """Why it does not run as wished, one line; "" when all is well."""
        return self.supervision.degraded(self._name, time.time() - time.monotonic())

    def run(self, items: Sequence[Item], timeout_s: float) -> Future[list[Outcome]]:
        """One batch on the host that serves now; see `Host.run`."""
        host = self._hosts.get("serving")
        if host is None:
            return self._not_ready(len(items))
        run = host.run(items, timeout_s)
        run.add_done_callback(partial(self._ran, host))
        return run

    async def probe(self) -> bool:
        """Run a golden sample on the host that serves, and say whether it was right; False where none serves."""
        host = self._hosts.get("serving")
        return host is not None and await self._golden(host)

    async def close(self) -> None:
        """End what is being opened and tried, then close every host. Never raises; may be called twice."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._ends:
            await asyncio.wait(self._ends)

    # --- acting ------------------------------------------------------------------------------------------------------

    async def _first(self) -> None:
        """Wait until a host serves, or nothing is left to try for now."""
        self._task = asyncio.create_task(self._supervise(), name=f"supervise {self._name}")
        self._task.add_done_callback(self._ended)
        changed = asyncio.Event()
        told, self._on_change = self._on_change, changed.set
        try:
            while not self.available:
                changed.clear()
                self._raise_if_hopeless()
                await changed.wait()
        finally:
            self._on_change = told

    def _raise_if_hopeless(self) -> None:
        if self._error is None:
            return
        devices = self.supervision.devices
        if isinstance(self._error, ModelRefused) or self.lost.done() or len(devices) == 1:
            raise self._error
        reasons = {device: self.supervision.health[device].reason for device in devices}
        if all(reasons.values()):
            passed = [f"{device}: {reason}" for device, reason in reasons.items()]
            # A golden answer may be wrong on one device alone, so a version is wrong only when the last one says so.
            kind = (
                BundleError
                if isinstance(self._error, BundleError)
                else partial(PlacementError, passed=passed)
            )
            raise kind(f"{self._name}: no device runs it ({'; '.join(passed)})") from self._error

    async def _supervise(self) -> None:
        try:
            async with self._group:
                while True:
                    self._wake.clear()
                    for action in self.supervision.due(time.monotonic()):
                        self._act(action)
                    await self._woken()
        finally:  # whatever ends supervision, no host is left behind
            for slot in list(self._hosts):
                self._close(slot)

    async def _woken(self) -> None:
        at = self.supervision.wake_at()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if at is None else max(0.0, at - time.monotonic())):
                await self._wake.wait()

    def _act(self, action: Action) -> None:
        match action:
            case Open(slot, device):
                self._group.create_task(self._open(slot, device), name=f"open {self._name} on {device}")
            case Probe(slot):
                self._group.create_task(self._probe(slot, self._hosts[slot]), name=f"probe {self._name}")
            case Switch(slot):
                self._close("serving")
                self._hosts["serving"] = self._hosts.pop(slot)
                self._info = self._hosts["serving"].info
            case Close(slot):
                self._close(slot)
        self._on_change()

    async def _open(self, slot: Slot, device: str) -> None:
        limit_s = self._limits.build_s if self.supervision.slow(device) else self._limits.open_s
        try:
            async with asyncio.timeout(limit_s):
                host = self._hosts[slot] = await self._open_host(device)
        except TimeoutError:
            self._failed(slot, TimeoutError(f"was not open within {limit_s:g} s"))
        except Exception as error:  # whatever opening raises is a reason not to run there
            self._failed(slot, error)
        else:
            host.lost.add_done_callback(partial(self._lost, host))
            self.supervision.opened(slot, time.monotonic())
        self._changed()

    def _failed(self, slot: Slot, error: Exception) -> None:
        self._error = error
        passed = getattr(error, "passed", None) or (str(error) or type(error).__name__,)
        self.supervision.failed(slot, one_line(passed[0]), time.monotonic())

    async def _probe(self, slot: Slot, host: Host) -> None:
        good = await self._golden(host)
        if (at := self._slot(host)) is not None:
            # A candidate that was tried may serve by now; then its answer counts there.
            self.supervision.probed(at, good, time.monotonic())
            self._changed()

    async def _golden(self, host: Host) -> bool:
        try:
            async with asyncio.timeout(self._limits.probe_s):
                return await host.probe()
        except TimeoutError:
            return False

    def _close(self, slot: Slot) -> None:
        """What runs in it ends first, within the host's own bound; no cancellation cuts that short."""
        if (host := self._hosts.pop(slot, None)) is not None:
            end = asyncio.create_task(host.close(), name=f"close {self._name}")
            self._ends.add(end)
            end.add_done_callback(self._ends.discard)

    # --- events ------------------------------------------------------------------------------------------------------

    def _ran(self, host: Host, run: Future[list[Outcome]]) -> None:
        if run.cancelled() or self._hosts.get("serving") is not host:
            return
        if (how := how_it_went(run.result())) is not None:
            self.supervision.ran(how, time.monotonic())
            if how != "good":
                self._wake.set()

    def _lost(self, host: Host, lost: Future[str]) -> None:
        if lost.cancelled() or (slot := self._slot(host)) is None:
            return
        self._close(slot)
        self.supervision.lost(slot, lost.result(), time.monotonic())
        self._changed()

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Supervision itself must not end; if it does, nobody would look after the hosts."""
        if not task.cancelled() and not self.lost.done():
            self._error = RuntimeError(f"supervision ended: {task.exception()!r}")
            self.lost.set_result(str(self._error))
            self._on_change()

    def _changed(self) -> None:
        self._wake.set()
        self._on_change()

    def _slot(self, host: Host) -> Slot | None:
        return next((slot for slot, known in self._hosts.items() if known is host), None)

    def _not_ready(self, count: int) -> Future[list[Outcome]]:
        refused: Future[list[Outcome]] = asyncio.get_running_loop().create_future()
        refused.set_result(
            [Refusal("failed", "not_ready", self.degraded or f"{self._name}: is closed")] * count
        )
        return refused


def how_it_went(outcomes: Sequence[Outcome]) -> Ran | None:
    """What a batch says about its device; None where nothing, as of items that were refused for their own sake."""
    if any(isinstance(outcome, Answer) for outcome in outcomes):
        return "good"
    refusals = [outcome for outcome in outcomes if isinstance(outcome, Refusal)]
    reasons = {refusal.reason if refusal.bucket == "failed" else "" for refusal in refusals}
    if not reasons or not reasons <= MODEL_FAULTS:
        return None
    return "hang" if "model_timeout" in reasons else "error"
