"""The doctor on a device's clock: skew and jumps, and what only looks like them."""

import pytest

from tests.sim.patient import EPOCH_MS, Patient, Story

YEAR_S = 31_536_000.0


def skewed(by_s: float, every_s: float = 0.2, frames: int = 60) -> Story:
    def story(patient: Patient) -> None:
        patient.clock_s = by_s
        patient.stream(frames, every_s)

    return story


def never_set(patient: Patient) -> None:
    patient.clock_s = -EPOCH_MS / 1000
    patient.stream(3)


def stepped(by_s: float, **how: object) -> Story:
    def story(patient: Patient) -> None:
        patient.stream(50, **how)  # type: ignore[arg-type]
        patient.clock_s += by_s
        patient.stream(50, **how)  # type: ignore[arg-type]

    return story


def put_right(patient: Patient) -> None:
    """A clock that is slow by a minute is set; the skew before is a fault of its own, with another bound here."""
    patient.clock_s = -3.0
    stepped(3.0)(patient)


def jittery_network(patient: Patient) -> None:
    for number in range(100):
        patient.lag_s = (0.01, 0.9, 3.0, 0.3)[number % 4]
        patient.stream(1)


def late_from_a_backlog(patient: Patient, every_s: float = 0.5, **how: object) -> None:
    """An outage of 40 s: what was captured meanwhile comes at once, in order, then life goes on."""
    patient.stream(20, every_s, **how)  # type: ignore[arg-type]
    kept = []
    for _ in range(int(40 / every_s)):
        kept.append(patient.make("cam", **how))  # type: ignore[arg-type]
        patient.wait(every_s)
    for message in kept:
        patient.at += 0.001
        patient.hear(message)
    patient.stream(20, every_s, **how)  # type: ignore[arg-type]


def slow_backlog(patient: Patient) -> None:
    late_from_a_backlog(patient, every_s=8.0)


def unnumbered_backlog(patient: Patient) -> None:
    late_from_a_backlog(patient, keys=("ts",))


def live_among_a_backlog(patient: Patient) -> None:
    patient.stream(20)
    kept = []
    for _ in range(100):
        kept.append(patient.make())
        patient.wait(0.2)
    for message in kept:  # one old, one live
        patient.send()
        patient.arrive(message)
        patient.wait(0.2)


def old_frame_again(keys: tuple[str, ...]) -> Story:
    def story(patient: Patient) -> None:
        old = patient.make(keys=keys)
        patient.arrive(old)
        patient.wait(20)
        patient.stream(30, keys=keys)
        patient.arrive(old)
        patient.stream(30, keys=keys)

    return story


def reboot_with_another_clock(patient: Patient) -> None:
    patient.clock_s = 3.0
    patient.stream(30)
    patient.restart("b2")
    patient.clock_s = -3.0
    patient.stream(30)


def long_windows(patient: Patient) -> None:
    """`ts` of a window's first sample: it is as old as the window is long."""
    patient.clock_s = -60.0
    patient.stream(10, every_s=60.0)


@pytest.mark.parametrize(
    ("story", "fault"),
    [
        (skewed(0.0), ""),
        (skewed(4.5), ""),
        (skewed(-4.5), ""),
        (skewed(30.0), "clock_skew"),
        (skewed(-30.0), "clock_skew"),
        (skewed(3600.0, frames=1), "clock_skew"),
        (skewed(-86_400.0, every_s=1.0), "clock_skew"),
        (never_set, "clock_skew"),
        (stepped(4.0), ""),
        (stepped(-4.0), ""),
        (stepped(30.0), "clock_jump"),
        (stepped(-30.0), "clock_jump"),
        (stepped(-30.0, keys=("ts",)), "clock_jump"),
        (stepped(30.0, keys=("ts",)), "clock_jump"),
        (stepped(YEAR_S, every_s=2.0), "clock_jump"),
        (put_right, ""),
        (jittery_network, ""),
        (late_from_a_backlog, ""),
        (slow_backlog, ""),
        (unnumbered_backlog, ""),
        (live_among_a_backlog, ""),
        (old_frame_again(("boot", "seq", "ts")), ""),
        (old_frame_again(("ts",)), ""),
        (reboot_with_another_clock, ""),
        (long_windows, ""),
    ],
)
def test_a_clock(story: Story, fault: str) -> None:
    patient = Patient()
    story(patient)
    assert {name for name, _ in patient.faults()} == ({fault} if fault else set())


def test_a_clock_that_is_set_while_frames_are_sent_has_both_faults() -> None:
    patient = Patient()
    patient.clock_s = -60.0
    patient.stream(50)
    patient.clock_s = 0.0
    patient.stream(50)
    assert set(patient.faults()) == {("clock_jump", "cam")}  # the skew that it ended is part of it
    assert "+60" in patient.report().findings[0].came


def test_two_jumps_are_counted() -> None:
    patient = Patient()
    patient.stream(20)
    patient.clock_s = 100.0
    patient.stream(20)
    patient.clock_s = 0.0
    patient.stream(20)
    assert patient.faults() == {("clock_jump", "cam"): 2}
