"""The doctor on payloads: their types and sizes, expiry and the retain flag; and what must not be taken for a fault."""

import struct

import msgspec
import pytest

from penstock_gateway.mqtt import Message
from penstock_sim.doctor.seen import Limits
from penstock_sim.doctor.streams import Rules
from tests.sim.patient import EPOCH_MS, JPEG, PNG, WEBP, Patient, Story, envelope, two_streams_of_two_types

# --- content type, size, what else is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "content_type", "fault"),
    [
        (JPEG, "image/jpeg", ""),
        (JPEG, "IMAGE/JPEG; q=1", ""),
        (JPEG, "", ""),
        (PNG, "image/png", ""),
        (WEBP, "image/webp", ""),
        (b"[[1,2],[3,4]]", "application/json", ""),
        (b'[{"n":"x","v":1}]', "application/senml+json", ""),
        (b"\x01\x02", "application/x-tensor", ""),
        (b"\x82\x01\x02", "application/cbor", ""),
        (JPEG, "image/jpg", "content_type"),
        (JPEG, "application/octet-stream", "content_type"),
        (b"\x01\x02\x03", "", "content_type"),
        (JPEG, "image/png", "content_type"),
        (b"hello", "image/jpeg", "content_type"),
        (b'{"data":[1]}', "image/jpeg", "content_type"),
        (JPEG, "application/json", "content_type"),
        (PNG, "application/cbor", "content_type"),
        (b'{"data":[1]}', "application/cbor", "content_type"),
        (b"", "image/jpeg", "size"),
        (JPEG + bytes(2000), "image/jpeg", "size"),
        (b'{"data":[1', "application/json", "refused"),
        (b'{"v":2,"data":[1]}', "application/json", "refused"),
        (b'{"data":[1],"dt":"f8"}', "application/json", "refused"),
        (JPEG[:12], "image/jpeg", "refused"),
    ],
)
def test_a_payload(payload: bytes, content_type: str, fault: str) -> None:
    patient = Patient(rules=Rules(Limits(max_frame_bytes=1500)))
    patient.stream(3, payload=payload, content_type=content_type, keys=("boot", "seq"))
    assert patient.faults() == ({(fault, "cam"): 3} if fault else {})


@pytest.mark.parametrize(
    ("sh", "dt", "fault"),
    [("2x2", "f32", ""), ("4", "f32", ""), ("1x2x2", "f32", ""), ("3x2", "f32", "size"), ("4", "f64", "size"),
     ("2xtwo", "f32", "size"), ("4", "float32", "refused")],
)  # fmt: skip
def test_a_tensor_must_fill_its_shape(sh: str, dt: str, fault: str) -> None:
    patient = Patient()
    body = struct.pack("<4f", 1, 2, 3, 4)
    patient.stream(3, payload=body, content_type="application/x-tensor", user=(("sh", sh), ("dt", dt)))
    assert set(patient.faults()) == ({(fault, "cam")} if fault else set())


def test_a_picture_must_be_within_the_pixel_limit() -> None:
    patient = Patient(rules=Rules(Limits(max_pixels=16 * 24 - 1)))
    patient.stream(3)
    assert patient.faults() == {("size", "cam"): 3}
    assert "383 pixels" in patient.report().findings[0].expected


def test_what_the_route_says_counts() -> None:
    limits = Limits(profile=msgspec.structs.replace(Limits().profile, content_type="application/x-tensor"))
    patient = Patient(rules=Rules(limits))
    patient.stream(3, kind="data", payload=b"\x01\x02\x03", content_type="")
    assert patient.faults() == {}


def test_the_gateways_own_word_is_believed_where_the_doctor_saw_nothing() -> None:
    patient = Patient()
    patient.stream(10)
    for _ in range(4):
        patient.result("rejected", "decode")
    patient.result("rejected", "quota")
    patient.result("ok")
    assert patient.faults() == {("refused", "cam"): 4}
    answers = patient.report().streams["cam"].answers
    assert answers == {"rejected: decode": 4, "rejected: quota": 1, "ok": 1}


def test_a_refusal_that_the_doctor_found_is_not_told_twice() -> None:
    patient = Patient()
    patient.stream(2, payload=b"", content_type="image/jpeg")
    patient.result("rejected", "empty")
    assert patient.faults() == {("size", "cam"): 2}


# --- payload type, expiry, retained -----------------------------------------------------------------------------------


def type_changes(patient: Patient) -> None:
    patient.stream(5)
    patient.stream(5, payload=PNG, content_type="image/png")


def type_flaps(patient: Patient) -> None:
    for _ in range(3):
        patient.stream(1)
        patient.stream(1, payload=PNG, content_type="image/png")


def dtype_changes(patient: Patient) -> None:
    patient.stream(5, payload=b"\x01" * 4, content_type="application/x-tensor", user=(("dt", "u8"),))
    patient.stream(5, payload=b"\x01" * 4, content_type="application/x-tensor", user=(("dt", "f32"),))


def type_changes_with_the_boot(patient: Patient) -> None:
    patient.stream(5)
    patient.restart("b2")
    patient.stream(5, payload=PNG, content_type="image/png")


def spelt_in_two_ways(patient: Patient) -> None:
    patient.stream(3, content_type="image/jpeg")
    patient.stream(3, content_type="")
    patient.stream(3, content_type="Image/JPEG;a=b")


@pytest.mark.parametrize(
    ("story", "times"),
    [(type_changes, 1), (type_flaps, 5), (dtype_changes, 1), (type_changes_with_the_boot, 0),
     (two_streams_of_two_types, 0), (spelt_in_two_ways, 0)],
)  # fmt: skip
def test_the_payload_type_of_a_stream_stays(story: Story, times: int) -> None:
    patient = Patient()
    story(patient)
    assert patient.faults() == ({("payload_type", "cam"): times} if times else {})


def no_expiry(patient: Patient) -> None:
    patient.expiry_s = None
    patient.stream(10)


def no_expiry_on_3_1_1(patient: Patient) -> None:
    patient.v5 = False
    patient.stream(10)


def no_expiry_of_a_sensor(patient: Patient) -> None:
    patient.expiry_s = None
    patient.stream(10, stream="vib", kind="data", payload=envelope(), content_type="application/json")


def no_expiry_of_what_is_kept_until_its_receipt(patient: Patient) -> None:
    patient.expiry_s = None
    patient.stream(10)
    patient.receipt(9)


@pytest.mark.parametrize(
    ("story", "times"),
    [(no_expiry, 10), (no_expiry_on_3_1_1, 0), (no_expiry_of_a_sensor, 0), (no_expiry_of_what_is_kept_until_its_receipt, 0)],
)  # fmt: skip
def test_frames_of_a_camera_expire(story: Story, times: int) -> None:
    patient = Patient()
    story(patient)
    assert patient.faults() == ({("expiry", "cam"): times} if times else {})


def test_expiry_is_not_judged_over_3_1_1() -> None:
    patient = Patient()
    no_expiry(patient)
    assert patient.report(protocol=4).healthy
    assert any("3.1.1" in note for note in patient.report().notes)


def test_a_retained_frame_is_found_and_judged_no_further() -> None:
    patient = Patient()
    patient.send(retain=True, seq=700, ts=EPOCH_MS - 86_400_000)  # what the broker kept since yesterday
    patient.stream(20)
    assert patient.faults() == {("retained", "cam"): 1}


def test_what_is_retained_by_right_and_what_takes_a_retained_frame_away_are_no_fault() -> None:
    patient = Patient()
    patient.status("online")
    patient.receipt(3, boot="b0")
    patient.send(payload=b"", retain=True)
    patient.hear(Message(patient.topic("cam", "snapshot"), JPEG, retain=True))
    patient.stream(20)
    assert patient.faults() == {}
