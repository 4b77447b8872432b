"""Which device a version should run on: tables of events, as devices are lost, judged and taken back."""

import pytest

from penstock_models.devices.health import SPREAD, Health
from penstock_models.devices.supervision import Open, Supervision
from tests.models.supervision_words import RULES, acts, serving


def fallen(now: float = 0.0) -> Supervision:
    """One that serves on the cpu since `now`, because the npu was lost."""
    machine = serving(now=now)
    machine.lost("serving", "it crashed", now)
    assert acts(machine, now) == ["open rebuild cpu"]
    machine.opened("rebuild", now)
    assert acts(machine, now) == ["switch rebuild"]
    return machine


def test_first_device_serves_and_nothing_else_is_due() -> None:
    machine = Supervision(["npu", "cpu"])
    assert machine.wake_at() == float("-inf") and machine.serving is None
    assert acts(machine, 0) == ["open rebuild npu"]
    assert acts(machine, 0) == [] and machine.wake_at() is None
    machine.opened("rebuild", 3)
    assert acts(machine, 3) == ["switch rebuild"]
    assert machine.serving == "npu" and acts(machine, 1e9) == [] and machine.wake_at() is None
    assert machine.degraded("person", 0) == ""


def test_without_a_list_it_is_the_cpu() -> None:
    machine = Supervision(())
    assert machine.devices == ("cpu",) and acts(machine, 0) == ["open rebuild cpu"]


def test_lost_host_is_rebuilt_at_once_on_the_next_device() -> None:
    machine = fallen(now=100)
    assert machine.serving == "cpu"
    text = machine.degraded("person", 1.6e9)
    assert text == "person: on cpu instead of npu since 2020-09-13T12:28:20Z: npu: it crashed"


def test_only_device_is_rebuilt_at_once_and_then_with_growing_pauses() -> None:
    machine = serving(["cpu"])
    now, pauses = 0.0, []
    for _ in range(12):
        machine.lost("serving", "it crashed", now)
        at = machine.wake_at()
        assert at is not None
        pauses.append(max(at - now, 0.0))
        now = max(at, now)
        if pauses[-1]:
            assert acts(machine, now - 1e-3) == []
        assert acts(machine, now) == ["open rebuild cpu"]
        machine.opened("rebuild", now)
        assert acts(machine, now) == ["switch rebuild"]
    assert pauses[0] == 0 and all(
        abs(pause / min(2.0**n, RULES.rebuild_max_s) - 1) <= SPREAD for n, pause in enumerate(pauses[1:])
    )


def test_devices_that_all_fail_are_tried_for_ever() -> None:
    machine, now, tried = Supervision(["npu", "cpu"]), 0.0, []
    for _ in range(20):
        (action,) = machine.due(now)
        assert isinstance(action, Open)
        tried.append(action.device)
        machine.failed("rebuild", f"no {action.device}", now)
        at = machine.wake_at()
        assert at is not None and at <= now + RULES.rebuild_max_s * (1 + SPREAD)
        now = max(now, at)
    assert tried[:4] == ["npu", "cpu", "npu", "cpu"] and tried.count("cpu") == 10
    assert machine.degraded("person", 0) == "person: on no device: npu: no npu; cpu: no cpu"


def test_return_takes_good_answers_in_a_row() -> None:
    machine = fallen()
    at = machine.wake_at()
    assert at is not None and abs(at / RULES.return_s - 1) <= SPREAD
    assert acts(machine, at - 0.1) == []
    assert acts(machine, at) == ["open candidate npu"]
    machine.opened("candidate", at)
    now = at
    for _ in range(RULES.good_probes - 1):
        assert acts(machine, now) == []
        now += RULES.probe_every_s
        assert machine.wake_at() == now
        assert acts(machine, now) == ["probe candidate"]
        assert acts(machine, now) == []
        machine.probed("candidate", True, now)
    assert acts(machine, now) == ["switch candidate"]
    assert machine.serving == "npu" and machine.degraded("person", 0) == ""


def returned(machine: Supervision, now: float) -> float:
    """Let it go back to the preferred device as soon as it may; when it did."""
    at = machine.wake_at()
    assert at is not None
    now = max(now, at)
    assert acts(machine, now) == ["open candidate npu"]
    machine.opened("candidate", now)
    while machine.serving != "npu":
        at = machine.wake_at()
        assert at is not None
        now = max(now, at)
        if acts(machine, now) == ["probe candidate"]:
            machine.probed("candidate", True, now)
    return now


def test_wrong_answer_closes_the_candidate_and_doubles_the_pause() -> None:
    machine = fallen()
    first = machine.wake_at()
    assert first is not None
    acts(machine, first)
    machine.opened("candidate", first)
    acts(machine, first + RULES.probe_every_s)
    machine.probed("candidate", False, 50)
    assert acts(machine, 50) == ["close candidate"]
    again = machine.wake_at()
    assert again is not None and abs((again - 50) / (2 * RULES.return_s) - 1) <= SPREAD
    assert machine.serving == "cpu"


@pytest.mark.parametrize(
    ("served_s", "failures"), [(1.0, 2), (RULES.steady_s - 1, 2), (RULES.steady_s, 1), (1e6, 1)]
)
def test_who_falls_off_soon_after_the_return_waits_longer(served_s: float, failures: int) -> None:
    machine = fallen()
    now = returned(machine, 0) + served_s
    machine.lost("serving", "again", now)
    assert machine.health["npu"].failures == failures
    assert acts(machine, now) == ["open rebuild cpu"]


def test_flapping_is_bounded() -> None:
    """A device that is well when asked and crashes a second later returns less and less often."""
    machine, now, returns = fallen(), 0.0, 0
    while now < 24 * 3600:
        now = returned(machine, now) + 1
        returns += 1
        machine.lost("serving", "it crashed", now)
        assert acts(machine, now) == ["open rebuild cpu"]
        machine.opened("rebuild", now)
        assert acts(machine, now) == ["switch rebuild"]
    assert 24 <= returns <= 40  # doubling to an hour, then about one an hour


def test_hang_is_judged_by_the_golden_sample() -> None:
    machine = serving()
    machine.ran("hang", 1)
    assert machine.wake_at() == float("-inf")
    assert acts(machine, 1) == ["probe serving"]
    machine.ran("hang", 1.1)
    assert acts(machine, 1.1) == []  # already asked
    machine.probed("serving", True, 2)
    assert machine.serving == "npu" and acts(machine, 2) == []
    machine.ran("good", 2)
    machine.ran("hang", 3)
    assert acts(machine, 3) == ["probe serving"]
    machine.probed("serving", False, 8)
    assert machine.serving is None
    assert acts(machine, 8) == ["close serving", "open rebuild cpu"]


@pytest.mark.parametrize(("how", "limit"), [("error", RULES.errors_limit), ("hang", RULES.hangs_limit)])
def test_failures_without_an_end_need_no_golden_sample(how: str, limit: int) -> None:
    machine = serving()
    for count in range(1, limit + 1):
        machine.ran(how, count)  # type: ignore[arg-type]
        asked = acts(machine, count)
        if count < limit:
            assert asked in ([], ["probe serving"])
            if asked:
                machine.probed("serving", True, count)
    assert asked == ["close serving", "open rebuild cpu"]
    assert f"{limit} batches in a row" in machine.health["npu"].reason


def test_one_answer_in_between_clears_the_count() -> None:
    machine = serving()
    for now in range(100):
        machine.ran("good" if now % RULES.errors == 4 else "error", now)
        assert acts(machine, now) == []


def test_candidate_takes_over_at_once_when_nothing_serves() -> None:
    machine = fallen()
    acts(machine, 100)
    machine.opened("candidate", 101)
    machine.lost("serving", "cpu crashed", 102)
    assert acts(machine, 102) == ["switch candidate"]
    assert machine.serving == "npu"


def test_rebuild_does_not_wait_for_a_candidate_that_is_being_opened() -> None:
    machine = fallen()
    assert acts(machine, 100) == ["open candidate npu"]
    machine.lost("serving", "cpu crashed", 101)
    assert acts(machine, 101) == ["open rebuild cpu"]
    machine.opened("candidate", 102)
    assert acts(machine, 102) == ["switch candidate"]
    machine.opened("rebuild", 103)
    assert acts(machine, 103) == ["close rebuild"]
    assert machine.serving == "npu"


def test_candidate_that_is_no_better_any_more_is_closed() -> None:
    machine = serving(["a", "b", "c"])
    for device in ("a", "b"):
        machine.lost("serving", f"{device} crashed", 0)
        acts(machine, 0)
        machine.opened("rebuild", 0)
        acts(machine, 0)
    machine.health.failed("a", "again", 0)
    assert machine.serving == "c"
    assert acts(machine, 40) == ["open candidate b"]
    machine.health["c"].failures = 9
    machine.lost("serving", "c crashed", 41)
    assert acts(machine, 41) == ["open rebuild a"]
    machine.opened("rebuild", 41)
    assert acts(machine, 41) == ["switch rebuild"]
    machine.opened("candidate", 42)
    assert acts(machine, 42) == ["close candidate"]
    assert machine.serving == "a"


def test_pauses_are_spread_and_repeat_with_the_seed() -> None:
    def pauses(seed: str) -> list[float]:
        health = Health(["npu"], RULES, seed)
        for _ in range(40):
            health.failed("npu", "no", 0)
        health.failed("npu", "no", 0, served_s=0)
        return [health["npu"].rebuild_at, health["npu"].return_at]

    assert pauses("gw1") == pauses("gw1") != pauses("gw2")
    assert all(pause <= most * (1 + SPREAD) for pause, most in zip(pauses("gw1"), (60, 3600), strict=True))
