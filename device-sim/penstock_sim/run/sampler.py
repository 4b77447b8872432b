"""What the machine says beside a run: CPU and memory of processes here, and of a gateway elsewhere by its metrics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec
import psutil
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from penstock_models.errors import PenstockError
from penstock_sim.site.gateway import Pages


class ProcessSample(msgspec.Struct, frozen=True):
    """`cpu` in cores since the last sample, `rss_mb` together."""

    cpu: float
    rss_mb: float


class NetworkSample(msgspec.Struct, frozen=True):
    """Kilobytes a second since the last sample, as the one in question sees them."""

    received_kb_s: float
    sent_kb_s: float


class GatewaySample(msgspec.Struct, frozen=True):
    """From the gateway's metrics. `waiting` are frames in queues, `cpu` is in cores, `celsius` of its hottest zone,
    `throttled` how often its cores were slowed down since the last sample, `settled` the frames by their fate's bucket
    since then; None where it does not tell."""

    received: int
    in_flight: int
    waiting: int
    cpu: float | None = None
    cores: int | None = None
    rss_mb: float | None = None
    celsius: float | None = None
    frequency_ratio: float | None = None
    throttled: int | None = None
    network: NetworkSample | None = None
    settled: dict[str, int] = {}


class ProcessSampler:
    """Some processes together, or one with its children; they may change from one sample to the next."""

    def __init__(self, children: bool = False) -> None:
        self._children = children
        self._seen: dict[int, float] = {}
        self._at_s: float | None = None

    def sample(self, pids: Iterable[int | None], now_s: float) -> ProcessSample | None:
        """None where none of them is there."""
        times: dict[int, float] = {}
        rss = 0
        for process in self._family(pids):
            try:
                used = process.cpu_times()
                times[process.pid] = used.user + used.system
                rss += process.memory_info().rss
            except psutil.Error:
                continue  # it has just ended
        if not times:
            self._seen, self._at_s = {}, None
            return None
        spent = sum(cpu - self._seen.get(number, 0.0 if self._seen else cpu) for number, cpu in times.items())
        seconds = now_s - self._at_s if self._at_s is not None else 0.0
        self._seen, self._at_s = times, now_s
        return ProcessSample(max(0.0, spent / seconds) if seconds > 0 else 0.0, rss / 1e6)

    def _family(self, pids: Iterable[int | None]) -> Iterator[psutil.Process]:
        for pid in pids:
            try:
                process = psutil.Process(pid) if pid is not None else None
                if process is not None:
                    yield process
                    yield from process.children(recursive=True) if self._children else ()
            except psutil.Error:
                continue


class Rate:
    """What a total grows by in a second."""

    def __init__(self) -> None:
        self._last: tuple[float, float] | None = None

    def of(self, total: float | None, now_s: float) -> float | None:
        """None without two totals; a total that starts anew counts from 0."""
        last, self._last = self._last, (total, now_s) if total is not None else None
        if last is None or total is None or now_s <= last[1]:
            return None
        return (total - last[0] if total >= last[0] else total) / (now_s - last[1])


class NetworkRate:
    """Kilobytes a second from two totals in bytes."""

    def __init__(self) -> None:
        self._received, self._sent = Rate(), Rate()

    def of(self, received: float | None, sent: float | None, now_s: float) -> NetworkSample | None:
        found = self._received.of(received, now_s), self._sent.of(sent, now_s)
        if found[0] is None or found[1] is None:
            return None
        return NetworkSample(round(found[0] / 1e3, 3), round(found[1] / 1e3, 3))


class GatewaySampler:
    """A gateway by its metrics page."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self._cpu, self._network = Rate(), NetworkRate()
        self._throttled: float | None = None
        self._settled: dict[str, int] | None = None

    async def sample(self, now_s: float) -> GatewaySample | None:
        """None where it does not answer, or with something else."""
        try:
            return self.read(await self._pages.metrics(), now_s)
        except (PenstockError, ValueError):
            return None

    def read(self, page: str, now_s: float) -> GatewaySample:
        """From a page in Prometheus' text form."""
        found = samples(page)
        rss, throttled = _total(found, "penstock_rss_bytes"), _total(found, "penstock_cpu_throttled")
        last, self._throttled = self._throttled, throttled
        moved = {way: _total(found, "penstock_link_bytes", direction=way) for way in ("received", "sent")}
        return GatewaySample(
            received=int(_total(found, "penstock_frames_received_total") or 0),
            in_flight=int(_total(found, "penstock_frames_in_flight") or 0),
            waiting=int(_total(found, "penstock_queue_frames") or 0),
            cpu=self._cpu.of(_total(found, "penstock_cpu_seconds"), now_s),
            cores=int(cores) if (cores := _total(found, "penstock_cpu_cores")) is not None else None,
            rss_mb=rss / 1e6 if rss is not None else None,
            celsius=max((s.value for s in found if s.name == "penstock_temperature_celsius"), default=None),
            frequency_ratio=_total(found, "penstock_cpu_frequency_ratio"),
            throttled=int(throttled - last) if throttled is not None and last is not None else None,
            network=self._network.of(moved["received"], moved["sent"], now_s),
            settled=self._settled_since(found),
        )

    def _settled_since(self, found: Iterable[Sample]) -> dict[str, int]:
        """Empty for the first sample; a gateway that started anew counts from 0."""
        totals: dict[str, int] = {}
        for sample in found:
            if sample.name == "penstock_frames_total":
                bucket = sample.labels["bucket"]
                totals[bucket] = totals.get(bucket, 0) + int(sample.value)
        last, self._settled = self._settled, totals
        if last is None:
            return {}
        anew = any(totals.get(bucket, 0) < count for bucket, count in last.items())
        return {bucket: count - (0 if anew else last.get(bucket, 0)) for bucket, count in totals.items()}


def samples(page: str) -> Sequence[Sample]:
    return [sample for family in text_string_to_metric_families(page) for sample in family.samples]


def _total(found: Iterable[Sample], name: str, **labels: str) -> float | None:
    """A metric summed over its other labels; None where there is none."""
    values = [
        sample.value for sample in found if sample.name == name and labels.items() <= sample.labels.items()
    ]
    return sum(values) if values else None
