"""A version on threads of this process, as a host; and what loading it is given: the last place, and a measured size."""

import asyncio
import ctypes
import os
import platform
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from penstock_models import background
from penstock_models.background import bring_forward, step_back, threads
from penstock_models.errors import BundleError, UsageError
from penstock_models.executor import MAX_STUCK, ThreadExecutor
from penstock_models.hosts import Host
from penstock_models.isolation.thread_host import ThreadHost
from penstock_models.items import Item, Outcome
from penstock_models.resident import proportional_bytes
from penstock_models.servable import Servable
from tests.models import vetted_files
from tests.models.alone import alone
from tests.models.hosted import FOREVER, until, written
from tests.models.loaded import bundle, fates, floats, integers, looper, output, scaler
from tests.models.onnx_files import model, tensor, weight

IOPRIO_GET = {"x86_64": 252, "aarch64": 31, "riscv64": 31}


@pytest.fixture
async def executor() -> AsyncIterator[ThreadExecutor]:
    made = ThreadExecutor(2)
    yield made
    await made.close()


async def test_it_is_a_host(executor: ThreadExecutor, tmp_path: Path) -> None:
    host = await ThreadHost.open(executor, written(bundle(scaler()), tmp_path))
    seam: Host = host
    outcomes = await seam.run([floats(1, 2), floats(3)], 1.0)
    assert fates(outcomes) == ["ok", "rejected: shape"] and await seam.probe()
    running = seam.run([floats(1, 2)], 1.0)
    await seam.close()
    await seam.close()
    assert fates(await running) == ["ok"] and not seam.lost.done()
    assert fates(await seam.run([floats(1, 2)] * 2, 1.0)) == ["failed: not_ready"] * 2
    assert not await seam.probe()


async def test_two_hosts_share_an_executor_and_one_may_go(executor: ThreadExecutor, tmp_path: Path) -> None:
    one = await ThreadHost.open(executor, written(bundle(scaler()), tmp_path / "a"))
    other = await ThreadHost.open(executor, written(bundle(looper()), tmp_path / "b"))
    await one.close()
    assert output((await other.run([integers(3)], 5.0))[0]) == [3]
    await executor.close()
    assert fates(await other.run([integers(3)], 5.0)) == ["failed: not_ready"]


async def test_another_digest_than_expected_is_refused(executor: ThreadExecutor, tmp_path: Path) -> None:
    path = written(bundle(scaler()), tmp_path)
    with pytest.raises(BundleError, match=r"made-1\.bundle: has digest sha256:\w+, expected sha256:0;"):
        await ThreadHost.open(executor, path, expected_digest="sha256:0")
    digest = bundle(scaler()).digest
    host = await ThreadHost.open(executor, path, expected_digest=digest)
    assert host.info.digest == digest


async def test_one_digest_is_loaded_once_at_a_time(executor: ThreadExecutor, tmp_path: Path) -> None:
    """A second one would take the runs of the first, and take it along when it goes."""
    path = written(bundle(scaler()), tmp_path)
    host = await ThreadHost.open(executor, path)
    with pytest.raises(UsageError, match="is loaded already"):
        await ThreadHost.open(executor, path)
    assert fates(await host.run([floats(1, 2)], 1.0)) == ["ok"]
    await host.close()
    await (await ThreadHost.open(executor, path)).close()


async def test_a_cancelled_close_goes_on(
    executor: ThreadExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = await ThreadHost.open(executor, written(bundle(looper()), tmp_path))
    freed = threading.Event()
    monkeypatch.setattr(executor._servables[host.info.digest], "close", freed.set)
    running = host.run([integers(FOREVER)], 0.2)
    close = asyncio.create_task(host.close())
    await asyncio.sleep(0)
    close.cancel()
    await asyncio.wait([close])
    assert fates(await running) == ["failed: model_timeout"]
    await until(freed.is_set)


async def test_a_load_that_does_not_come_back_stands_before_no_other(
    executor: ThreadExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock_models.executor.GRACE_S", 0.02)
    free = threading.Event()
    real = Servable.open_checked
    monkeypatch.setattr(Servable, "open_checked", lambda *_, **__: free.wait(20) and real(*_, **__))
    hanging = asyncio.create_task(ThreadHost.open(executor, written(bundle(looper()), tmp_path / "a")))
    await asyncio.sleep(0.05)
    hanging.cancel()
    await asyncio.wait([hanging])
    monkeypatch.setattr(Servable, "open_checked", real)
    async with asyncio.timeout(5):
        host = await ThreadHost.open(executor, written(bundle(scaler()), tmp_path / "b"))
    assert fates(await host.run([floats(1, 2)], 1.0)) == ["ok"]
    free.set()


async def test_a_probe_needs_no_disk(executor: ThreadExecutor, tmp_path: Path) -> None:
    """What becomes of the file after the load is no fault of the version that serves."""
    path = vetted_files.bundle(tmp_path, vetted_files.doubler(), golden=2.0)
    host = await ThreadHost.open(executor, str(path))
    path.write_bytes(b"replaced in place")
    assert await host.probe()


async def test_missing_bundle_is_the_executor_s_error(executor: ThreadExecutor, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no bundle at"):
        await ThreadHost.open(executor, str(tmp_path / "none"))


async def test_runs_that_do_not_come_back_are_its_end(
    executor: ThreadExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that cannot be ended, as LiteRT's, until it is let go."""
    monkeypatch.setattr("penstock_models.executor.GRACE_S", 0.02)
    host = await ThreadHost.open(executor, written(bundle(scaler()), tmp_path))
    free = threading.Event()

    def stuck(items: list[Item]) -> list[Outcome]:
        free.wait(20)
        return []

    servable: Any = executor._servables[host.info.digest]
    monkeypatch.setattr(servable, "run", stuck)
    for turn in range(MAX_STUCK):
        assert not host.lost.done(), turn
        assert fates(await host.run([floats(1, 2)], 0.02)) == ["failed: model_timeout"]
    assert await asyncio.wait_for(host.lost, 5) == f"{MAX_STUCK} of its runs do not come back"
    free.set()


def large_table() -> bytes:
    """y = table[x], of 40 MB."""
    nodes = [helper.make_node("Gather", ["table", "x"], ["y"])]
    ends = [tensor("x", ["n", 1], TensorProto.INT64)], [tensor("y", ["n", 1])]
    return bytes(model(nodes, *ends, [weight("table", np.ones(10_000_000))]).SerializeToString())


async def test_what_a_version_takes_is_measured_where_it_is_loaded(
    executor: ThreadExecutor, tmp_path: Path
) -> None:
    path = await asyncio.to_thread(lambda: written(bundle(large_table()), tmp_path))
    host = await ThreadHost.open(executor, path)
    assert 35e6 < host.resident_bytes < 150e6
    assert output((await host.run([integers(7)], 5.0))[0]) == [1]
    await host.close()
    assert executor.resident_bytes(host.info.digest) == 0


def test_resident_bytes_of_a_process() -> None:
    alone(
        """
import mmap, os
from penstock_models.resident import own_resident_bytes, proportional_bytes
before = own_resident_bytes()
with mmap.mmap(-1, 64 * 1024**2) as held:  # not from the heap, which may have room left
    held.write(b"x" * len(held))
    assert 40e6 < own_resident_bytes() - before < 140e6
assert own_resident_bytes() < before + 40e6
assert 0 < proportional_bytes(os.getpid()) <= own_resident_bytes() * 1.1
"""
    )
    with pytest.raises(OSError):
        proportional_bytes(2**30)


def test_pages_of_files_are_no_anonymous_bytes(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(64 * 1024**2))
    alone(
        f"""
import mmap
from penstock_models.resident import own_anonymous_bytes, own_resident_bytes
with open({str(file)!r}, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
    resident, anonymous = own_resident_bytes(), own_anonymous_bytes()
    assert not any(mapped[:: mmap.PAGESIZE])
    assert own_resident_bytes() - resident > 40e6
    assert abs(own_anonymous_bytes() - anonymous) < 20e6
"""
    )


def in_a_thread(act: Callable[[], object]) -> object:
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(act()))
    thread.start()
    thread.join()
    return found[0]


def standing() -> tuple[int, int]:
    """Nice value and I/O class of the calling thread."""
    number = IOPRIO_GET[platform.machine()]
    return (
        os.getpriority(os.PRIO_PROCESS, threading.get_native_id()),
        ctypes.CDLL(None).syscall(number, 1, 0) >> 13,
    )


def test_a_thread_steps_back_alone() -> None:
    before = standing()
    assert in_a_thread(lambda: (step_back(), standing())) == ([], (19, 3))
    assert standing() == before and in_a_thread(standing) == before


def test_threads_that_were_started_behind_are_brought_forward() -> None:
    """Where that is not allowed they are counted, and stay."""
    known = threads()
    release = threading.Event()

    def start_another() -> threading.Thread:
        step_back()
        other = threading.Thread(target=release.wait)
        other.start()
        return other

    other: Any = in_a_thread(start_another)
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    behind = bring_forward(known, nice)
    now = os.getpriority(os.PRIO_PROCESS, other.native_id)
    release.set()
    other.join()
    assert (behind, now) in ((0, nice), (1, 19))


def test_at_its_end_a_process_stands_behind_everybody_with_every_thread() -> None:
    code = (
        "import os, threading; from penstock_models.background import stand_last, threads\n"
        "for _ in range(3): threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "stand_last(); print(len(threads()), {os.sched_getscheduler(t) for t in threads()} == {os.SCHED_IDLE}, flush=True)\n"
        "os._exit(0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.stdout == "4 True\n", done.stderr


def test_what_cannot_be_had_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "pdp11")
    assert in_a_thread(step_back) == ["the idle I/O class"]
    monkeypatch.undo()
    monkeypatch.setitem(background._IOPRIO_SET, platform.machine(), 1 << 20)  # no such system call

    def refused(*_: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", refused)
    assert in_a_thread(step_back) == ["nice 19", "the idle I/O class"]
