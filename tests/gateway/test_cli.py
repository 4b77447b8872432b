"""`penstock gateway`: its options, its help, and the signals that end a run in order."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from penstock_models.main import main
from tests.conftest import ROOT
from tests.fakes.broker import mosquitto
from tests.fakes.gateway import gateway

CONFIG = """\
site = "home"
gateway = "gw1"
[mqtt]
url = "{url}"
[models]
path = "{models}"
[[route]]
topic = "penstock/v1/home/dev/{{device}}/{{stream}}/data"
model = "vibration"
"""


@pytest.mark.system
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_the_gateway(tmp_path: Path, number: signal.Signals) -> None:
    with mosquitto() as broker:
        text = CONFIG.format(url=broker.url, models=ROOT / "models" / "penstock_models" / "demo")
        with gateway(text, tmp_path) as gw:
            gw.wait_ready()
            assert gw.stop(number) == 0


def test_a_log_level_that_does_not_exist_is_refused_with_the_choices(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["gateway", "run", "-c", "gateway.toml", "--log-level", "loud"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert [word for word in ("loud", "debug", "info", "warning", "error") if word not in said] == []


def test_a_log_level_may_be_written_large(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "penstock_models.main", "gateway", "run", "-c", "none.toml")
    done = subprocess.run(
        [*command, "--log-level", "DEBUG"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 2
    assert "none.toml" in done.stderr and "log-level" not in done.stderr


@pytest.mark.parametrize("words", [[], ["run"], ["check"]])
def test_help_has_an_example(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gateway", *words, "--help"]) == 0
    example = " ".join(["  penstock gateway", *words])
    assert example in capsys.readouterr().out.partition("Example:\n")[2]
