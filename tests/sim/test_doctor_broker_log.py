"""Connections of a device in Mosquitto's log, as 2.0 writes it."""

from pathlib import Path

import pytest

from penstock_models.errors import UsageError
from penstock_sim.doctor.broker_log import BrokerLog, connections

LOG = """\
1700000000: mosquitto version 2.0.11 starting
1700000001: New connection from 10.0.0.7:41234 on port 1883.
1700000001: New client connected from 10.0.0.7:41234 as door-cam (p5, c1, k30, u'door').
1700000002: Client door-cam closed its connection.
1700000003: New client connected from 10.0.0.7:41236 as esp32-4f (p2, c1, k60, u'door').
1700000004: New client connected from 10.0.0.8:41236 as indoor-7 (p2, c1, k60).
1700000005: New client connected from 10.0.0.8:41237 as doors (p2, c1, k60, u'yard').
1700000006: Client door disconnected, not authorised.
1700000007: Socket error on client door, disconnecting.
1700000008: New client connected from fe80::1:41237 as yard/door (p2, c1, k60).
"""


def test_a_device_is_known_by_its_user_or_by_a_word_of_its_id() -> None:
    assert connections(LOG, "door") == [1700000001, 1700000003, 1700000006, 1700000008]


def test_a_client_id_is_exact() -> None:
    assert connections(LOG, "door", "indoor-7") == [1700000004]


@pytest.mark.parametrize(
    ("time", "epoch_s"),
    [
        ("2023-11-14T22:13:21Z", 1700000001),
        ("2023-11-14T22:13:21+0000", 1700000001),
        ("1700000001", 1700000001),
    ],
)
def test_times_as_mosquitto_writes_them(time: str, epoch_s: float) -> None:
    line = f"{time}: New client connected from 10.0.0.7:41234 as door (p5, c1, k30).\n"
    assert connections(line, "door") == [epoch_s]


@pytest.mark.parametrize("text", ["", "\n\n", "not a log", "17: New client", "2023-99-99T99:99:99: New client connected from a as door (p5, c1, k30)."])  # fmt: skip
def test_other_lines_say_nothing(text: str) -> None:
    assert connections(text, "door") == []


def test_what_was_written_since_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mosquitto.log"
    path.write_text("old\n")
    log = BrokerLog(path)
    with path.open("a") as file:
        file.write("new\n")
    assert log.read() == "new\n"
    path.write_text("rot\n"[:3])
    assert log.read() == "rot"


def test_a_missing_log_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected the broker's log at .*: No such file"):
        BrokerLog(tmp_path / "none")
