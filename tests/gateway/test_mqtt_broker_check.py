"""What CONNACK shows, as warnings: a table. The probes are in tests/system."""

import pytest

from penstock_gateway.broker_check import Needs, warnings
from penstock_gateway.mqtt import Granted

NEEDS = Needs(max_frame_bytes=8 << 20, session_expiry_s=3600)
GOOD = Granted(
    protocol=5, session_present=False, receive_maximum=1000, maximum_qos=2, maximum_packet_size=16 << 20,
    session_expiry_s=3600,
)  # fmt: skip


def granted(**changes: object) -> Granted:
    return Granted(**{**{f: getattr(GOOD, f) for f in GOOD.__struct_fields__}, **changes})


@pytest.mark.parametrize(
    ("given", "needs", "names"),
    [
        (GOOD, NEEDS, []),
        (granted(maximum_packet_size=None, receive_maximum=None, maximum_qos=None), NEEDS, []),
        (granted(session_expiry_s=60), NEEDS, ["session_expiry_lowered"]),
        (granted(session_expiry_s=0), Needs(max_frame_bytes=1), []),
        (GOOD, Needs(max_frame_bytes=1, session_expiry_s=60, session_expected=True), ["session_not_kept"]),
        (
            granted(session_present=True),
            Needs(max_frame_bytes=1, session_expiry_s=60, session_expected=True),
            [],
        ),
        (GOOD, Needs(max_frame_bytes=1, session_expected=True), []),
        (granted(maximum_qos=0), NEEDS, ["qos_capped"]),
        (granted(maximum_qos=0), Needs(max_frame_bytes=1, qos=0), []),
        (granted(maximum_qos=1), NEEDS, []),
        (granted(maximum_packet_size=(8 << 20) + 65_535), NEEDS, ["packet_size_small"]),
        (granted(maximum_packet_size=(8 << 20) + 65_536), NEEDS, []),
        (granted(receive_maximum=9), NEEDS, ["receive_maximum_small"]),
        (granted(receive_maximum=20), NEEDS, []),
        (granted(refused=("a/#", "b")), NEEDS, ["subscription_refused"]),
        (Granted(protocol=4, session_present=False), NEEDS, ["limits_unknown"]),
        (
            granted(session_expiry_s=0, maximum_qos=0, maximum_packet_size=1024, receive_maximum=1),
            NEEDS,
            ["session_expiry_lowered", "qos_capped", "packet_size_small", "receive_maximum_small"],
        ),
    ],
)
def test_what_is_granted_too_little(given: Granted, needs: Needs, names: list[str]) -> None:
    found = warnings(given, needs)
    assert [warning.partition(":")[0] for warning in found] == names
    assert all(len(warning.partition(": ")[2]) > 20 for warning in found)


def test_a_warning_says_the_figures() -> None:
    (warning,) = warnings(granted(session_expiry_s=60), NEEDS)
    assert "60 s" in warning and "3600 s" in warning
