"""Who notices a vetting child: nobody beside it, before it, or after it, and it goes with its parent."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from penstock_models.children import environment
from penstock_models.executor import ThreadExecutor
from penstock_models.vetting.verdict import Limits, Reason
from penstock_models.vetting.vet import vet, vet_blocking
from tests.models import vetted_files
from tests.models.loaded import floats, output
from tests.models.vetting_children import (
    PATIENT,
    QUICK,
    busy_child,
    children,
    first_child,
    until,
)


def working_folder(process: psutil.Process) -> list[Path]:
    return list(Path(f"/proc/{process.pid}/cwd/").iterdir())


async def test_a_child_steps_back(tmp_path: Path) -> None:
    """Lowest priority, and among the processes of its parent's session: in one of its own it would count for nothing."""
    path = vetted_files.bundle(tmp_path, vetted_files.endless())
    task = asyncio.create_task(vet(path, limits=PATIENT))
    child = await busy_child()
    assert child.nice() == 19
    assert child.ionice().ioclass == psutil.IOPRIO_CLASS_IDLE
    assert os.getsid(child.pid) == os.getsid(0)
    assert os.getpgid(child.pid) == child.pid
    assert working_folder(child) == []
    task.cancel()
    await asyncio.wait([task])


@pytest.fixture
async def neighbour(tmp_path: Path) -> AsyncIterator[Callable[[float], "asyncio.Future[float]"]]:
    """A model that serves in this process: doubles what it is given."""
    executor = ThreadExecutor(1)
    info = await executor.load(str(vetted_files.bundle(tmp_path / "n", vetted_files.doubler(), name="n")))

    async def ask(value: float) -> float:
        (outcome,) = await executor.run(info.digest, [floats(value)], 5)
        return float(output(outcome)[0])

    yield lambda value: asyncio.ensure_future(ask(value))
    await executor.close()


@pytest.mark.parametrize(
    ("data", "reason"),
    [(vetted_files.huge(), "memory"), (vetted_files.endless(nested=True), "endless")],
    ids=["huge constant", "nested loops"],
)
async def test_a_neighbour_keeps_its_answers(
    tmp_path: Path, neighbour: Callable[[float], "asyncio.Future[float]"], data: bytes, reason: Reason
) -> None:
    path = vetted_files.bundle(tmp_path, data)
    task = asyncio.create_task(vet(path, limits=QUICK))
    asked = 0
    while not task.done():
        asked += 1
        assert await neighbour(float(asked)) == 2.0 * asked
        await asyncio.sleep(0.005)
    assert task.result().reason == reason
    assert asked > 20


async def test_one_child_at_a_time(tmp_path: Path) -> None:
    paths = [vetted_files.bundle(tmp_path, vetted_files.doubler(), name=f"m{n}") for n in range(3)]
    most = 0
    tasks = [asyncio.create_task(vet(path)) for path in paths]
    while not all(task.done() for task in tasks):
        most = max(most, len(children()))
        await asyncio.sleep(0.01)
    assert all(task.result().ok for task in tasks)
    assert len({task.result().digest for task in tasks}) == 3
    assert most == 1


async def test_cancelling_ends_the_child_or_its_turn(tmp_path: Path) -> None:
    path = vetted_files.bundle(tmp_path, vetted_files.endless())
    running = asyncio.create_task(vet(path, limits=PATIENT))
    waiting = asyncio.create_task(vet(path, limits=PATIENT))
    child = await first_child()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not psutil.pid_exists(child.pid)
    assert (await vet(vetted_files.bundle(tmp_path, vetted_files.doubler()))).ok  # the next one's turn came


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_a_child_goes_with_its_parent(tmp_path: Path, sent: signal.Signals) -> None:
    path = vetted_files.bundle(tmp_path, vetted_files.endless())
    code = (
        "import signal, sys; from penstock_models.vetting.vet import vet_blocking\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore it
        "vet_blocking(sys.argv[1])"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stderr=subprocess.DEVNULL) as parent:
        until(lambda: bool(children(parent.pid)))
        (child,) = children(parent.pid)
        try:
            parent.send_signal(sent)
            until(lambda: not child.is_running())
            parent.wait(10)
        finally:
            parent.kill()


def test_an_interrupt_while_the_turn_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(ThreadPoolExecutor):
        def submit(self, *work: Any, **named: Any) -> Any:
            super().submit(*work, **named)
            raise KeyboardInterrupt

    path = vetted_files.bundle(tmp_path, vetted_files.endless())
    began = time.monotonic()
    with Interrupted(1) as turns:
        monkeypatch.setattr("penstock_models.vetting.vet._turns", turns)
        with pytest.raises(KeyboardInterrupt):
            vet_blocking(path, limits=PATIENT)
    assert children() == [] and time.monotonic() - began < 20  # of the 50 that it may take


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    open_files = len(list(Path("/proc/self/fd").iterdir()))
    for data, limits in ((vetted_files.doubler(), QUICK), (vetted_files.endless(), Limits(wall_s=0.3))):
        vet_blocking(vetted_files.bundle(tmp_path, data), limits=limits)
    assert list((tmp_path / "tmp").iterdir()) == []
    assert len(list(Path("/proc/self/fd").iterdir())) == open_files


def test_the_environment_stays_outside() -> None:
    outer = {
        "AWS_SECRET": "x",
        "PATH": "/bin",
        "CUDA_VISIBLE_DEVICES": "0",
        "PYTHONPATH": "models",
        "LANG": "de",
    }
    inner = environment(outer)
    assert {"PATH", "CUDA_VISIBLE_DEVICES"} <= inner.keys()
    assert not {"AWS_SECRET", "LANG"} & inner.keys()
    assert all(Path(place).is_absolute() for place in inner["PYTHONPATH"].split(os.pathsep))
