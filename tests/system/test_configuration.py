"""What a user sees who made a mistake: one line that names the place, and exit code 2; nothing was subscribed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.fakes.broker import mosquitto
from tests.fakes.gateway import gateway
from tests.fakes.gateway_site import config, route

pytestmark = pytest.mark.system

GOOD = """\
site = "home"
gateway = "gw1"
[http]
listen = "127.0.0.1:0"
[mqtt]
url = "mqtt://127.0.0.1:1"
[models]
path = "bundles"
[[route]]
topic = "cameras/{device}/jpeg"
model = "colours"
"""


@dataclass(frozen=True)
class Mistake:
    """`text` in place of `of` in the good file; the line that is said must match `says`."""

    of: str
    text: str
    says: str
    environment: Mapping[str, str] = field(default_factory=dict)


MISTAKES = {
    "an unknown key": Mistake(
        'model = "colours"', 'model = "colours"\nmodell = 1', r":12: .*modell.*`model`"
    ),
    "an unknown table": Mistake("[models]", "[modles]", r":7: .*modles"),
    "a missing key": Mistake('site = "home"\n', "", r"`site` is missing"),
    "a word for a number": Mistake(
        'model = "colours"', 'model = "colours"\ndeadline_ms = "soon"', r":12: .*deadline_ms.*integer"
    ),
    "a wait without end": Mistake(
        'model = "colours"', 'model = "colours"\ndeadline_ms = 999999999', r":12: .*deadline_ms"
    ),
    "a mode that is none": Mistake(
        'model = "colours"', 'model = "colours"\nmode = "some"', r":12: .*mode.*every.*latest"
    ),
    "a bad name": Mistake('"home"', '"my home"', r":1: site: "),
    "a bad address": Mistake("mqtt://127.0.0.1:1", "http://127.0.0.1:1", r":6: mqtt\.url: .*mqtt://"),
    "a bad port": Mistake('"127.0.0.1:0"', '"127.0.0.1:99999"', r":4: http\.listen: "),
    "an open door": Mistake('"127.0.0.1:0"', '"0.0.0.0:8600"', r":4: http\.listen: .*token_file"),
    "a file that is not there": Mistake(
        'url = "mqtt://127.0.0.1:1"',
        'url = "mqtts://127.0.0.1:1"\nca = "ca.pem"',
        r":7: mqtt\.ca: .*ca\.pem",
    ),
    "a store that is not there": Mistake('"bundles"', '"bundels"', r":8: models\.path: .*bundels"),
    "a filter that is none": Mistake(
        '"cameras/{device}/jpeg"', '"cameras/a+/jpeg"', r":10: .*topic.*whole level"
    ),
    "a loop": Mistake(
        '"cameras/{device}/jpeg"',
        '"penstock/v1/home/dev/+/+/+"',
        r":10: .*topic.*result would become a frame",
    ),
    "two routes for one topic": Mistake(
        'model = "colours"',
        'model = "colours"\n[[route]]\ntopic = "cameras/#"\nmodel = "colours"',
        r":13: .*:10\)",
    ),
    "no route": Mistake(
        '[[route]]\ntopic = "cameras/{device}/jpeg"\nmodel = "colours"\n', "", r"route: .*at least one"
    ),
    "no TOML": Mistake('model = "colours"', 'model = "colours', r":11\b"),
    "a bad variable": Mistake("", "", r"PENSTOCK_THREADS: threads: .*many", {"PENSTOCK_THREADS": "many"}),
    "a variable of nothing": Mistake("", "", r"PENSTOCK_MQTT__URI", {"PENSTOCK_MQTT__URI": "x"}),
    "a model that is not there": Mistake('"colours"', '"coulours"', r"coulours"),
    "a version that is not there": Mistake('"colours"', '"colours:7"', r"colours.*7"),
}


def run(folder: Path, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """`penstock gateway run` in a folder with a gateway.toml, which it is expected to end on its own."""
    command = [sys.executable, "-m", "penstock_models.main", "gateway", "run", "-c", "gateway.toml"]
    environ = {**os.environ, **(environment or {})}
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=30)


def errors(stderr: str) -> list[str]:
    """What was said to a person: not the structured log."""
    return [line for line in stderr.splitlines() if line and not line.startswith(("{", "INFO:"))]


@pytest.fixture(scope="module")
def said(store: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, list[str]]]:
    """The exit code and the lines of every mistake; they run beside each other."""

    def make(name: str) -> tuple[int, list[str]]:
        mistake = MISTAKES[name]
        folder = tmp_path_factory.mktemp("mistake")
        (folder / "bundles").symlink_to(store)
        assert not mistake.of or mistake.of in GOOD
        (folder / "gateway.toml").write_text(
            GOOD.replace(mistake.of, mistake.text, 1) if mistake.of else GOOD
        )
        done = run(folder, mistake.environment)
        return done.returncode, errors(done.stderr)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(MISTAKES, pool.map(make, MISTAKES)))


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_in_one_line(said: Mapping[str, tuple[int, list[str]]], name: str) -> None:
    code, lines = said[name]
    assert code == 2
    assert len(lines) == 1, lines
    assert re.search(MISTAKES[name].says, lines[0]), lines[0]


def test_an_empty_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "bundles").mkdir()
    (tmp_path / "gateway.toml").write_text(GOOD)
    done = run(tmp_path)
    assert done.returncode == 2
    (line,) = errors(done.stderr)
    assert "bundles" in line and "colours" in line


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 2
    (line,) = errors(done.stderr)
    assert "gateway.toml" in line


def test_a_port_in_use_is_named(store: Path, tmp_path: Path) -> None:
    with mosquitto() as broker:
        text = config(broker.url, store, route("colours"))
        (tmp_path / "one").mkdir()
        (tmp_path / "two").mkdir()
        with gateway(text, tmp_path / "one") as first:
            first.wait_ready()
            (tmp_path / "two" / "gateway.toml").write_text(
                f'{text}\n[http]\nlisten = "127.0.0.1:{first.port}"\n'
            )
            done = run(tmp_path / "two")
            assert done.returncode == 2
            (line,) = errors(done.stderr)
            assert str(first.port) in line and "in use" in line
            assert first.get("/readyz")[0] == 200
