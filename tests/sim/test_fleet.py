"""Virtual devices against a real broker: who they are, what they do when it goes away, what a refusal says."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest

from penstock_models.errors import PenstockError, UsageError
from penstock_sim.run.words import closing_lines
from tests.fakes.broker import mosquitto
from tests.fakes.sim_runs import Watcher, run, scenario

DEVICES = """
name = "fleet"
[target]
url = "{url}"
{more}
[[device]]
name = "old"
count = 3
protocol = "3.1.1"
qos = 1
[[device.stream]]
source = {{ kind = "vibration", encoding = "json", windows = 2 }}
rate_hz = 10
[[device]]
name = "new"
count = 3
[[device.stream]]
source = {{ kind = "bytes", size = 100 }}
rate_hz = 10
[[device.stream]]
name = "slow"
source = {{ kind = "temperature" }}
rate_hz = 2
[[phase]]
kind = "steady"
seconds = {seconds}
"""

NAMES = [f"{mix}-{number:04d}" for mix in ("old", "new") for number in range(3)]
ACL = "pattern readwrite penstock/v1/home/dev/%u/#\n"


@pytest.fixture
def passwords(tmp_path: Path) -> str:
    """Lines of a Mosquitto that knows each device and lets it speak for itself alone; beside it the devices' file."""
    (tmp_path / "devices").write_text("".join(f"{name} secret of {name}\n" for name in NAMES))
    file = tmp_path / "passwd"
    file.touch(mode=0o600)
    for name in NAMES:
        command = ["mosquitto_passwd", "-b", str(file), name, f"secret of {name}"]
        subprocess.run(command, check=True, capture_output=True)
    (tmp_path / "acl").write_text(ACL)
    return f"password_file {file}\nacl_file {tmp_path / 'acl'}\nallow_anonymous false\n"


@pytest.fixture
def certificates(tmp_path: Path) -> str:
    """Lines for TLS with an authority of our own; its certificate is ca.pem."""
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2", "-nodes"]
    files = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "ca.pem")]
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    subprocess.run([*command, *files, *subject], check=True, capture_output=True)
    return f"certfile {tmp_path / 'ca.pem'}\nkeyfile {tmp_path / 'key.pem'}\n"


async def test_each_device_is_itself_over_tls(passwords: str, certificates: str, tmp_path: Path) -> None:
    async with mosquitto(certificates + passwords, folder=tmp_path) as broker:
        more = 'credentials = "devices"\nca = "ca.pem"'
        url = f"mqtts://127.0.0.1:{broker.port}"
        loaded = scenario(tmp_path, DEVICES.format(url=url, more=more, seconds=2))
        summary = await run(loaded, tmp_path / "run")
    assert summary.lost_connections == {}
    assert set(summary.streams) == {f"{name}/cam" for name in NAMES} | {f"new-{n:04d}/slow" for n in range(3)}
    assert summary.streams["old-0000/cam"].sent == pytest.approx(20, abs=1)
    assert summary.streams["new-0000/slow"].sent == pytest.approx(4, abs=1)
    assert "one-sided" in summary.notes[0]
    assert summary.ok


async def test_what_the_broker_does_not_take_is_counted(passwords: str, tmp_path: Path) -> None:
    (tmp_path / "acl").write_text("pattern read penstock/v1/home/dev/%u/#\n")
    async with mosquitto(passwords, folder=tmp_path) as broker:
        text = DEVICES.format(url=broker.url, more='credentials = "devices"', seconds=1)
        text = text.replace('protocol = "3.1.1"', "")  # which has no word for it
        summary = await run(scenario(tmp_path, text), tmp_path / "run")
    sent = sum(books.sent for name, books in summary.streams.items() if name.startswith("old"))
    assert summary.figures[""]["refused"] == sent > 0
    assert any(
        line.startswith(f"REFUSED: the broker took {sent} messages") for line in closing_lines(summary)
    )


async def test_wrong_credentials_are_one_clear_line(passwords: str, tmp_path: Path) -> None:
    (tmp_path / "devices").write_text("".join(f"{name} wrong\n" for name in NAMES))
    async with mosquitto(passwords, folder=tmp_path) as broker:
        text = DEVICES.format(url=broker.url, more='credentials = "devices"', seconds=2)
        with pytest.raises(
            PenstockError, match=r"expected an MQTT broker at .*: refused: .*(authorized|password)"
        ):
            await run(scenario(tmp_path, text), tmp_path / "run")


async def test_a_device_without_a_password_is_named(tmp_path: Path) -> None:
    (tmp_path / "devices").write_text("old-0000 a\n")
    text = DEVICES.format(url="mqtt://127.0.0.1:1", more='credentials = "devices"', seconds=2)
    with pytest.raises(UsageError, match="expected a line `old-0001 PASSWORD` in devices"):
        await run(scenario(tmp_path, text), tmp_path / "run")


async def test_a_missing_broker_is_one_clear_line(tmp_path: Path) -> None:
    text = DEVICES.format(url="mqtt://127.0.0.1:1", more="", seconds=2)
    with pytest.raises(
        PenstockError, match=r"^expected an MQTT broker at 127.0.0.1:1: nobody listens there$"
    ):
        await run(scenario(tmp_path, text), tmp_path / "run")


async def test_devices_come_back_after_the_broker_and_send_nothing_old(tmp_path: Path) -> None:
    async with mosquitto(folder=tmp_path) as broker:

        class Restarts(Watcher):
            def row(self, row: object, of_s: float) -> None:
                super().row(row, of_s)  # type: ignore[arg-type]
                if len(self.rows) == 2:
                    self.restart = asyncio.ensure_future(asyncio.to_thread(broker.restart))

        view = Restarts()
        loaded = scenario(tmp_path, DEVICES.format(url=broker.url, more="", seconds=8))
        summary = await run(loaded, tmp_path / "run", view)
        await view.restart
    assert sum(summary.lost_connections.values()) >= len(NAMES)
    assert view.rows[1].connected == view.rows[7].connected == len(NAMES)
    last = view.rows[7]
    assert all(mix.sent > 0 for mix in last.mixes.values())
    planned = 8 * (3 * 10 + 3 * 12)
    sent, unsent = summary.figures[""]["sent"], sum(summary.unsent.values())
    assert sent is not None and sent + unsent == pytest.approx(planned, abs=6)
