"""Devices whose engine is built first: behind another device, tried again, alone."""

from penstock_models.devices.builds import Progress, progress
from penstock_models.devices.health import SPREAD
from penstock_models.devices.supervision import Supervision
from tests.models.supervision_words import RULES, acts, serving


def phase(machine: Supervision, now: float) -> Progress:
    return progress(machine, "trt", now, expected_s=500, made_bytes=12_300)


def test_engine_is_built_behind_another_device_and_switched_to_when_ready() -> None:
    machine = Supervision(["trt", "cpu"], slow=["trt"])
    assert phase(machine, 0).phase == "none"
    assert acts(machine, 0) == ["open rebuild cpu"]
    machine.opened("rebuild", 1)
    assert acts(machine, 1) == ["switch rebuild", "open candidate trt"]
    assert phase(machine, 96) == Progress("trt", "building", 95, 500, 12_300)
    text = machine.degraded("person", 0)
    assert text == "person: on cpu instead of trt since 1970-01-01T00:00:01Z: trt: its engine is being built"
    assert acts(machine, 400) == [] and machine.wake_at() is None
    machine.opened("candidate", 500)
    assert phase(machine, 500) == Progress("trt", "ready")
    assert acts(machine, 500) == ["switch candidate"]
    assert phase(machine, 501) == Progress("trt", "serving") and machine.degraded("person", 0) == ""


def test_failed_build_says_when_it_is_tried_again() -> None:
    machine = serving(["trt", "cpu"], slow=["trt"])
    machine.failed("candidate", "out of memory", 60)
    failed = phase(machine, 60)
    assert failed == Progress("trt", "failed", retry_s=failed.retry_s, reason="out of memory")
    assert abs(failed.retry_s / RULES.return_s - 1) <= SPREAD
    assert acts(machine, 60 + failed.retry_s - 0.1) == []
    assert acts(machine, 60 + failed.retry_s) == ["open candidate trt"]
    assert phase(machine, 60 + failed.retry_s).phase == "building"


def test_engine_is_also_built_while_the_quick_devices_fail() -> None:
    machine = Supervision(["trt", "cpu"], slow=["trt"])
    assert acts(machine, 0) == ["open rebuild cpu"]
    machine.failed("rebuild", "no", 0)
    assert acts(machine, 0) == ["open rebuild cpu", "open candidate trt"]
    machine.failed("rebuild", "no", 1)
    assert acts(machine, 1) == []
    assert acts(machine, 3) == ["open rebuild cpu"]
    machine.opened("candidate", 100)
    assert acts(machine, 100) == ["switch candidate"]


def test_only_slow_devices_are_built_one_after_the_other() -> None:
    machine = Supervision(["trt"], slow=["trt"])
    assert acts(machine, 0) == ["open rebuild trt"]
    assert phase(machine, 7) == Progress("trt", "building", 7, 500, 12_300)
    machine.opened("rebuild", 100)
    assert acts(machine, 100) == ["switch rebuild"]
