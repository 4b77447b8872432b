"""The probe: what it says of models and of threads, and when its silence counts."""

from __future__ import annotations

import asyncio

import pytest

from penstock_gateway import health
from penstock_gateway.health import FRESH_S, Health
from tests.fakes.executor import FakeExecutor, servable
from tests.fakes.gateway_core import until

MODELS = [servable("a"), servable("b")]


@pytest.fixture
def executor(monkeypatch: pytest.MonkeyPatch) -> FakeExecutor:
    monkeypatch.setattr(health, "PERIOD_S", 0.001)
    return FakeExecutor()


async def test_a_wrong_answer_is_told_once_and_taken_back(executor: FakeExecutor) -> None:
    changes: list[list[str]] = []
    probe = Health(executor, lambda: MODELS, lambda: changes.append(probe.degraded))
    task = asyncio.create_task(probe.run())
    executor.right = False
    await until(lambda: len(changes) == 1)
    assert (
        probe.problems()
        == changes[0]
        == [f"model {name} gives a wrong answer to its probe" for name in ("a", "b")]
    )
    executor.right = True
    await until(lambda: len(changes) == 2)
    assert changes[1] == [] and probe.problems() == []
    task.cancel()
    await asyncio.wait([task])


async def test_threads_that_hang_degrade_and_do_not_fail_health(executor: FakeExecutor) -> None:
    changes: list[list[str]] = []
    probe = Health(executor, lambda: MODELS, lambda: changes.append(probe.degraded))
    executor.degraded = ("a: 1 of at most 4 threads hang in its runs",)
    task = asyncio.create_task(probe.run())
    await until(lambda: bool(changes))
    assert changes == [list(executor.degraded)] and probe.problems() == []
    task.cancel()
    await asyncio.wait([task])


@pytest.mark.parametrize(("age_s", "healthy"), [(0.0, True), (FRESH_S - 1, True), (FRESH_S + 1, False)])
def test_a_probe_that_nobody_answers_counts_after_thirty_seconds(age_s: float, healthy: bool) -> None:
    probe = Health(FakeExecutor(), lambda: MODELS, lambda: None)
    probe._answered -= age_s
    assert (probe.problems() == []) == healthy
