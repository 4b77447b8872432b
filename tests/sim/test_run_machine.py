"""What a run asks of the machine: enough open files, and what processes and a remote gateway use."""

import os
import subprocess
import sys
import time
from typing import Any, cast

import pytest

from penstock_models.errors import PenstockError
from penstock_sim.run.sampler import (
    GatewaySample,
    GatewaySampler,
    NetworkRate,
    NetworkSample,
    ProcessSampler,
    Rate,
)
from penstock_sim.site.gateway import Pages

LIMITED = """
import resource, sys
from penstock_models.errors import UsageError
from penstock_sim.run.limits import allow_connections
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
try:
    allow_connections(int(sys.argv[3]))
except UsageError as error:
    print(error)
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


def limited(soft: int, hard: int, connections: int) -> list[str]:
    """What a process says that has these limits and wants so many connections; last the soft limit that it has then."""
    command = [sys.executable, "-c", LIMITED, str(soft), str(hard), str(connections)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.parametrize(
    ("soft", "hard", "connections", "then"),
    [(100, 1000, 500, 756), (800, 1000, 500, 800), (100, 1000, 744, 1000)],
)
def test_the_limit_of_open_files_is_raised_as_far_as_needed(
    soft: int, hard: int, connections: int, then: int
) -> None:
    assert limited(soft, hard, connections) == [str(then)]


def test_a_limit_that_cannot_be_raised_is_said_with_what_to_do() -> None:
    said, then = limited(100, 1000, 745)
    assert said.startswith("expected to open 1001 files for 745 connections, this system allows 1000: raise")
    assert then == "100"


def test_a_process_s_cpu_and_memory_are_those_since_the_last_sample() -> None:
    sampler, me = ProcessSampler(), [os.getpid(), None]
    first = sampler.sample(me, 10.0)
    used = time.process_time()
    while time.process_time() < used + 0.1:
        pass
    second = sampler.sample(me, 10.2)
    assert first is not None and second is not None
    assert first.cpu == 0.0 and first.rss_mb > 10
    assert 0.4 <= second.cpu < 1.5  # 0.1 s or a little more of 0.2 s, in ticks of 10 ms
    again = sampler.sample(me, 10.2)
    assert again is not None and again.cpu == 0.0


SLEEPER = [sys.executable, "-c", "import sys; sys.stdin.read()"]
PARENT = [sys.executable, "-c", f"import subprocess; subprocess.run({SLEEPER!r})"]


def test_a_process_that_is_gone_is_nothing_and_its_successor_begins_anew() -> None:
    sampler = ProcessSampler()
    for _ in range(2):
        child = subprocess.Popen(SLEEPER, stdin=subprocess.PIPE)
        found = sampler.sample([child.pid], 1.0)
        assert found is not None and found.cpu == 0.0
        child.communicate()
        assert sampler.sample([child.pid], 2.0) is None
    assert sampler.sample([None], 3.0) is None


def test_a_process_s_children_are_counted_where_that_is_asked() -> None:
    parent = subprocess.Popen(PARENT, stdin=subprocess.PIPE)
    try:
        alone, family = ProcessSampler(), ProcessSampler(children=True)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            one, all_of_them = alone.sample([parent.pid], 1.0), family.sample([parent.pid], 1.0)
            assert one is not None and all_of_them is not None
            if all_of_them.rss_mb > 1.5 * one.rss_mb:
                return
        pytest.fail("the child was never counted")
    finally:
        parent.communicate()


PAGE = """\
# TYPE penstock_frames_received counter
penstock_frames_received_total {received}
# TYPE penstock_frames_in_flight gauge
penstock_frames_in_flight 3
# TYPE penstock_queue_frames gauge
penstock_queue_frames{{model="a",version="1"}} 2
penstock_queue_frames{{model="b",version="1"}} 5
"""
MORE = """\
# TYPE penstock_cpu_seconds gauge
penstock_cpu_seconds {cpu}
# TYPE penstock_cpu_cores gauge
penstock_cpu_cores 4
# TYPE penstock_rss_bytes gauge
penstock_rss_bytes 9.5e+07
# TYPE penstock_temperature_celsius gauge
penstock_temperature_celsius{{zone="a"}} 61.5
penstock_temperature_celsius{{zone="b"}} 48
# TYPE penstock_cpu_throttled gauge
penstock_cpu_throttled {throttled}
# TYPE penstock_link_bytes gauge
penstock_link_bytes{{link="a",direction="received"}} {received}000
penstock_link_bytes{{link="b",direction="received"}} 5000
penstock_link_bytes{{link="a",direction="sent"}} 7000
"""


def page(received: int, cpu: float, throttled: int = 0) -> str:
    return (PAGE + MORE).format(received=received, cpu=cpu, throttled=throttled)


class Remote:
    """The pages of a gateway; None: it does not answer."""

    def __init__(self, *pages: str | None) -> None:
        self._pages = list(pages)

    async def metrics(self) -> str:
        page = self._pages.pop(0)
        if page is None:
            raise PenstockError("expected a gateway")
        return page


async def sampled(*pages: str | None) -> list[GatewaySample | None]:
    sampler = GatewaySampler(cast(Pages, cast(Any, Remote(*pages))))
    return [await sampler.sample(10.0 + 2 * n) for n in range(len(pages))]


async def test_a_remote_gateway_is_sampled_by_its_metrics() -> None:
    first, second, gone, again = await sampled(page(10, 5.0), page(30, 6.5, 2), None, page(31, 9.5, 2))
    constant: dict[str, Any] = {"cores": 4, "rss_mb": 95.0, "celsius": 61.5}
    assert first == GatewaySample(10, 3, 7, **constant)
    assert second == GatewaySample(
        30, 3, 7, cpu=0.75, throttled=2, network=NetworkSample(10.0, 0.0), **constant
    )
    assert gone is None
    assert again == GatewaySample(
        31, 3, 7, cpu=0.75, throttled=0, network=NetworkSample(0.25, 0.0), **constant
    )


async def test_a_gateway_that_tells_little_leaves_the_rest_open() -> None:
    assert await sampled(PAGE.format(received=4), PAGE.format(received=5)) == [
        GatewaySample(4, 3, 7),
        GatewaySample(5, 3, 7),
    ]


@pytest.mark.parametrize(
    "text", ["", "<html>502</html>\n", "a{b=} 1\n", "penstock_frames_received_total many\n"]
)
async def test_a_page_of_something_else_is_no_reason_to_end_a_run(text: str) -> None:
    (found,) = await sampled(text)
    assert found is None or found == GatewaySample(0, 0, 0)


@pytest.mark.parametrize(
    ("totals", "rates"),
    [
        ([(5.0, 1.0), (7.0, 2.0), (7.0, 4.0)], [None, 2.0, 0.0]),
        ([(5.0, 1.0), (None, 2.0), (9.0, 3.0)], [None, None, None]),
        ([(5.0, 1.0), (3.0, 2.0), (4.0, 3.0)], [None, 3.0, 1.0]),  # it began anew
        ([(5.0, 1.0), (9.0, 1.0)], [None, None]),
    ],
)
def test_a_rate_is_what_a_total_grows_by(
    totals: list[tuple[float | None, float]], rates: list[float | None]
) -> None:
    rate = Rate()
    assert [rate.of(total, at_s) for total, at_s in totals] == rates


def test_bytes_are_told_where_both_ways_are_known() -> None:
    rate = NetworkRate()
    assert [rate.of(*args) for args in ((0.0, 0.0, 1.0), (2000.0, 500.0, 2.0), (None, 1.0, 3.0))] == [
        None, NetworkSample(2.0, 0.5), None,
    ]  # fmt: skip
