"""The devices of device-sim/README.md in MicroPython and C, run against a real broker and gateway that are killed.

The Python one is run with the page. MicroPython is taken where its Unix port is installed, else CPython runs the same
text; `umqtt.simple` is a stand-in for both (`tests/fakes/small_umqtt`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.fakes.gateway_site import ROOMY, Site, device_route, site
from tests.house import docs

pytestmark = pytest.mark.system

DEMO = ROOT / "models" / "penstock_models" / "demo"
ROUTE = device_route("vibration", "pump", "data", mode="every", deadline_ms=20_000, dtype="u8")
README = ROOT / "device-sim" / "README.md"
UMQTT = ROOT / "tests" / "fakes" / "small_umqtt"
DATA = "penstock/v1/home/dev/pump/vib/data"
BEFORE = 20


def example(name: str) -> str:
    return next(block.body for block in docs.blocks(README) if block.file == name)


def micropython() -> str | None:
    return shutil.which("micropython", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")


@pytest.mark.parametrize("interpreter", ["micropython", "cpython"])
def test_the_micropython_device(interpreter: str, tmp_path: Path) -> None:
    found = micropython() if interpreter == "micropython" else sys.executable
    if found is None:
        pytest.skip("no `micropython` on the PATH: its Unix port is not installed")
    with site(tmp_path, DEMO, ROUTE, broker_config=ROOMY, ears=(DATA,)) as home:
        script = tmp_path / "pump.py"
        script.write_text(example("pump.py").replace("1883", str(home.broker.port)))
        paths = {"PYTHONPATH": str(UMQTT), "MICROPYPATH": f"{UMQTT}:.frozen"}
        with running([found, str(script)], tmp_path, paths) as device:
            check_nothing_is_lost(home, device)


def test_the_c_device(tmp_path: Path) -> None:
    if shutil.which("cc") is None or not Path("/usr/include/mosquitto.h").exists():
        pytest.skip("no C compiler with libmosquitto-dev")
    source, program = tmp_path / "pump.c", tmp_path / "pump"
    source.write_text(example("pump.c"))
    command = [
        "cc",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-O1",
        "-g",
        "-fsanitize=address,undefined",
        "-o",
        str(program),
    ]
    done = subprocess.run([*command, str(source), "-lmosquitto"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with (
        site(tmp_path, DEMO, ROUTE, broker_config=ROOMY, ears=(DATA,)) as home,
        running([str(program), home.broker.host, str(home.broker.port)], tmp_path, {}) as device,
    ):
        check_nothing_is_lost(home, device)


@contextmanager
def running(command: list[str], folder: Path, more: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / "device.log").open("wb") as log:
        process = subprocess.Popen(command, env={**os.environ, **more}, stdout=log, stderr=log)
        try:
            yield process
            assert process.poll() is None, (folder / "device.log").read_text()
        finally:
            process.kill()
            process.wait()


def check_nothing_is_lost(home: Site, device: subprocess.Popen[bytes]) -> None:
    """What the broker acknowledged and queued while the gateway was away is gone with it: the device has it still."""
    answered(home, BEFORE)
    home.gateway.kill()
    queued = sent(home) + 20
    home.ear.wait(lambda: sent(home) >= queued, "20 more windows")
    home.broker.kill()
    home.ear.wait_lost()
    home.broker.start()
    home.gateway.start()
    home.gateway.wait_ready()
    home.ear.wait_connected()
    home.ear.wait(lambda: whole(home) > queued + 20, "a receipt for all of it")
    told = whole(home)
    books = all_books(home)
    assert sum(book["missing_upstream"] for book in books) == 0
    assert sum(book["rejected"] + book["failed"] + book["dropped"] for book in books) == 0
    assert sum(book["answered"] + book["in_flight"] for book in books) > told  # counted from 0
    assert device.poll() is None


def sent(home: Site) -> int:
    return len(home.ear.heard("data"))


def whole(home: Site) -> int:
    """Up to which number the last receipt that lists nothing as missing goes."""
    told = [heard.body for heard in home.ear.heard("receipt")]
    return max((receipt["through"] for receipt in told if not receipt["missing"]), default=-1)


def all_books(home: Site) -> list[dict[str, Any]]:
    """The ledgers of all starts of the gateway."""
    page = home.page()
    return [*(start["ledger"] for start in page["starts"]), page["ledger"]]


def answered(home: Site, count: int) -> None:
    """Wait until so many frames were answered over all starts of the gateway."""

    def enough() -> bool:
        code, _ = home.gateway.get("/readyz")
        if not code:
            return False
        return bool(sum(book["answered"] for book in all_books(home)) >= count)

    home.gateway.wait_for(enough, f"has not answered {count}")
