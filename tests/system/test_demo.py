"""`penstock demo` as a newcomer runs it: real broker, real gateway, real models, from any folder."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from PIL import Image

pytestmark = [pytest.mark.system, pytest.mark.slow]

WAIT_S = 50
STREAMS = {"gate/cam", "dock/cam", "aisle/cam", "pump/vib", "fan/vib", "press/vib"}
BUCKETS = ("answered", "unchanged", "superseded", "duplicate", "expired", "rejected", "failed", "dropped")


@contextmanager
def running(folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A demo with its files under `folder`, in a process group of its own, as a shell would start it."""
    command = (sys.executable, "-m", "penstock_models.main", "demo", *options)
    with subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | {"TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(what: Callable[[], bool], reason: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < deadline, reason
        time.sleep(0.02)


def read_until(process: subprocess.Popen[str], words: str) -> str:
    """The first line of standard output with these words; the test's time limit bounds the wait."""
    assert process.stdout is not None
    line = next((line for line in process.stdout if words in line), None)
    assert line is not None, f"the demo ended without {words!r}"
    return line


@pytest.mark.timeout(WAIT_S + 20)
def test_the_demo_answers_every_stream_and_closes_its_ledger(tmp_path: Path) -> None:
    with running(tmp_path, "--seconds", "4", "--json") as process:
        out, progress = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, f"{out}\n{progress}"
    assert out.count("\n") == 1
    printed = json.loads(out)
    ledger, streams = printed["ledger"], printed["streams"]
    assert set(streams) == STREAMS
    assert all(books["answered"] > 0 and books["latency_ms"]["p95"] > 0 for books in streams.values())
    assert {books["who"].split()[0] for books in streams.values()} == {"edge"}
    assert (
        ledger["received"]
        == sum(ledger[bucket] for bucket in BUCKETS)
        == sum(s["sent"] for s in streams.values())
    )
    assert (ledger["in_flight"], ledger["missing_upstream"]) == (0, 0)
    with Image.open(printed["picture"]) as picture:
        picture.verify()


@pytest.mark.timeout(WAIT_S + 20)
def test_ctrl_c_drains_and_prints_the_closing_ledger(tmp_path: Path) -> None:
    with running(tmp_path) as process:
        read_until(process, "ledger: ")
        os.killpg(process.pid, signal.SIGINT)
        rest, errors = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, errors
    assert "draining" in rest
    assert "(closed)" in rest
    assert "annotated picture: " in rest
    assert "Traceback" not in errors


@pytest.mark.timeout(WAIT_S + 20)
def test_a_killed_demo_leaves_no_process_behind(tmp_path: Path) -> None:
    with running(tmp_path) as process:
        read_until(process, "ready")
        wait_for(lambda: bool(psutil.Process(process.pid).children(recursive=True)), "no gateway was started")
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        _, alive = psutil.wait_procs(family, timeout=WAIT_S)
    assert alive == []
