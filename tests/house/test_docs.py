"""What the documentation says is executed: its commands run, its configurations load, its links lead somewhere.

The blocks of one page run in order, in one shell, in a copy of the checkout, and two pages side by side, as most of
their time goes by in waiting. The ports that the pages name are replaced by free ones, so that a broker on this machine
is left alone.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from penstock_gateway import config
from penstock_sim import scenario
from tests.conftest import ROOT, realdata_path
from tests.house import docs

PAGES = docs.files()
RUN = [page for page in PAGES if any(b.run and b.language in ("sh", "python") for b in docs.blocks(page))]
LANGUAGES = {"sh", "toml", "python", "c", "json", "text", "console-norun"}
LEFT_OUT = shutil.ignore_patterns(".git", ".venv*", "build", "dist", "state", "__pycache__", ".*_cache")
PAGE_S = 120

# What a reader would have at hand, by the names that the pages use.
FROM_THE_KIT = {
    "yolox_nano.onnx": "models/yolox_nano.onnx",
    "face.onnx": "models/version-RFB-320.onnx",
    "net.onnx": "models/light_resnet50.onnx",
    "coco80.txt": "labels/coco80_classes.txt",
    "street.jpg": "images/pets.jpg",
}


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


each_page = pytest.mark.parametrize("page", PAGES, ids=_name)


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in docs.links(page):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        there = page.parent / name if name else page
        assert there.exists(), f"{target}: no such file"
        assert not anchor or anchor in docs.anchors(there), f"{target}: no such heading"


@each_page
def test_every_block_says_what_it_is(page: Path) -> None:
    for block in docs.blocks(page):
        assert block.language in LANGUAGES, (
            f"{block.where}: {block.language!r} is none of {sorted(LANGUAGES)}"
        )


@each_page
def test_make_targets_that_are_named_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    named = set(re.findall(r"(?:`|^)make ([a-z-]+)", page.read_text(), flags=re.M))
    assert named <= targets


@each_page
def test_data_in_blocks_parses(page: Path, tmp_path: Path) -> None:
    for block in docs.blocks(page):
        if block.language == "json" and block.run:
            json.loads(block.body)
        if block.language == "toml" and block.run:
            _check_toml(block, tmp_path)


def _check_toml(block: docs.Block, folder: Path) -> None:
    """A whole gateway configuration or scenario must load; any other table must at least be TOML."""
    table = tomllib.loads(block.body)
    if {"name", "device", "phase"} <= table.keys():
        path = folder / "scenario.toml"
        path.write_text(block.body)
        scenario.read(path)
    if {"site", "gateway", "mqtt"} <= table.keys():
        for key in ("password_file", "ca", "cert", "key"):
            if name := table["mqtt"].get(key):
                (folder / name).write_text("x")
        (folder / table["models"]["path"]).mkdir(parents=True, exist_ok=True)
        path = folder / "gateway.toml"
        path.write_text(block.body)
        config.load(path, {})


@pytest.fixture(scope="module")
def runs(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    free_port: Callable[[], int],
) -> Iterator[dict[Path, Future[tuple[int, str]]]]:
    """The chosen pages of `test_commands_run`, all under way: exit status, and what was printed."""
    names = {item.name for item in request.session.items}
    chosen = [page for page in RUN if f"test_commands_run[{_name(page)}]" in names]
    with ThreadPoolExecutor(2) as pool:
        folders = [tmp_path_factory.mktemp("page") for _ in chosen]
        yield {page: pool.submit(_run_page, page, folder, free_port) for page, folder in zip(chosen, folders)}


@pytest.mark.slow
@pytest.mark.system
@pytest.mark.timeout(PAGE_S + 30)
@pytest.mark.parametrize("page", RUN, ids=_name)
def test_commands_run(page: Path, runs: dict[Path, Future[tuple[int, str]]]) -> None:
    done, out = runs[page].result()
    assert done == 0, out


def _run_page(page: Path, home: Path, free_port: Callable[[], int]) -> tuple[int, str]:
    folder = home / "checkout"
    shutil.copytree(ROOT, folder, ignore=LEFT_OUT, symlinks=True)
    _lay_out(folder)
    ports = {"1883": str(free_port()), "8600": str(free_port())}
    script = _moved("\n".join(_shell(block) for block in docs.blocks(page) if block.run), ports)
    return _run_to_the_end(script, folder, _environment(home, ports))


def _lay_out(folder: Path) -> None:
    """Put the reader's own files into the folder: a photo, and what the kit has."""
    cv2.imwrite(str(folder / "photo.jpg"), np.full((480, 640, 3), 120, np.uint8))
    if kit := realdata_path():
        for name, source in FROM_THE_KIT.items():
            (folder / name).symlink_to((kit / source).resolve())


def _shell(block: docs.Block) -> str:
    """Return what the shell does for a block; each is announced, so that a failure shows where it was."""
    announced = f"echo '--- {block.where}'\n"
    if block.language == "sh":
        # What was started in the background has a reader's moment to come up.
        moment = "sleep 1\n" if block.body.endswith("&\n") else ""
        return f"{announced}{block.body}{moment}"
    if block.language == "python":
        return f"{announced}python - <<'END_OF_BLOCK'\n{block.body}END_OF_BLOCK\n"
    if block.file:
        return f"{announced}cat > {block.file} <<'END_OF_BLOCK'\n{block.body}END_OF_BLOCK\n"
    return ""


def _moved(text: str, ports: dict[str, str]) -> str:
    return re.sub(r"\b(1883|8600)\b", lambda match: ports[match[1]], text)


def _environment(folder: Path, ports: dict[str, str]) -> dict[str, str]:
    """The reader's environment: penstock on the PATH, and the Mosquitto clients' default port where 1883 went."""
    clients = folder / "clients"
    clients.mkdir()
    for name in ("mosquitto_pub", "mosquitto_sub"):
        (clients / name).write_text(f"-p {ports['1883']}\n")
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin",
        "XDG_CONFIG_HOME": str(clients),
        "PENSTOCK_MQTT__LISTEN": f"127.0.0.1:{ports['1883']}",
        "PENSTOCK_HTTP__LISTEN": f"127.0.0.1:{ports['8600']}",
    }


def _run_to_the_end(script: str, folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Run a script, then end whatever it left running, and return its exit status and what was printed."""
    log = folder.parent / "log"
    with log.open("wb") as out:
        shell = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = shell.wait(PAGE_S)
        except subprocess.TimeoutExpired:
            status = 124
        finally:
            _end_group(shell.pid)
            shell.wait()
    return status, log.read_text(errors="replace")


def _end_group(pid: int) -> None:
    for end in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(pid, end)
        except ProcessLookupError:
            return


def test_the_index_of_decisions_is_whole() -> None:
    folder = ROOT / "docs" / "decisions"
    numbered = {path.name for path in folder.glob("[0-9]*.md")}
    assert set(docs.links(folder / "README.md")) == numbered
