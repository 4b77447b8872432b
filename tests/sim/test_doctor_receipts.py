"""The doctor on receipts and reconnects: what is not sent again, pauses that are ignored, back-off."""

import pytest

from penstock_gateway.mqtt import Message
from tests.sim.patient import Patient, Story

# --- receipts ---------------------------------------------------------------------------------------------------------


def never_sent_again(patient: Patient) -> None:
    patient.stream(10)
    patient.skip(frames=2)
    patient.stream(1)
    patient.receipt(12, [(10, 11)])
    patient.stream(50)


def sent_again(patient: Patient) -> None:
    patient.stream(10)
    missing = [patient.make(), patient.make()]
    patient.stream(5)
    patient.receipt(16, [(10, 11)])
    patient.stream(5)
    for message in missing:
        patient.arrive(message)
    patient.receipt(21)
    patient.stream(50)


def sent_again_slowly(patient: Patient) -> None:
    patient.stream(10)
    missing = [patient.make() for _ in range(60)]
    patient.stream(1)
    patient.receipt(70, [(10, 69)])
    for message in missing:
        patient.stream(1)
        patient.arrive(message)


def sends_only_some_again(patient: Patient) -> None:
    patient.stream(10)
    missing = [patient.make() for _ in range(6)]
    patient.stream(1)
    patient.receipt(16, [(10, 15)])
    for message in missing[::2]:
        patient.arrive(message)
    patient.stream(50)


def sent_again_after_an_outage(patient: Patient) -> None:
    patient.stream(10)
    missing = patient.make()
    patient.stream(2)
    patient.receipt(11, [(10, 10)])
    patient.wait(4)  # offline, and with the gap
    patient.stream(1)
    patient.arrive(missing)
    patient.stream(50)


def went_away(patient: Patient) -> None:
    """Listed, and the device is gone: nobody ignores anything."""
    patient.stream(10)
    patient.skip()
    patient.stream(1)
    patient.receipt(11, [(10, 10)])


def does_not_pause(patient: Patient) -> None:
    patient.stream(10)
    patient.receipt(9, window=0)
    patient.stream(50)


def pauses(patient: Patient) -> None:
    patient.stream(10)
    patient.receipt(9, window=0)
    patient.stream(4)  # under way
    patient.wait(20)
    patient.receipt(13, window=100)
    patient.stream(50)


def resends_while_paused(patient: Patient) -> None:
    patient.stream(10)
    missing = [patient.make() for _ in range(5)]
    patient.stream(1)
    patient.receipt(15, [(10, 14)], window=0)
    patient.wait(4)
    for message in missing:
        patient.arrive(message)
        patient.wait(0.3)
    patient.receipt(15)


def receipt_of_another_boot(patient: Patient) -> None:
    patient.receipt(100, [(5, 9)], window=0, boot="b0")
    patient.stream(50)


def gateway_has_what_we_missed(patient: Patient) -> None:
    patient.stream(10)
    patient.skip(frames=4)
    patient.stream(1)
    patient.receipt(9)
    patient.receipt(14)
    patient.stream(50)


def watched_from_a_resend_on(patient: Patient) -> None:
    """The first frame that is seen is an old one, sent again."""
    patient.receipt(499, [(10, 10)])
    patient.send(seq=10)
    for seq in range(500, 560):
        patient.send(seq=seq)
        patient.wait(0.2)


def garbage_on_the_receipt_topic(patient: Patient) -> None:
    patient.hear(Message(patient.topic("cam", "receipt"), b"{]"))
    patient.stream(20)


@pytest.mark.parametrize(
    ("story", "found"),
    [
        (never_sent_again, {("receipt", "cam"): 2}),
        (sent_again, {}),
        (sent_again_slowly, {}),
        (sends_only_some_again, {("receipt", "cam"): 3}),
        (sent_again_after_an_outage, {}),
        (went_away, {}),
        (does_not_pause, {("receipt", "cam"): 40}),
        (pauses, {}),
        (resends_while_paused, {}),
        (receipt_of_another_boot, {}),
        (gateway_has_what_we_missed, {}),
        (watched_from_a_resend_on, {}),
        (garbage_on_the_receipt_topic, {}),
    ],
)
def test_receipts(story: Story, found: dict[tuple[str, str], int]) -> None:
    patient = Patient()
    story(patient)
    assert patient.faults() == found


def test_frames_that_the_gateway_has_and_the_doctor_has_not_are_told() -> None:
    patient = Patient()
    gateway_has_what_we_missed(patient)
    assert any("4 frames reached the gateway" in note for note in patient.report().notes)


def test_what_was_sent_before_the_watch_is_no_loss() -> None:
    patient = Patient()
    watched_from_a_resend_on(patient)
    assert not any("reached the gateway" in note for note in patient.report().notes)


# --- reconnects -------------------------------------------------------------------------------------------------------


def reconnects(*waits: float, between: str = "offline") -> Story:
    def story(patient: Patient) -> None:
        patient.status("online")
        patient.stream(5)
        for wait in waits:
            patient.status(between)
            patient.wait(wait)
            patient.status("online")
            patient.wait(0.1)
        patient.stream(5)

    return story


@pytest.mark.parametrize(
    ("story", "found"),
    [
        (reconnects(*[0.05] * 8), True),
        (reconnects(*[1.0] * 12), True),
        (reconnects(*[0.05] * 6), False),  # too few to say
        (reconnects(1, 2, 4, 8, 16, 32), False),
        (reconnects(0.3, 0.1, 1.2, 0.4, 4.0, 6.1, 0.3, 11.0), False),  # full jitter
        (reconnects(*[30.0] * 10), False),
        (reconnects(*[0.05, 0.05, 0.05, 20.0] * 6), False),  # each stable for a while
        (reconnects(*[1.0] * 20, between="online"), False),  # a sign of life every second
    ],
)
def test_reconnects_from_the_status_topic(story: Story, found: bool) -> None:
    patient = Patient()
    story(patient)
    assert (("backoff", "") in patient.faults()) is found
    assert len(patient.faults()) == found
    assert patient.report().reconnects == "status topic"


def test_the_brokers_log_is_the_better_witness() -> None:
    patient = Patient(log=True)
    reconnects(*[0.05] * 8)(patient)
    patient.exam.connections([1000.0, 1030.0], 1000.0)
    assert patient.faults() == {}
    assert patient.report().reconnects == "broker log"


def test_connections_of_the_brokers_log_are_judged() -> None:
    patient = Patient(log=True)
    patient.stream(20)
    patient.exam.connections([1000.0 + n // 3 for n in range(12)], 1000.0)
    assert set(patient.faults()) == {("backoff", "")}
