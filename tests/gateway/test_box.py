"""What the box says of itself, on a made-up /proc and /sys, and on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from penstock_gateway.box import Box, Rows

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def process(proc: Path, pid: int, times: tuple[int, int, int, int], pages: int, children: str = "") -> None:
    """A process with utime, stime, cutime, cstime in ticks; its name is made to mislead a reader."""
    fields = ["S", "1", *["0"] * 9, *map(str, times), "20"]
    put(proc / str(pid) / "stat", f"{pid} (a) b c) {' '.join(fields)}\n")
    put(proc / str(pid) / "statm", f"999 {pages} 3 4 0 5 0\n")
    put(proc / str(pid) / "task" / str(pid) / "children", children)


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path / "proc", tmp_path / "sys", pid=7)


def test_processor_time_and_memory_are_those_of_the_whole_family(box: Box, tmp_path: Path) -> None:
    process(tmp_path / "proc", 7, (100, 20, 3, 4), 10, "8 9")
    process(tmp_path / "proc", 8, (1000, 0, 500, 500), 20, "10 ")
    process(tmp_path / "proc", 10, (7, 0, 0, 0), 30)  # 9 has just ended
    assert value(box.cpu_s()) == pytest.approx((127 + 1000 + 7) / TICKS)
    assert value(box.rss_bytes()) == 60 * PAGE


def test_temperatures_frequencies_and_throttling(box: Box, tmp_path: Path) -> None:
    sys_ = tmp_path / "sys"
    for number, (kind, temp) in enumerate((("cpu-thermal", "61500"), ("gpu", "48000"), ("odd", "none"))):
        put(sys_ / f"class/thermal/thermal_zone{number}/type", kind + "\n")
        put(sys_ / f"class/thermal/thermal_zone{number}/temp", temp + "\n")
    for number, (now, most) in enumerate((("600000", "1200000"), ("1200000", "1200000"))):
        put(sys_ / f"devices/system/cpu/cpufreq/policy{number}/scaling_cur_freq", now)
        put(sys_ / f"devices/system/cpu/cpufreq/policy{number}/cpuinfo_max_freq", most)
        put(sys_ / f"devices/system/cpu/cpu{number}/thermal_throttle/core_throttle_count", "3")
    assert list(box.celsius()) == [(("cpu-thermal",), 61.5), (("gpu",), 48.0)]
    assert list(box.frequency_ratio()) == [((), 0.75)]
    assert list(box.throttled()) == [((), 6.0)]


def test_what_a_board_does_not_offer_is_left_out(box: Box) -> None:
    assert [list(rows) for rows in (box.celsius(), box.frequency_ratio(), box.throttled())] == [[], [], []]


def test_a_busy_child_of_this_machine_is_seen() -> None:
    program = (
        "import sys; x = bytearray(30_000_000); sys.stdout.write('.'); sys.stdout.flush(); sum(range(10**9))"
    )
    box = Box()
    before_s, before_bytes = value(box.cpu_s()), value(box.rss_bytes())
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None and child.stdout.read(1) == b"."
            end = time.monotonic() + 20
            while value(box.cpu_s()) < before_s + 0.3 and time.monotonic() < end:
                pass
            grown = value(box.rss_bytes()) - before_bytes
        finally:
            child.kill()
    assert value(box.cpu_s()) >= before_s + 0.3, "the time of a child that ended stays"
    assert grown > 30_000_000


def value(rows: Rows) -> float:
    ((labels, number),) = rows
    assert labels == ()
    return number
