"""Rows gathered into steps."""

import numpy as np
import pytest

from penstock_sim.report.series import series, step_of
from penstock_sim.run.records import Row
from penstock_sim.run.sampler import GatewaySample, ProcessSample
from tests.fakes.recorded import mix_second, row


def made(*seconds: int, **changes: object) -> list[Row]:
    return [
        row(n, {"cam": mix_second([10.0 + n] * 4, late=1, expired__in_queue=2)}, **changes) for n in seconds
    ]


@pytest.mark.parametrize(
    ("seconds", "most", "step"), [(1, 10, 1), (10, 10, 1), (11, 10, 2), (36_000, 1200, 30)]
)
def test_a_long_run_has_longer_steps(seconds: int, most: int, step: int) -> None:
    rows = [made(0)[0], made(seconds - 1)[0]]
    assert step_of(rows, most) == step
    assert len(series(rows, step).at_s) <= most


def test_counts_add_up_and_rates_are_a_second() -> None:
    found = series(made(0, 1, 2), 2)
    cam = found.mixes["cam"]
    assert found.at_s.tolist() == [1.0, 3.0]
    assert cam.sent.tolist() == [12, 6] and cam.late.tolist() == [2, 1]
    assert {name: counts.tolist() for name, counts in cam.fates.items()} == {
        "ok": [8, 4],
        "expired: in_queue": [4, 2],
    }
    assert found.rate(cam.answered).tolist() == [4.0, 4.0]
    assert cam.latencies.percentiles(50) == pytest.approx([10.5, 12.0], rel=0.06)


def test_a_missing_second_is_a_hole_and_order_does_not_matter() -> None:
    found = series(made(7, 3, 5), 1)
    assert found.seconds.tolist() == [1, 0, 1, 0, 1]
    assert np.isnan(found.rate(found.mixes["cam"].sent)[[1, 3]]).all()
    assert found.mixes["cam"].latencies.percentiles(50)[[0, 2, 4]] == pytest.approx([13, 15, 17], rel=0.01)


def test_a_mix_may_come_later() -> None:
    found = series([row(0, {}), *made(1)], 1)
    assert found.mixes["cam"].answered.tolist() == [0, 4]


def test_the_gateways_page_speaks_where_its_process_is_elsewhere() -> None:
    page = GatewaySample(received=1, in_flight=2, waiting=3, cpu=0.5, rss_mb=100.0, celsius=61.0)
    here = made(0, processes={"gateway": ProcessSample(0.9, 120.0)}, gateway=page)
    there = made(1, processes={}, gateway=page)
    nobody = made(2, processes={}, gateway=None)
    gauges = series([*here, *there, *nobody], 1).gauges
    assert gauges["gateway_cpu"][:2].tolist() == [0.9, 0.5] and np.isnan(gauges["gateway_cpu"][2])
    assert gauges["gateway_rss_mb"][:2].tolist() == [120.0, 100.0]
    assert gauges["celsius"][1] == 61.0
    assert np.isnan(gauges["broker_cpu"]).all()


def test_of_a_step_cpu_is_the_mean_and_what_piles_up_the_highest() -> None:
    rows = [
        row(n, {}, held=held, processes={"gateway": ProcessSample(cpu, rss)}, gateway=None)
        for n, (held, cpu, rss) in enumerate([(1, 0.2, 90.0), (9, 0.4, 80.0)])
    ]
    gauges = series(rows, 2).gauges
    assert gauges["held"].tolist() == [9]
    assert gauges["gateway_cpu"] == pytest.approx([0.3])
    assert gauges["gateway_rss_mb"].tolist() == [90.0]


def test_nothing_was_written() -> None:
    found = series([], step_of([]))
    assert not found.mixes and not len(found.at_s)
