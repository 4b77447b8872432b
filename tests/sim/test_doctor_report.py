"""What the doctor reports: a clean bill, each finding once, and its own limits."""

import msgspec

from penstock_gateway.mqtt import Message
from penstock_sim.doctor.findings import FAULTS
from tests.sim.patient import Patient, lost, two_streams_of_two_types


def test_a_clean_bill() -> None:
    patient = Patient()
    two_streams_of_two_types(patient)
    report = patient.report()
    assert report.healthy and report.heard and report.frames == 10 and len(report.streams) == 2


def test_nothing_heard_is_no_clean_bill() -> None:
    patient = Patient()
    patient.status("offline")
    patient.wait(30)
    report = patient.report()
    assert not report.healthy and not report.heard and not report.findings
    assert "its status says 'offline'" in report.notes


def test_a_finding_is_told_once_with_its_first_example() -> None:
    patient = Patient()
    patient.stream(5)
    patient.stream(300, content_type="image/jpg")
    (finding,) = patient.report().findings
    assert (finding.count, finding.example.seq, finding.example.at_s) == (300, 5, 1.02)
    assert finding.example.topic == patient.topic("cam", "frame")
    assert finding.cure == FAULTS["content_type"].cure


def test_the_state_is_bounded() -> None:
    patient = Patient()
    for number in range(200):
        patient.send(f"s{number}", content_type="image/jpg")
    report = patient.report()
    assert len(report.streams) == len(report.findings) == 64
    assert any("more than 64 streams: 136 messages" in note for note in report.notes)


def test_what_a_device_says_does_not_reach_the_terminal() -> None:
    patient = Patient()
    patient.stream(2, content_type="\x1b[31mimage/jpg\n" + "x" * 1000)
    told = msgspec.json.encode(patient.report()).decode()
    assert "\\u001b[" not in told and len(told) < 3000


def test_drops_of_the_broker_are_told() -> None:
    patient = Patient()
    for count in (b"5", b"5", b"9"):
        patient.hear(Message("$SYS/broker/publish/messages/dropped", count))
    lost(patient)
    assert any("the broker dropped 4 messages" in note for note in patient.report().notes)
