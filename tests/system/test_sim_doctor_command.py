"""`penstock sim doctor` as its user calls it: what it prints, how it ends, bad input."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from penstock_models.main import main
from tests.fakes.broker import Broker, mosquitto
from tests.fakes.doctor_devices import (
    LOGGING,
    WAIT_S,
    Device,
    Story,
    boot,
    live,
)

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with mosquitto(LOGGING) as broker:
        yield broker


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "penstock_models.main", "sim", *arguments)
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def beating(broker: Broker, story: Story, name: str) -> ExitStack:
    """A device that lives until the stack is closed."""
    stack, over = ExitStack(), threading.Event()
    device = Device(broker.host, broker.port, name)
    stack.callback(device.close)
    life = threading.Thread(target=live, args=([(story, device)], over))
    life.start()
    stack.callback(life.join)
    stack.callback(over.set)
    return stack


def test_a_clean_bill_is_exit_0_and_one_json_object(broker: Broker) -> None:
    with beating(broker, lambda device, n: device.send(n), "well"):
        done = run("doctor", "well", "--seconds", "2", "--url", broker.url, "--json")
    report: dict[str, Any] = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert report["v"] == 1 and report["healthy"] and report["findings"] == []


def test_findings_are_exit_1_and_tables(broker: Broker) -> None:
    with beating(broker, boot, "ill"):
        done = run("doctor", "ill", "--seconds", "2", "--url", broker.url)
    assert done.returncode == 1, done.stderr
    assert "ill: 1 error in" in done.stdout.splitlines()[-1]
    assert "a boot id beside seq" in done.stdout


def test_an_interrupt_ends_the_watch_with_what_was_seen(broker: Broker) -> None:
    command = (
        sys.executable,
        "-m",
        "penstock_models.main",
        "sim",
        "doctor",
        "cut",
        "--seconds",
        "60",
        "--url",
        broker.url,
    )
    before = broker.log.count("Sending SUBACK to penstock-doctor")
    with (
        beating(broker, lambda device, n: device.send(n), "cut"),
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process,
    ):
        deadline = time.monotonic() + WAIT_S
        while broker.log.count("Sending SUBACK to penstock-doctor") < before + 2:
            assert time.monotonic() < deadline, "it does not subscribe"
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode in (0, 1) and out.splitlines()[-1].startswith("cut: "), out


def test_a_device_that_is_not_there_is_exit_1(broker: Broker) -> None:
    done = run("doctor", "nobody", "--seconds", "1", "--url", broker.url)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "nobody: nothing heard in 1 s at site home"


def test_a_broker_that_refuses_is_one_line(tmp_path: Path) -> None:
    passwords = tmp_path / "passwords"
    passwords.touch()
    with mosquitto(f"allow_anonymous false\npassword_file {passwords}") as broker:
        secret = tmp_path / "secret"
        secret.write_text("wrong")
        done = run("doctor", "door", "--url", broker.url, "--username", "me", "--password-file", str(secret))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1 and "not authorized (0x87)" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("door", "--url", "mqtt://127.0.0.1:1"), 1, "expected an MQTT broker at 127.0.0.1:1"),
        (("door", "--url", "http://box"), 2, 'expected "mqtt://HOST:PORT"'),
        (("door", "--url", "embedded"), 2, "expected the URL of a broker"),
        (("a/b",), 2, "expected the name of a device"),
        (("door", "--filter", "penstock/#"), 2, "overlaps"),
        (("door", "--broker-log", "/none"), 2, "expected the broker's log at /none"),
        (("door", "--content-type", "image/jpg"), 2, "--content-type: expected one of"),
        (("door", "--password-file", "/none"), 2, "expected --username"),
        (("door", "--client-id", "x"), 2, "expected --broker-log"),
        (("door", "--ca", "/none", "--url", "mqtts://127.0.0.1:1"), 2, "expected the CA certificates"),
        ((), 2, "Missing argument"),
    ],
)
def test_bad_input_is_one_line(
    arguments: tuple[str, ...], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sim", "doctor", *arguments]) == code
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and words in err, err
