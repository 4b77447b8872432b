"""Versions come and go under a running gateway: a new one takes over, a bad one does not, labels move on SIGHUP."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import slow_builder
from tests.fakes.gateway_site import Site, device_route, site
from tests.models.test_serving import put

pytestmark = pytest.mark.system

TENSOR = "application/json"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Return a store of one model in one version."""
    folder = tmp_path / "own"
    folder.mkdir()
    put(folder, 1, 1.0)
    return folder


@pytest.fixture
def home(own: Path, tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path, own, device_route("m", "door", kind="data")) as made:
        yield made


def asked(home: Site, stream: str = "door/vib") -> dict[str, Any]:
    return home.ask(stream, b"[1, 2]", "data", content_type=TENSOR)


def versions(home: Site) -> dict[int, dict[str, Any]]:
    return {model["version"]: model for model in home.page()["models"]}


def wait(home: Site, condition: Callable[[], bool], what: str) -> None:
    home.gateway.wait_for(condition, what, timeout_s=30.0)


def test_a_new_version_takes_over_and_each_answer_says_whose_it_is(home: Site, own: Path) -> None:
    first = asked(home)
    assert (first["status"], first["model"]["version"]) == ("ok", 1)
    put(own, 2, 2.0)
    seen = set()
    wait(home, lambda: seen.add(asked(home)["model"]["version"]) or 2 in seen, "version 2 has not answered")  # type: ignore[func-returns-value]
    wait(home, lambda: versions(home).get(1, {}).get("state") != "available", "version 1 has not gone")
    books = home.check_books()
    assert books["failed"] == books["rejected"] == books["expired"] == 0
    assert asked(home)["model"]["version"] == 2 and home.gateway.get("/readyz")[0] == 200
    page = home.gateway.get("/metrics")[1].decode()
    assert 'penstock_model_available{model="m",version="2"} 1.0' in page
    assert 'penstock_model_resident_bytes{model="m",version="2"}' in page


def test_a_bad_version_is_named_and_the_old_one_serves(home: Site, own: Path) -> None:
    put(own, 2, 2.0, right=False)
    wait(home, lambda: versions(home).get(2, {}).get("state") == "failed", "version 2 has not failed")
    bad = versions(home)[2]
    assert bad["reason"] == "golden" and "golden" in bad["error"]
    assert asked(home)["model"]["version"] == 1 and home.gateway.status()["state"] == "online"


def test_a_label_moves_with_the_configuration(own: Path, tmp_path: Path) -> None:
    put(own, 2, 2.0)
    model = '[[model]]\nname = "m"\npolicy = "all"\nlabels = {{ stable = {} }}\n'
    route = device_route("m@stable", "door", kind="data")
    with site(tmp_path, own, route, more=model.format(1)) as home:
        assert asked(home)["model"]["version"] == 1
        wait(home, lambda: versions(home)[2]["state"] == "available", "version 2 does not serve")
        label(home, 1, 2)
        wait(home, lambda: asked(home)["model"]["version"] == 2, "the label has not moved")
        label(home, 2, 3)  # nobody has loaded that
        wait(home, lambda: home.gateway.log.count("configuration reloaded") == 2, "it was not read again")
        assert asked(home)["model"]["version"] == 2
        assert [v["version"] for v in versions(home).values() if "stable" in v["labels"]] == [2]


def label(home: Site, before: int, version: int) -> None:
    """Write the configuration anew with the label elsewhere, and have it read."""
    text = home.gateway.config.read_text()
    home.gateway.config.write_text(text.replace(f"stable = {before}", f"stable = {version}"))
    os.kill(home.gateway.pid, signal.SIGHUP)


def test_a_process_that_dies_is_replaced_and_the_gateway_stays(own: Path, tmp_path: Path) -> None:
    model = '[[model]]\nname = "m"\nisolation = "process"\n'
    with site(tmp_path, own, device_route("m", "door", kind="data", deadline_ms=10_000), more=model) as home:
        assert asked(home)["status"] == "ok"
        pid, (child,) = home.gateway.pid, children(home.gateway.pid)
        os.kill(child, signal.SIGSEGV)
        wait(home, lambda: children(pid) not in ([], [child]), "no process took its place")
        assert asked(home)["status"] == "ok" and home.gateway.pid == pid


def test_an_engine_is_built_behind_the_cpu_and_the_page_says_how_far(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", slow_builder.python_path())
    engines = tmp_path / "state" / "engines"
    model = '[[model]]\nname = "m"\ndevices = ["tensorrt", "cpu"]\n'
    with site(tmp_path, own, device_route("m", "door", kind="data"), more=model) as home:
        wait(home, lambda: build(home)["made_bytes"] > 0, "shows no build")
        assert build(home)["phase"] == "building" and build(home)["elapsed_s"] > 0
        page = home.gateway.get("/metrics")[1].decode()
        assert 'penstock_engine_build_seconds{device="tensorrt",model="m",version="1"} ' in page
        assert asked(home)["placement"] == "onnxruntime:cpu" and home.gateway.status()["state"] == "degraded"
        slow_builder.go_on(engines)
        wait(home, lambda: build(home)["phase"] == "serving", "has not switched to the engine")
        assert asked(home)["placement"] == "onnxruntime:tensorrt"
        assert home.gateway.status()["state"] == "online"
    assert [line.split()[0] for line in slow_builder.builds(engines)] == ["began", "ended"]


def build(home: Site) -> dict[str, Any]:
    (found,) = versions(home)[1]["builds"]
    shown: dict[str, Any] = found
    return shown


def children(pid: int) -> list[int]:
    """The processes of versions that a gateway started."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            if b"isolation" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(int(child))
    return found
