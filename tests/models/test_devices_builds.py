"""Engines built in the background: switched to, never twice at once, ended at a close; how long building took."""

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest

from penstock_models.devices.builds import KEPT, MAX_TIMES, TIMES, Builds, BuildTimes
from penstock_models.devices.cache import CacheKey, ModelCache
from penstock_models.devices.supervised import OpenHost, SupervisedHost
from penstock_models.devices.supervision import Supervision
from penstock_models.errors import PlacementError
from penstock_models.hosts import Host
from tests.fakes.devices import LIMITS, QUICK, Box, fate, until


@pytest.fixture
def box() -> Box:
    return Box()


async def test_engine_is_built_in_the_background_and_switched_to(box: Box, tmp_path: Path) -> None:
    machine, builds = building(tmp_path, box.open)
    box.waits["trt"] = asyncio.Event()
    BuildTimes(tmp_path / TIMES).note("made on trt", 0.001)
    host = await SupervisedHost.open("made", machine, builds.open, limits=LIMITS)
    try:
        assert host.info.placement == "fake:cpu" and await fate(host) == "ok"
        await until(lambda: builds.progress()[0].expected_s is not None)
        (told,) = builds.progress()
        assert told.phase == "building" and told.expected_s == 0.001 and told.made_bytes == 0
        assert "trt: its engine is being built" in host.degraded
        box.waits["trt"].set()
        await until(lambda: host.info.placement == "fake:trt")
        assert [one.phase for one in builds.progress()] == ["serving"]
        assert box.asked == ["cpu", "trt"] and host.degraded == ""
        known = BuildTimes(tmp_path / TIMES).get("made on trt")
        assert known is not None and known > 0.001 and told.elapsed_s > 0.001
    finally:
        await host.close()
    assert box.open_hosts == []


def building(folder: Path, open_host: OpenHost) -> tuple[Supervision, Builds]:
    machine = Supervision(["trt", "cpu"], QUICK, slow=["trt"])
    return machine, Builds("made", machine, ModelCache(folder), open_host)


BUILDER = """
import sys, time
from pathlib import Path
from penstock_models.devices.cache import CacheKey, MadeElsewhere, ModelCache
cache, key = ModelCache(Path(sys.argv[1])), CacheKey("ab" * 32, "fake 1", "driver 1", "trt", {})
if cache.find(key) is None:
    try:
        with cache.making(key) as folder:
            if cache.find(key) is not None:
                print("kept", flush=True)
                sys.exit()
            for piece in range(10):
                with (folder / "engine").open("ab") as file:
                    file.write(b"x" * 1000)
                time.sleep(0.05)
            cache.publish(key, {})
        print("built", flush=True)
    except MadeElsewhere as elsewhere:
        sys.exit(str(elsewhere))
else:
    print("kept", flush=True)
"""


class Builder:
    """Opens a host on `trt` by a real child process that takes long, and is killed where its opening is cancelled."""

    def __init__(self, folder: Path, box: Box) -> None:
        self.folder = folder
        self.box = box
        self.said: list[str] = []
        self.children: list[asyncio.subprocess.Process] = []

    async def open(self, device: str) -> Host:
        if device == "trt":
            await self._child()
        return await self.box.open(device)

    async def _child(self) -> None:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", BUILDER, str(self.folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.children.append(child)
        try:
            out, error = await child.communicate()
        except asyncio.CancelledError:
            child.kill()
            await child.wait()
            raise
        if child.returncode:
            raise PlacementError(error.decode().strip())
        self.said.append(out.decode().strip())


async def test_real_builder_is_not_doubled_and_its_engine_is_kept(
    box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two gateways on one box start together: one builds, the other waits for its engine behind the cpu."""
    monkeypatch.setattr("penstock_models.devices.builds.LOOK_S", 0.02)
    builder = Builder(tmp_path, box)
    made = [building(tmp_path, builder.open) for _ in range(2)]
    hosts = [
        await SupervisedHost.open("made", machine, builds.open, limits=LIMITS) for machine, builds in made
    ]
    try:
        sizes: set[int] = set()

        def both_switched() -> bool:
            sizes.update(told.made_bytes for told in made[0][1].progress())
            return all(host.info.placement == "fake:trt" for host in hosts)

        while not both_switched():
            assert {await fate(host) for host in hosts} == {"ok"}
            await asyncio.sleep(0.005)
        assert sorted(builder.said) == ["built", "kept"]  # in the order of their ends
        assert len(sizes) > 1 and max(sizes) <= 11_000, "the progress was seen to grow"
    finally:
        await asyncio.gather(*(host.close() for host in hosts))
    assert box.open_hosts == []


async def test_close_ends_a_build(box: Box, tmp_path: Path) -> None:
    builder = Builder(tmp_path, box)
    machine = Supervision(["trt", "cpu"], QUICK, slow=["trt"])
    host = await SupervisedHost.open("made", machine, builder.open, limits=LIMITS)
    await until(lambda: bool(builder.children))
    await host.close()
    (child,) = builder.children
    assert child.returncode == -9 and box.open_hosts == []
    key = CacheKey("ab" * 32, "fake 1", "driver 1", "trt", {})
    with ModelCache(tmp_path).making(key) as folder:  # nobody holds it, and no half engine is trusted
        assert list(folder.iterdir()) == []
    assert ModelCache(tmp_path).find(key) is None


async def test_cancelled_while_its_time_is_noted_it_leaves_no_host(
    box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noting, go_on = threading.Event(), threading.Event()

    def slow_disk(times: BuildTimes, name: str, seconds: float) -> None:
        noting.set()
        go_on.wait(20)

    monkeypatch.setattr(BuildTimes, "note", slow_disk)
    opening = asyncio.create_task(building(tmp_path, box.open)[1].open("trt"))
    await until(noting.is_set)
    opening.cancel()
    await asyncio.wait([opening])
    go_on.set()
    assert opening.cancelled() and box.open_hosts == []


def test_build_times_are_bounded_and_survive_a_broken_file(tmp_path: Path) -> None:
    times = BuildTimes(tmp_path / "new" / TIMES)
    assert times.get("a") is None
    for number in range(MAX_TIMES + 10):
        times.note(f"m{number}", float(number))
    assert times.get("m9") is None and times.get("m10") == 10.0
    path = tmp_path / "new" / TIMES
    assert len(msgspec.json.decode(path.read_bytes())) == MAX_TIMES and len(list(path.parent.iterdir())) == 1
    path.write_bytes(b"{")
    assert times.get("m10") is None
    times.note("again", 1.0)
    assert times.get("again") == 1.0


async def test_open_from_the_cache_is_no_measure_of_a_build(box: Box, tmp_path: Path) -> None:
    _, builds = building(tmp_path, box.open)
    times = BuildTimes(tmp_path / TIMES)
    times.note("made on trt", 500.0)
    await builds.open("trt")
    assert times.get("made on trt") == 500.0
    times.note("made on trt", 1e-9)
    await builds.open("trt")
    assert (times.get("made on trt") or 0) > KEPT * 1e-9
    await builds.open("cpu")
    assert times.get("made on cpu") is None
