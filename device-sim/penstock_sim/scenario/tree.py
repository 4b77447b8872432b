"""A scenario as one frozen tree: devices in mixes, phases of load, faults on a time line, and what must hold.

Owns the keys of a scenario file, their bounds and defaults. Reading one, with the line of what is wrong, belongs to
`read`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from penstock_models.errors import UsageError
from penstock_sim.scenario.faults import AnyFault
from penstock_sim.scenario.load import Load
from penstock_sim.scenario.phases import AnyPhase
from penstock_sim.scenario.things import AnyThing, Rate

Name = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_-]{1,56}\Z")]
Text = Annotated[str, Meta(max_length=1000)]

MAX_DEVICES = 100_000
MAX_STREAMS = 64


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the file: an unknown key is an error."""


class Target(Table, frozen=True, kw_only=True):
    """Where the load goes. Without `url` a broker and a gateway are started here, from `gateway`."""

    url: str = ""
    site: Name = "home"
    root: Annotated[str, Meta(min_length=1, max_length=256)] = "penstock"
    status: Annotated[str, Meta(max_length=1000)] = ""
    """Base URL of the gateway's HTTP, for its ledger and metrics."""
    token_file: str | None = None
    username: str | None = None
    password_file: str | None = None
    """The password of `username`."""
    credentials: str | None = None
    """A file with one `DEVICE PASSWORD` a line: each device logs in as itself."""
    ca: str | None = None
    gateway: str | None = None
    """A gateway.toml to run here; left out, the demo's models stand behind a camera and a sensor route."""

    def token(self, folder: Path) -> str | None:
        """What the gateway's HTTP wants to hear; the file starts at `folder`.

        Raises:
            UsageError: no such file, or an empty one.
        """
        if self.token_file is None:
            return None
        path = folder / self.token_file
        try:
            words = path.read_text().split()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"expected a file with a token at {path}: {error}") from None
        if not words:
            raise UsageError(f"expected a token in {path}, found nothing")
        return words[-1]


class Clock(Table, frozen=True, kw_only=True):
    """A device's clock: wrong by `skew_ms` and up to `spread_ms` more either way, drifting by `drift_ppm`."""

    skew_ms: Annotated[float, Meta(ge=-1e12, le=1e12)] = 0.0
    spread_ms: Annotated[float, Meta(ge=0, le=1e12)] = 0.0
    drift_ppm: Annotated[float, Meta(ge=-1e5, le=1e5)] = 0.0


class Stream(Table, frozen=True, kw_only=True):
    name: Name = "cam"
    source: AnyThing
    rate_hz: Rate
    arrivals: Literal["periodic", "poisson"] = "periodic"
    jitter_ms: Annotated[float, Meta(ge=0, le=3_600_000)] = 0.0
    deadline_ms: Annotated[int, Meta(ge=1, le=86_400_000)] | None = None
    """Sent with each frame, and what counts as late here; left out, nothing is late."""
    priority: Annotated[int, Meta(ge=0, le=9)] | None = None
    """Sent with each frame, 9 first."""
    expiry_s: Annotated[int, Meta(ge=1, le=86_400)] | None = None
    """After how long the broker drops a frame that nobody fetched; MQTT 5."""


class Devices(Table, frozen=True, kw_only=True):
    """A mix: `count` devices of one kind, called NAME-0000 and on."""

    name: Name
    count: Annotated[int, Meta(ge=1, le=MAX_DEVICES)] = 1
    protocol: Literal["3.1.1", "5"] = "5"
    qos: Literal[0, 1] = 0
    keepalive_s: Annotated[int, Meta(ge=5, le=65_535)] = 60
    store: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    """Frames that a device keeps until their receipt, and sends again: for `every` routes. 0: none."""
    clock: Clock = Clock()
    stream: Annotated[tuple[Stream, ...], Meta(min_length=1, max_length=MAX_STREAMS)]


class Scenario(Table, frozen=True, kw_only=True):
    v: Literal[1] = 1
    name: Name
    about: Text = ""
    seed: Annotated[int, Meta(ge=0, le=2**31)] = 0
    target: Target = Target()
    device: Annotated[tuple[Devices, ...], Meta(min_length=1, max_length=1000)]
    phase: Annotated[tuple[AnyPhase, ...], Meta(min_length=1, max_length=1000)]
    fault: Annotated[tuple[AnyFault, ...], Meta(max_length=1000)] = ()
    objectives: Annotated[tuple[str, ...], Meta(max_length=100)] = ()
    """What must hold: `p99_ms < 200`, `lost == 0`."""


class Loaded(msgspec.Struct, frozen=True):
    """A scenario that was read: relative paths start at `folder`, `text` is what the file says, `load` its phases joined."""

    scenario: Scenario
    folder: Path
    text: str
    load: Load

    @property
    def devices(self) -> int:
        return sum(mix.count for mix in self.scenario.device)

    @property
    def rate_hz(self) -> float:
        """Frames a second at a load of 1."""
        return sum(mix.count * sum(s.rate_hz for s in mix.stream) for mix in self.scenario.device)
