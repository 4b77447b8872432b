"""`gateway check`: what it prints, for people and for machines, and its exit status."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from penstock_gateway.check import foreign_topics
from penstock_gateway.cli import app
from penstock_gateway.mqtt import Message
from penstock_models.errors import UsageError
from tests.conftest import ROOT
from tests.fakes.gateway_core import core, route

DEMO = ROOT / "models" / "penstock_models" / "demo"
CONFIG = """\
site = "home"
gateway = "gw1"
[mqtt]
url = "{url}"
[models]
path = "bundles"
[[route]]
topic = "penstock/v1/home/dev/{{device}}/{{stream}}/data"
model = "{model}"
mode = "every"
[[route]]
topic = "cams/door"
device = "door"
model = "vibration"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "bundles").mkdir()
    shutil.copy(DEMO / "vibration-1.bundle", tmp_path / "bundles")
    return write(tmp_path)


def write(folder: Path, model: str = "vibration", url: str = "embedded") -> Path:
    path = folder / "gateway.toml"
    path.write_text(CONFIG.format(model=model, url=url))
    return path


def check(config: Path, *options: str) -> tuple[int, str]:
    found = CliRunner().invoke(app, ["check", "-c", str(config), *options], catch_exceptions=False)
    return found.exit_code, found.output


def test_a_configuration_that_is_ready(config: Path) -> None:
    code, text = check(config)
    assert code == 0 and text.endswith("ready to run\n")
    assert "gateway = gw1    (" in text and "route[0].queue = 10000    (default)" in text
    assert "route 0: penstock/v1/home/dev/+/+/data → vibration:1 (sha256:" in text
    assert "full at 10000 frames or 67108864 bytes: wait" in text
    assert "frames of door / 1; full at one frame a stream: the newest replaces it" in text


def test_a_model_that_is_not_there_is_a_problem(tmp_path: Path, config: Path) -> None:
    code, text = check(write(tmp_path, "nobody"))
    assert code == 1 and text.endswith("not ready to run\n")
    assert "problem: no model 'nobody' in " in text and "vibration:1" in text


def test_a_deadline_that_no_frame_can_meet_is_named(tmp_path: Path, config: Path) -> None:
    shutil.copy(DEMO / "yard-1.bundle", tmp_path / "bundles")
    path = write(tmp_path, "yard")
    path.write_text(path.read_text().replace('mode = "every"', 'mode = "every"\ndeadline_ms = 1'))
    code, text = check(path)
    assert code == 0 and re.search(r"warning: route 0: deadline_infeasible: 1 ms < p95 [1-9]\d* ms", text)


def test_for_machines(tmp_path: Path, config: Path) -> None:
    code, text = check(config, "--json")
    report = json.loads(text)
    assert code == 0 and report["problems"] == report["warnings"] == report["broker"] == []
    assert [r["mode"] for r in report["routes"]] == ["every", "latest"]
    code, text = check(write(tmp_path, "nobody"), "--json")
    assert code == 1 and len(json.loads(text)["problems"]) == 1


def test_a_file_that_cannot_be_read_is_a_usage_error(config: Path) -> None:
    config.write_text(config.read_text().replace("gateway =", "gatway ="))
    with pytest.raises(UsageError, match="gatway"):
        check(config)


def test_the_embedded_broker_is_not_asked(config: Path) -> None:
    code, text = check(config, "--broker")
    assert code == 0 and "broker: embedded: started with the gateway" in text


def test_a_broker_that_is_not_there_is_a_problem(tmp_path: Path, config: Path) -> None:
    code, text = check(write(tmp_path, url="mqtt://127.0.0.1:1"), "--broker")
    assert code == 1 and "problem: broker: no connection to 127.0.0.1:1" in text


async def test_a_running_gateway_counts_a_foreign_probe_and_makes_no_stream_of_it(tmp_path: Path) -> None:
    routes = (
        route(),
        route("latest", "cams/{device}/+/{stream}/#"),
        route("latest", "cams/door", device="door"),
    )
    async with core(tmp_path, *routes) as gw:
        topics = foreign_topics(gw.gateway._config)
        assert list(topics.values()) == [
            "penstock/v1/home/dev/{device}/{stream}/data",
            "cams/{device}/+/{stream}/#",
            "penstock/v1/home/dev/{device}/status",
        ]
        gw.frames.bring([Message(topic, b"mark", qos=1, ack=1) for topic in topics])
        assert gw.ledger.fates == {("rejected", "topic"): 2}
        page = gw.gateway._views.status(None)
        assert page is not None and page.streams == {} and not gw.results.outbox


def test_a_bare_model_folder_is_opened_as_a_gateway_opens_it(tmp_path: Path, config: Path) -> None:
    folder = tmp_path / "bundles" / "bare" / "3"
    folder.mkdir(parents=True)
    shutil.unpack_archive(DEMO / "vibration-1.bundle", tmp_path / "unpacked", "tar")
    shutil.copy(tmp_path / "unpacked" / "model.onnx", folder / "model.onnx")
    code, text = check(write(tmp_path, "bare"))
    assert code == 0 and "→ bare:3 (sha256:" in text
