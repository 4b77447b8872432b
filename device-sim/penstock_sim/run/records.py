"""A run on disk: one folder, which reports and comparisons read.

    scenario.toml   what was run
    series.ndjson   one `Row` a second
    events.ndjson   one `Event` a line: faults, stages, what went wrong
    run.json        `Summary`, written at the end; a folder without it was cut off, and says what it has

All are written as they come, so that a run that is killed keeps what it had. A full disk ends the writing, not the
run: what is there is marked incomplete.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from penstock_models.errors import UsageError
from penstock_sim.load.track import StreamReport
from penstock_sim.measure.closing import Difference
from penstock_sim.measure.objectives import Verdict
from penstock_sim.measure.window import MixSecond
from penstock_sim.run.sampler import GatewaySample, NetworkSample, ProcessSample

V = 1


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """Second `second` of a run, all workers together. `processes` and `network` by name (`generator`,
    `broker`, `gateway`)."""

    second: int
    mixes: dict[str, MixSecond]
    connected: int
    held: int
    unsent: int
    lag_p99_ms: float | None
    processes: dict[str, ProcessSample] = {}
    network: dict[str, NetworkSample] = {}
    gateway: GatewaySample | None = None


class Event(msgspec.Struct, frozen=True):
    """`at_s` counts from the begin of the load; `kind` is a fault's, or `stage`, `warning`."""

    at_s: float
    kind: str
    text: str
    begins: bool = True


class Machine(msgspec.Struct, frozen=True):
    processor: str
    cores: int
    memory_gb: float
    python: str
    penstock: str


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run. Figures by mix, "" for all; streams are "DEVICE/STREAM". `ok`: the load was on time, the books
    close and every objective is met. `offset_ms` bounds the gateway's clock minus ours."""

    v: int = V
    name: str
    run: str
    seed: int
    began: int
    seconds: float
    ok: bool
    on_time: bool
    stopped: bool
    objectives: tuple[Verdict, ...]
    differences: tuple[Difference, ...]
    figures: dict[str, dict[str, float | None]]
    fates: dict[str, dict[str, int]]
    answered_by: dict[str, dict[str, int]]
    unsent: dict[str, int]
    lost_connections: dict[str, int]
    ledger: dict[str, Any] | None
    streams: dict[str, StreamReport]
    workers: int
    machine: Machine
    offset_ms: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()


T = TypeVar("T")


class Writer:
    """Writes a run's folder. `problem` says why it had to stop writing, "" where it did not."""

    def __init__(self, folder: Path, scenario: str) -> None:
        try:
            folder.mkdir(parents=True)
            (folder / "scenario.toml").write_text(scenario, encoding="utf-8")
            self._series = (folder / "series.ndjson").open("wb")
            self._events = (folder / "events.ndjson").open("wb")
        except OSError as error:
            raise UsageError(f"expected to write the run's results to {folder}: {error.strerror}") from None
        self.folder, self.problem = folder, ""

    def row(self, row: Row) -> None:
        self._write(self._series, row)

    def event(self, event: Event) -> None:
        self._write(self._events, event)

    def close(self, summary: Summary | None) -> None:
        """Write the summary, where there is one; a run that never began leaves nothing of ours."""
        if summary is not None and not self.problem:
            self._conclude(summary)
        for stream in (self._series, self._events):
            try:
                stream.close()
            except OSError as error:
                self._stop(error)
        if summary is None and not self.problem:
            self._clear()

    def _clear(self) -> None:
        """Leave no files where nothing happened, and no folder without a file."""
        lines = [self.folder / name for name in ("series.ndjson", "events.ndjson")]
        with contextlib.suppress(OSError):  # the logs of a gateway that did not start stay, and say why
            if any(file.stat().st_size for file in lines):
                return
            for file in (*lines, self.folder / "scenario.toml"):
                file.unlink()
            self.folder.rmdir()

    def _conclude(self, summary: Summary) -> None:
        """All of it or nothing: a run without it is one that was cut off."""
        file = self.folder / "run.json"
        half = file.with_suffix(".tmp")
        try:
            half.write_bytes(msgspec.json.format(msgspec.json.encode(summary)))
            half.replace(file)
        except OSError as error:
            self._stop(error)
            half.unlink(missing_ok=True)

    def _write(self, file: Any, line: msgspec.Struct) -> None:
        if self.problem:
            return
        try:
            file.write(msgspec.json.encode(line) + b"\n")
            file.flush()
        except OSError as error:
            self._stop(error)

    def _stop(self, error: OSError) -> None:
        why = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror
        self.problem = f"expected to write {self.folder}: {why}; what is there is kept, and is not complete"


class Recorded(msgspec.Struct, frozen=True):
    """A run as read back; `summary` is None where it was cut off."""

    folder: Path
    scenario: str
    rows: tuple[Row, ...]
    events: tuple[Event, ...]
    summary: Summary | None


def load(folder: Path) -> Recorded:
    """Read a run's folder.

    Raises:
        UsageError: no such folder, a file that is none of ours, or of a newer version.
    """
    try:
        scenario = _decoded(folder, "scenario.toml", lambda raw: raw.decode())
        rows = tuple(_lines(folder, "series.ndjson", Row))
        events = tuple(_lines(folder, "events.ndjson", Event))
        file = folder / "run.json"
        version = _decoded(folder, file.name, _version.decode).v if file.exists() else 0
        if version > V:
            raise UsageError(f"{folder}: expected a run of version {V} or older, came version {version}")
        summary = _decoded(folder, file.name, _summary.decode) if version else None
    except OSError as error:
        raise UsageError(f"expected a run's folder at {folder}: {error.filename}: {error.strerror}") from None
    return Recorded(folder, scenario, rows, events, summary)


class _Version(msgspec.Struct):
    """Read before the rest, which another version may hold in another form."""

    v: Annotated[int, Meta(ge=1)] = V


_version, _summary = msgspec.json.Decoder(_Version), msgspec.json.Decoder(Summary)


def _lines(folder: Path, name: str, kind: type[T]) -> Iterator[T]:
    """The lines of a file; a last one that was cut off in writing is left out."""
    text = (folder / name).read_bytes()
    decoder = msgspec.json.Decoder(kind)
    for number, line in enumerate(text[: text.rfind(b"\n") + 1].splitlines(), 1):
        yield _told(folder, f"{name}:{number}", decoder.decode, line)


def _decoded(folder: Path, name: str, decode: Callable[[bytes], T]) -> T:
    return _told(folder, name, decode, (folder / name).read_bytes())


def _told(folder: Path, where: str, decode: Callable[[bytes], T], raw: bytes) -> T:
    try:
        return decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UsageError(f"expected a run's files in {folder}: {where}: {error}") from None
