"""The doctor on `seq` and `boot`: gaps, lost frames, restarts, and what only looks like them."""

import pytest

from tests.sim.patient import PNG, Patient, Story, envelope, lost


def lost_everywhere(patient: Patient) -> None:
    for _ in range(40):
        patient.stream(2)
        patient.skip()
    patient.stream(60)


def counted_over_two_streams(patient: Patient) -> None:
    for number in range(40):
        patient.send("cam" if number % 2 else "yard", seq=number)
        patient.wait(0.2)
    patient.wait(10)


def a_huge_gap(patient: Patient) -> None:
    patient.stream(20)
    patient.send(seq=2**53 - 1)
    patient.wait(10)


def resent_in_time(patient: Patient) -> None:
    patient.stream(20)
    late = patient.make()
    patient.stream(20)
    patient.arrive(late)
    patient.stream(40)


def out_of_order(patient: Patient) -> None:
    for _ in range(30):
        one, two = patient.make(), patient.make()
        patient.arrive(two)
        patient.arrive(one)
        patient.wait(0.2)


def delivered_twice(patient: Patient) -> None:
    for _ in range(30):
        message = patient.send()
        patient.arrive(message)
        patient.wait(0.2)


def began_in_the_middle(patient: Patient) -> None:
    for number in range(30):
        patient.send(seq=100_000 + number)
        patient.wait(0.2)


def rebooted(patient: Patient) -> None:
    patient.stream(30)
    patient.restart("b2")
    patient.stream(30)


def gap_at_the_end(patient: Patient) -> None:
    patient.stream(20)
    patient.skip()
    patient.stream(5)


def unnumbered(patient: Patient) -> None:
    patient.stream(20, keys=("ts",))


def no_boot(patient: Patient) -> None:
    patient.stream(20, keys=("seq", "ts"))


def no_boot_in_the_envelope(patient: Patient) -> None:
    patient.v5 = False
    for number in range(20):
        patient.send("cam", "data", envelope(seq=number, ts=patient.now()), "application/json")
        patient.wait(0.2)


def boot_stays_over_a_restart(patient: Patient) -> None:
    patient.stream(20)
    patient.restart("b1")
    patient.stream(20, payload=PNG, content_type="image/jpeg")


def boot_changes_with_each_frame(patient: Patient) -> None:
    for number in range(12):
        patient.boot = f"b{number}"
        patient.stream(1)


def kept_over_a_restart(patient: Patient) -> None:
    """What an earlier start had kept is sent among the live frames, as far as it had no receipt."""
    for number in range(30):
        patient.stream(1)
        if number % 3 == 1:
            patient.send(boot="b0", seq=100 + 7 * number)
    patient.wait(30)


def delivered_again_after_a_restart(patient: Patient) -> None:
    patient.stream(10)
    last = patient.send()
    patient.restart("b2")
    patient.stream(3)
    patient.arrive(last)
    patient.skip()
    patient.stream(60)


@pytest.mark.parametrize(
    ("story", "found"),
    [
        (kept_over_a_restart, {}),
        (delivered_again_after_a_restart, {("seq_gap", "cam"): 1}),
        (lost, {("seq_gap", "cam"): 3}),
        (lost_everywhere, {("seq_gap", "cam"): 40}),
        (counted_over_two_streams, {("seq_gap", "cam"): 19, ("seq_gap", "yard"): 19}),
        (a_huge_gap, {("seq_gap", "cam"): 2**53 - 1 - 20}),
        (resent_in_time, {}),
        (out_of_order, {}),
        (delivered_twice, {}),
        (began_in_the_middle, {}),
        (rebooted, {}),
        (gap_at_the_end, {}),
        (unnumbered, {}),
        (no_boot, {("boot", "cam"): 20}),
        (no_boot_in_the_envelope, {("boot", "cam"): 20}),
        (boot_changes_with_each_frame, {("boot", "cam"): 9}),
    ],
)
def test_numbers(story: Story, found: dict[tuple[str, str], int]) -> None:
    patient = Patient()
    story(patient)
    assert patient.faults() == found


def test_a_boot_that_stays_over_a_restart_makes_duplicates_of_new_frames() -> None:
    patient = Patient()
    boot_stays_over_a_restart(patient)
    assert patient.faults()["boot", "cam"] == 20


@pytest.mark.parametrize(
    ("story", "words"),
    [
        (unnumbered, "cam (20)"),
        (gap_at_the_end, "1 numbers were missing"),
        (lost, "reconnects were not seen"),
    ],
)
def test_what_could_not_be_judged_is_said(story: Story, words: str) -> None:
    patient = Patient()
    story(patient)
    assert any(words in note for note in patient.report().notes)
