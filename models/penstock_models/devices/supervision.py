"""Which device a loaded version should run on now: given up when it fails there, taken back when that is well again.

Decides only, from events and the time (`now`, seconds of a monotonic clock); `supervised` holds the hosts and acts. At
any time at most one host serves, one more is being opened because none serves (the rebuild), and one is being opened or
tried on a device that is preferred to the serving one (the candidate). The same candidate is an engine that is built for
minutes, and a device that failed and may be well again.

    serving ──lost, or golden wrong──▶ none ──rebuild opened──▶ serving on the next device
       ▲                                                             │ return_at of a better one
       └────────── golden right K times ◀── candidate opened ◀───────┘
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Literal

import msgspec

from penstock_models.devices.health import Health, Rules

Slot = Literal["serving", "rebuild", "candidate"]
SLOTS: tuple[Slot, ...] = ("candidate", "rebuild")
"""Of hosts beside the serving one; the better one first."""

Ran = Literal["good", "error", "hang"]
"""How a whole batch went: some item was answered, all met an error of the model, or it was ended at its limit."""


class Open(msgspec.Struct, frozen=True):
    """Open a host on that device, warm and with its golden answers right; then say `opened` or `failed`."""

    slot: Slot
    device: str


class Probe(msgspec.Struct, frozen=True):
    """Run the golden sample of that slot's host; then say `probed`."""

    slot: Slot


class Switch(msgspec.Struct, frozen=True):
    """From now on that slot's host serves; the one that did is closed when its running batches ended."""

    slot: Slot


class Close(msgspec.Struct, frozen=True):
    """Close that slot's host; it is wrong, or not needed."""

    slot: Slot


Action = Open | Probe | Switch | Close


class Attempt:
    """A host beside the serving one, from the wish to open it until it serves or is closed."""

    def __init__(self, device: str, needed: int, now: float) -> None:
        self.device = device
        self.needed = needed
        self.began = now
        self.opened = self.probing = False
        self.good = 0
        self.probe_at = now


class Supervision:
    """One loaded version and its devices, best first. Feed it events, then do what `due` says until it says nothing."""

    def __init__(
        self,
        devices: Sequence[str],
        rules: Rules | None = None,
        *,
        seed: str = "",
        slow: Collection[str] = (),
    ) -> None:
        """Nothing serves yet, and the first host is due.

        Args:
            devices: the preference list, best first; empty means `("cpu",)`.
            seed: spreads the pauses of several boxes and versions; equal seeds give equal pauses.
            slow: devices whose host takes minutes to open, as an engine is built; another one serves meanwhile.
        """
        self.devices = tuple(dict.fromkeys(devices)) or ("cpu",)
        self.serving: str | None = None
        self.since = float("-inf")
        self._rules = rules or Rules()
        self._slow = frozenset(slow)
        # A build of minutes never stands before a rebuild, unless there is nothing quicker.
        self._quick = tuple(device for device in self.devices if device not in self._slow) or self.devices
        self.health = Health(self.devices, self._rules, seed)
        self._rebuild: Attempt | None = None
        self._candidate: Attempt | None = None
        self._closing: list[Slot] = []
        self._suspect: Literal["", "due", "asked"] = ""
        self._begin_serving(None, float("-inf"))

    # --- events ------------------------------------------------------------------------------------------------------

    def opened(self, slot: Slot, now: float) -> None:
        """The host that `Open` asked for is there."""
        attempt = self._attempt(slot)
        if attempt is not None:
            attempt.opened, attempt.good, attempt.probe_at = True, 1, now + self._rules.probe_every_s

    def failed(self, slot: Slot, reason: str, now: float) -> None:
        """The host that `Open` asked for could not be opened."""
        attempt = self._attempt(slot)
        if attempt is not None:
            self.health.failed(attempt.device, reason, now)
            self._forget(slot)

    def lost(self, slot: Slot, reason: str, now: float) -> None:
        """A host can run no more."""
        if slot == "serving":
            self._give_up(reason, now)
        else:
            self.failed(slot, reason, now)

    def ran(self, how: Ran, now: float) -> None:
        """A batch of the serving host ended. Golden samples decide whether the device or the items are to blame."""
        if self.serving is None:
            return
        if how == "good":
            self._errors = self._hangs = 0
            return
        self._errors += how == "error"
        self._hangs += how == "hang"
        if self._errors >= self._rules.errors_limit:
            self._close_serving(f"{self._errors} batches in a row failed", now)
        elif self._hangs >= self._rules.hangs_limit:
            self._close_serving(f"{self._hangs} batches in a row did not come back in time", now)
        elif how == "hang" or self._errors % self._rules.errors == 0:
            self._suspect = self._suspect or "due"

    def probed(self, slot: Slot, good: bool, now: float) -> None:
        """A golden sample was run."""
        if slot == "serving":
            self._suspect = ""
            if not good and self.serving is not None:
                self._close_serving("its golden answer is wrong or does not come", now)
            return
        attempt = self._attempt(slot)
        if attempt is None or not attempt.opened:
            return
        attempt.probing = False
        attempt.good += 1
        attempt.probe_at = now + self._rules.probe_every_s
        if not good:
            self._closing.append(slot)
            self.failed(slot, "its golden answer is wrong or does not come", now)

    # --- decisions ---------------------------------------------------------------------------------------------------

    def due(self, now: float) -> list[Action]:
        """What is to be done now; each action is said once."""
        actions: list[Action] = [Close(slot) for slot in self._closing]
        self._closing.clear()
        if self._suspect == "due":
            self._suspect = "asked"
            actions.append(Probe("serving"))
        actions += self._switches(now)
        if self.serving is None and self._rebuild is None and (device := self._next(now)) is not None:
            self._rebuild = Attempt(device, 1, now)
            actions.append(Open("rebuild", device))
        if (better := self._better(now)) is not None:
            failures = self.health[better].failures
            self._candidate = Attempt(better, self._rules.good_probes if failures else 1, now)
            actions.append(Open("candidate", better))
        elif self._candidate is not None and self._probe_due(self._candidate, now):
            self._candidate.probing = True
            actions.append(Probe("candidate"))
        return actions

    def wake_at(self) -> float | None:
        """When something is due at the latest if no event comes; None where only an event can bring something."""
        if self._closing or self._suspect == "due":
            return float("-inf")
        times = [self.health[device].return_at for device in self._above()] if self._candidate is None else []
        if self.serving is None and self._rebuild is None:
            times += [self.health[device].rebuild_at for device in self._free()]
        for attempt in (self._rebuild, self._candidate):
            if attempt is not None and attempt.opened and not attempt.probing:
                ready = self._ready(attempt)
                times.append(float("-inf") if ready else attempt.probe_at)
        return min(times, default=None)

    def _switches(self, now: float) -> list[Action]:
        """To a host that is proven and better than the serving one, or while there is none; others are closed."""
        for slot in SLOTS:
            attempt = self._attempt(slot)
            if attempt is None or not self._ready(attempt):
                continue
            self._forget(slot)
            if not self._improves(attempt.device):  # another was quicker
                return [Close(slot), *self._switches(now)]
            self._begin_serving(attempt.device, now)
            return [Switch(slot), *self._switches(now)]
        return []

    def _ready(self, attempt: Attempt) -> bool:
        """Whether an attempt is decided: nothing serves, it is not better, or it was right often enough."""
        hurried = self.serving is None or not self._improves(attempt.device)
        return attempt.opened and (hurried or attempt.good >= attempt.needed)

    def _improves(self, device: str) -> bool:
        return self.serving is None or self.devices.index(device) < self.devices.index(self.serving)

    def _probe_due(self, attempt: Attempt, now: float) -> bool:
        return attempt.opened and not attempt.probing and now >= attempt.probe_at

    def _next(self, now: float) -> str | None:
        """The device to serve on next: of those that are due the one with the fewest failures, then the best."""
        due = [device for device in self._free() if self.health[device].rebuild_at <= now]
        return min(due, key=self._weight, default=None)

    def _weight(self, device: str) -> tuple[int, int]:
        return self.health[device].failures, self.devices.index(device)

    def _free(self) -> list[str]:
        """Devices to rebuild on: those on which no candidate is being opened."""
        taken = self._candidate.device if self._candidate else None
        return [device for device in self._quick if device != taken]

    def _above(self) -> Sequence[str]:
        """The devices that are preferred to the serving one; where none serves, those that only a candidate may use."""
        if self.serving is not None:
            return self.devices[: self.devices.index(self.serving)]
        if not any(self.health[device].failures for device in self._quick):
            return ()
        return [device for device in self.devices if device not in self._quick]

    def _better(self, now: float) -> str | None:
        """The best device above the serving one whose pause is over, while no other is tried."""
        due = (device for device in self._above() if self.health[device].return_at <= now)
        return None if self._candidate is not None else next(due, None)

    # --- book-keeping ------------------------------------------------------------------------------------------------

    def _attempt(self, slot: Slot) -> Attempt | None:
        return self._rebuild if slot == "rebuild" else self._candidate

    def _forget(self, slot: Slot) -> None:
        if slot == "rebuild":
            self._rebuild = None
        else:
            self._candidate = None

    def _begin_serving(self, device: str | None, now: float) -> None:
        self.serving, self.since = device, now
        self._errors = self._hangs = 0
        self._suspect = ""

    def _close_serving(self, reason: str, now: float) -> None:
        self._closing.append("serving")
        self._give_up(reason, now)

    def _give_up(self, reason: str, now: float) -> None:
        if self.serving is None:
            return
        self.health.failed(self.serving, reason, now, now - self.since)
        self._begin_serving(None, now)

    # --- status ------------------------------------------------------------------------------------------------------

    def slow(self, device: str) -> bool:
        """Whether opening a host there takes minutes."""
        return device in self._slow

    def attempt_on(self, device: str) -> Attempt | None:
        """The host that is being opened or tried there; None where none is."""
        attempts = (self._candidate, self._rebuild)
        return next((attempt for attempt in attempts if attempt and attempt.device == device), None)

    def degraded(self, name: str, epoch: float) -> str:
        """`person: on cpu instead of openvino since …: reason`, "" on the preferred device.

        Args:
            epoch: seconds since 1970 at 0 of the clock that `now` comes from.
        """
        if self.serving == self.devices[0]:
            return ""
        where = f"on {self.serving} instead of {self.devices[0]}" if self.serving else "on no device"
        when = "" if math.isinf(self.since) else f"{datetime.fromtimestamp(epoch + self.since, UTC):%FT%TZ}"
        since = when and f" since {when}"
        return f"{name}: {where}{since}: {self._why()}"

    def _why(self) -> str:
        """What is known against the devices that should serve and do not."""
        wanted = self.devices if self.serving is None else self.devices[: self.devices.index(self.serving)]
        reasons = {device: self.health[device].reason for device in wanted}
        known = [f"{device}: {reason}" for device, reason in reasons.items() if reason]
        builds = [device for device in wanted if self.slow(device) and self.attempt_on(device)]
        known += [f"{device}: its engine is being built" for device in builds]
        return "; ".join(known) or "it is being opened"
