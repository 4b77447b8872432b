"""The doctor's rules as stories of a device: each fault alone, and the healthy neighbours that must not be taken for it."""

import json
import struct
from collections.abc import Callable

import msgspec
import pytest

from penstock_gateway.mqtt import Message
from penstock_sim.doctor.findings import FAULTS
from penstock_sim.doctor.seen import Limits
from penstock_sim.doctor.streams import Rules
from tests.sim.patient import EPOCH_MS, JPEG, PNG, WEBP, Patient

Story = Callable[[Patient], object]
MINUTE, YEAR_S = 60.0, 31_536_000.0


def envelope(**keys: object) -> bytes:
    return json.dumps({"v": 1, "data": [1, 2], **keys}).encode()


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


def two_streams_of_two_types(patient: Patient) -> None:
    for _ in range(5):
        patient.send("cam")
        patient.send("vib", "data", envelope(), "application/json")
        patient.wait(0.2)


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


# --- the clock --------------------------------------------------------------------------------------------------------


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


# --- seq and boot -----------------------------------------------------------------------------------------------------


def lost(patient: Patient) -> None:
    patient.stream(20)
    patient.skip(frames=3)
    patient.stream(60)


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


# --- the report -------------------------------------------------------------------------------------------------------


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
