"""What the box itself says: processor time and memory of the gateway with its children, temperatures, throttling.

Read from Linux' /proc and /sys when somebody scrapes. What a kernel or a board does not offer is left out, never made up.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from penstock_gateway.metrics import Gauge

_PROC, _SYS = Path("/proc"), Path("/sys")
_MAX_ZONES = 32
_MAX_CHILDREN = 256

Rows = Iterable[tuple[tuple[str, ...], float]]


class Box:
    """Values of this machine and of process `pid` (this one) with its descendants."""

    def __init__(self, proc: Path = _PROC, sys: Path = _SYS, pid: int | None = None) -> None:
        self._proc, self._sys, self._pid = proc, sys, pid or os.getpid()

    def cpu_s(self) -> Rows:
        """Processor seconds, those of children that ended too."""
        ticks = 0
        for number, pid in enumerate(self._family()):
            fields = _stat(self._proc / str(pid))
            # utime and stime, of our own process also cutime and cstime: what ended children took (proc(5)).
            ticks += sum(map(int, fields[11 : 15 if number == 0 else 13]))
        yield (), ticks / os.sysconf("SC_CLK_TCK")

    def rss_bytes(self) -> Rows:
        """Resident memory; pages that processes share count for each."""
        pages = 0
        for pid in self._family():
            fields = _text(self._proc / str(pid) / "statm").split()
            pages += int(fields[1]) if len(fields) > 1 else 0
        yield (), float(pages * os.sysconf("SC_PAGE_SIZE"))

    def celsius(self) -> Rows:
        """Temperatures by zone, in degrees."""
        zones = sorted(self._sys.glob("class/thermal/thermal_zone*"))[:_MAX_ZONES]
        for zone in zones:
            if (value := _number(zone / "temp")) is not None:
                yield (_text(zone / "type").strip() or zone.name,), value / 1000.0

    def frequency_ratio(self) -> Rows:
        """The cores' present frequency over the highest that they may have, on average."""
        ratios = []
        for policy in self._sys.glob("devices/system/cpu/cpufreq/policy*"):
            now, most = _number(policy / "scaling_cur_freq"), _number(policy / "cpuinfo_max_freq")
            if now and most:
                ratios.append(now / most)
        if ratios:
            yield (), sum(ratios) / len(ratios)

    def throttled(self) -> Rows:
        """How often the hardware slowed its cores down since they were hot (x86 counts that)."""
        counts = [
            value
            for core in self._sys.glob("devices/system/cpu/cpu[0-9]*")
            if (value := _number(core / "thermal_throttle" / "core_throttle_count")) is not None
        ]
        if counts:
            yield (), sum(counts)

    def cores(self) -> Rows:
        """Cores that this process may use."""
        yield (), float(len(os.sched_getaffinity(0)))

    def gauges(self) -> list[Gauge]:
        return [
            Gauge("penstock_cpu_cores", "Cores that the gateway may use.", (), self.cores),
            Gauge("penstock_cpu_seconds", "Processor time of the gateway and its children.", (), self.cpu_s),
            Gauge("penstock_rss_bytes", "Memory of the gateway and its children.", (), self.rss_bytes),
            Gauge("penstock_temperature_celsius", "Temperatures of the box.", ("zone",), self.celsius),
            Gauge(
                "penstock_cpu_frequency_ratio", "Present over highest frequency.", (), self.frequency_ratio
            ),
            Gauge("penstock_cpu_throttled", "Times that a hot core was slowed down.", (), self.throttled),
        ]

    def _family(self) -> Iterator[int]:
        """The process, then its descendants."""
        waiting, seen = [self._pid], 0
        while waiting and seen < _MAX_CHILDREN:
            pid = waiting.pop()
            seen += 1
            yield pid
            for children in (self._proc / str(pid)).glob("task/*/children"):
                waiting += map(int, _text(children).split())


def _stat(process: Path) -> list[str]:
    """The fields after the name, which may hold anything; none where the process has ended."""
    return _text(process / "stat").rpartition(")")[2].split()


def _number(path: Path) -> float | None:
    try:
        return float(_text(path))
    except ValueError:
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
