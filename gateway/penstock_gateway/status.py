"""What the gateway tells of itself: its state, the status page, the periodic stats, the metrics (contracts 1, 4, 8)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from penstock_gateway.box import Box
from penstock_gateway.connections import Watch
from penstock_gateway.frames import Lane
from penstock_gateway.health import Health
from penstock_gateway.journal import Journal
from penstock_gateway.ledger import Counts, Ledger
from penstock_gateway.metrics import Gauge, Metrics, Tally
from penstock_gateway.models import Core
from penstock_gateway.mqtt import Link
from penstock_gateway.refusals import Refusals
from penstock_gateway.starts import StartRecord
from penstock_gateway.wire import (
    MAX_STATS_STREAMS,
    BuildStatus,
    GatewayStatus,
    LedgerView,
    ModelStatus,
    RouteStatus,
    StartView,
    Stats,
    StatusPage,
    bounded,
)
from penstock_models.devices.builds import Progress
from penstock_models.scheduling.runs import VersionRun, infeasible
from penstock_models.versions import status as versions


class Parts(msgspec.Struct, frozen=True):
    """The live parts that the views look at."""

    ledger: Ledger
    lanes: Sequence[Lane]
    core: Core
    links: Mapping[str, tuple[Watch, Link]]
    journal: Journal
    health: Health
    refusals: Refusals
    tally: Tally


class Views:
    """The pages; every one is made when somebody asks."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._began = time.monotonic()
        self._since = time.time_ns() // 1_000_000
        self._state = ""
        self._told: dict[str, int] = {}
        self._metrics = Metrics(parts.tally, parts.ledger.total, lambda: parts.core.runs, self._gauges())
        self.stopping = False

    @property
    def start(self) -> str:
        return self._parts.journal.opened.start.start

    def healthy(self) -> list[str]:
        return self._parts.health.problems()

    def ready(self) -> list[str]:
        """As `reasons`, as far as frames are not answered for it."""
        return [*self._troubles(), *self._parts.core.unready(), *(["stopping"] if self.stopping else [])]

    def reasons(self) -> list[str]:
        """Why the gateway is degraded; empty when it is not."""
        journal = self._parts.journal
        found = [*self._troubles(), *self._parts.core.unready()]
        found += [f"route {route.index}: {route.infeasible}" for route in self._routes() if route.infeasible]
        if journal.broken is not None or journal.stuck:
            found.append(f"journal: {journal.broken or 'the disk is full'}")
        return found + self._parts.refusals.degraded + self._parts.health.degraded

    def metrics(self) -> bytes:
        return self._metrics.page()

    def gateway_status(self) -> GatewayStatus:
        """The retained status message as of now."""
        reasons = tuple(self.reasons())
        state = "stopped" if self.stopping else "degraded" if reasons else "online"
        if state != self._state:
            self._state, self._since = state, time.time_ns() // 1_000_000
        return GatewayStatus(state=state, reasons=reasons, start=self.start, since=self._since)

    def stats(self) -> Stats:
        """The totals, and the streams that changed most since they were last told."""
        ledger, told = self._parts.ledger.streams, self._told
        changes = {key: _progress(counts) - told.get(key, 0) for key, counts in ledger.items()}
        most = sorted((key for key, n in changes.items() if n), key=lambda key: changes[key], reverse=True)
        streams = {key: LedgerView.of(ledger[key]) for key in most[:MAX_STATS_STREAMS]}
        stats = bounded(
            Stats(start=self.start, uptime_s=self._uptime(), ledger=self.ledger(), streams=streams)
        )
        told.update((key, _progress(ledger[key])) for key in stats.streams)
        return stats

    def ledger(self) -> LedgerView:
        return LedgerView.of(self._parts.ledger.total())

    def status(self, stream: str | None) -> StatusPage | None:
        parts = self._parts
        streams = parts.ledger.streams if stream is None else {}
        if stream is not None:
            if stream not in parts.ledger.streams:
                return None
            streams = {stream: parts.ledger.streams[stream]}
        runs = {run.info.digest: run for run in parts.core.runs}
        return StatusPage(
            start=self.start,
            uptime_s=self._uptime(),
            state=self.gateway_status().state,
            ledger=self.ledger(),
            starts=tuple(start_view(record) for record in parts.journal.opened.starts),
            streams={key: LedgerView.of(counts) for key, counts in streams.items()},
            models=tuple(
                _model_view(model.name, version, parts.core.builds(version.digest), runs.get(version.digest))
                for model, version in self._versions()
            ),
            problems=tuple(parts.core.problems()),
            routes=self._routes(),
            links=tuple(watch.view(link) for watch, link in parts.links.values()),
        )

    def _uptime(self) -> float:
        return round(time.monotonic() - self._began, 3)

    def _troubles(self) -> list[str]:
        return [f"link {name}: {watch.trouble}" for name, watch in self._watches() if watch.trouble]

    def _watches(self) -> Iterator[tuple[str, Watch]]:
        return ((name, watch) for name, (watch, _) in self._parts.links.items())

    def _routes(self) -> tuple[RouteStatus, ...]:
        runs = self._parts.core.runs
        return tuple(_route_view(lane, runs) for lane in self._parts.lanes)

    def _versions(self) -> Iterator[tuple[versions.ModelStatus, versions.VersionStatus]]:
        return ((model, version) for model in self._parts.core.statuses() for version in model.versions)

    def _returned(self) -> dict[str, float]:
        back = self._parts.core.memory_returned()
        return {one.name: one.fraction for one in back if one.fraction is not None}

    def _gauges(self) -> list[Gauge]:
        parts = self._parts

        def one(name: str, text: str, value: Callable[[], float]) -> Gauge:
            return Gauge(name, text, (), lambda: [((), value())])

        return [
            Gauge("penstock_link_up", "1 while the connection is up.", ("link",), lambda: [
                ((name,), float(watch.connected)) for name, watch in self._watches()
            ]),
            Gauge("penstock_link_overruns", "Messages beyond our Receive Maximum.", ("link",), lambda: [
                ((name,), link.overruns) for name, (_, link) in parts.links.items()
            ]),
            Gauge("penstock_link_refused", "Messages that the broker did not take.", ("link", "reason"), lambda: [
                ((name, reason), n) for name, (_, link) in parts.links.items() for reason, n in link.refused.items()
            ]),
            Gauge("penstock_link_dropped", "QoS 0 messages that had no connection.", ("link",), lambda: [
                ((name,), link.dropped) for name, (_, link) in parts.links.items()
            ]),
            Gauge("penstock_link_bytes", "Bytes over the connection.", ("link", "direction"), lambda: [
                ((name, direction), n) for name, (_, link) in parts.links.items()
                for direction, n in (("received", link.traffic.received), ("sent", link.traffic.sent))
            ]),
            Gauge("penstock_route_frames", "Frames that a route holds.", ("route",), lambda: [
                ((str(lane.route.index),), lane.frames) for lane in parts.lanes
            ]),
            Gauge("penstock_route_bytes", "Bytes that a route holds.", ("route",), lambda: [
                ((str(lane.route.index),), lane.nbytes) for lane in parts.lanes
            ]),
            Gauge("penstock_queue_frames", "Frames that wait for a model.", ("model", "version"), lambda: [
                ((run.info.name, str(run.info.version)), run.queue.waiting) for run in parts.core.runs
            ]),
            Gauge("penstock_model_available", "1 while a version serves.", ("model", "version"), lambda: [
                ((model.name, str(v.version)), float(v.state == "available")) for model, v in self._versions()
            ]),
            Gauge("penstock_model_resident_bytes", "Memory that a version takes.", ("model", "version"), lambda: [
                ((model.name, str(v.version)), v.bytes) for model, v in self._versions() if v.bytes
            ]),
            Gauge("penstock_model_load_seconds", "How long the last load took.", ("model", "version"), lambda: [
                ((model.name, str(v.version)), v.load_ms / 1e3) for model, v in self._versions() if v.load_ms
            ]),
            Gauge("penstock_model_memory_returned", "Part of its memory that came back at the last unload.", ("version",), lambda: [
                ((name,), fraction) for name, fraction in self._returned().items()
            ]),
            Gauge("penstock_engine_build_seconds", "For how long an engine is being built.", ("model", "version", "device"), lambda: [
                ((model.name, str(v.version), build.device), build.elapsed_s)
                for model, v in self._versions() for build in parts.core.builds(v.digest) if build.phase == "building"
            ]),
            Gauge("penstock_shadow", "Copies by how the shadow compared.", ("model", "version", "shadow", "verdict"), lambda: [
                ((name, str(live), str(shadow), verdict), n)
                for (name, live, shadow), counts in parts.core.shadow_counts().items() for verdict, n in counts.items()
            ]),
            one("penstock_streams", "Known streams.", lambda: len(parts.ledger.streams)),
            one("penstock_journal_bytes", "Bytes of the journal in use.", lambda: parts.journal.bytes_used),
            *Box().gauges(),
        ]  # fmt: skip


def _progress(counts: Counts) -> int:
    return counts.received + counts.settled


def start_view(record: StartRecord) -> StartView:
    """An ended start as the status page shows it."""
    return StartView(
        start=record.start,
        began=record.began,
        ended=record.ended or record.began,
        how="clean" if record.how == "clean" else "killed",
        ledger=_closed(record.ledger.counts()),
        carried_out=record.carried_out,
        unknown=record.unknown,
    )


def _closed(counts: Counts) -> LedgerView:
    """An ended start has nothing in flight: what had no fate is carried out or unknown."""
    return msgspec.structs.replace(LedgerView.of(counts), in_flight=0)


def _model_view(
    name: str, version: versions.VersionStatus, builds: Sequence[Progress], run: VersionRun | None
) -> ModelStatus:
    """What `run` says of its placement counts: a device may have been given up since the load."""
    return ModelStatus(
        name=name,
        version=version.version,
        digest=version.digest,
        state=version.state,
        placement=run.info.placement if run is not None else version.placement,
        labels=version.labels,
        since=version.since,
        load_ms=round(version.load_ms, 1),
        resident_bytes=version.bytes,
        reason=version.reason,
        error=version.error,
        attempts=version.attempts,
        next_try=version.next_try,
        note=version.note,
        builds=tuple(_build_view(build) for build in builds),
    )


def _build_view(build: Progress) -> BuildStatus:
    return BuildStatus(
        device=build.device,
        phase=build.phase,
        elapsed_s=round(build.elapsed_s, 1),
        expected_s=build.expected_s,
        made_bytes=build.made_bytes,
        retry_s=round(build.retry_s, 1),
        reason=build.reason or None,
    )


def _route_view(lane: Lane, runs: Sequence[VersionRun]) -> RouteStatus:
    route = lane.route
    return RouteStatus(
        index=route.index,
        topic=route.topic,
        model=str(route.model),
        mode=route.mode,
        waiting=lane.frames,
        waiting_bytes=lane.nbytes,
        paused=lane.paused,
        infeasible=_infeasible(lane, runs) or None,
    )


def _infeasible(lane: Lane, runs: Sequence[VersionRun]) -> str:
    """Why the route's deadline cannot be met, "" where it can.

    A model is the version that is named by its number, else the newest: asking makes nothing load, and what serves
    nothing now is left out.
    """
    found: list[VersionRun] = []
    for ref in (lane.route.model, *lane.route.stages):
        named = [run for run in runs if run.info.name == ref.name and ref.version in (None, run.info.version)]
        found += sorted(named, key=lambda run: run.info.version)[-1:]
    return infeasible(lane.route.deadline_ms, found)
