"""Faults happen at their times, to what they name, and are undone: of the link, of processes, of devices."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from penstock_models.errors import PenstockError, UsageError
from penstock_sim.faults.proxy import LinkProxy
from penstock_sim.load.fleet import Fleet
from penstock_sim.run import device_faults, timeline
from penstock_sim.run.accelerator import lose
from penstock_sim.run.local import LocalSite
from penstock_sim.scenario import Stream
from penstock_sim.scenario import faults as f
from penstock_sim.scenario.things import Bytes, Scene, Vibration
from penstock_sim.sources import Payload
from tests.fakes.virtual_time import in_virtual_time

Done = list[tuple[float, str]]
"""When (s since the begin of the load) and what."""

BEGIN_S = 100.0
START_S = 3.0
"""How long the gateway takes to be ready."""


class Site:
    """A link and processes that note what is done to them."""

    def __init__(self) -> None:
        self.done: Done = []
        note = self.note
        self.link = cast(LinkProxy, SimpleNamespace(
            cut=lambda silent=False: note("silent cut" if silent else "cut"), heal=lambda: note("heal"),
            delay=lambda seconds, jitter_s=0.0: note(f"delay {seconds} {jitter_s}"),
            narrow=lambda rate: note(f"narrow {rate}"),
        ))  # fmt: skip
        gateway = SimpleNamespace(
            kill=self.later("kill gateway"), start=self.later("start gateway"), pause=lambda: note("pause"),
            resume=lambda: note("resume"),
        )  # fmt: skip
        broker = SimpleNamespace(
            child=SimpleNamespace(kill=self.later("kill broker")), start=self.later("start broker")
        )
        self.local = cast(LocalSite, SimpleNamespace(
            broker=broker, gateway=SimpleNamespace(child=gateway, ready=self.later("ready", START_S)),
        ))  # fmt: skip

    def note(self, what: str) -> None:
        self.done.append((round(asyncio.get_running_loop().time() - BEGIN_S, 3), what))

    def later(self, what: str, takes_s: float = 0.0) -> Any:
        async def do() -> None:
            await asyncio.sleep(takes_s)
            self.note(what)

        return do

    def told(self, fault: f.AnyFault, begins: bool) -> None:
        self.note(f"{f.kind(fault)} {'begins' if begins else 'ends'}")


async def acted(*faults: f.AnyFault) -> Done:
    site = Site()
    await timeline.act(faults, BEGIN_S, site.link, site.local, site.told)
    return site.done


@pytest.mark.parametrize(
    ("fault", "done"),
    [
        (f.LinkCut(at_s=5, for_s=2), [(5, "link_cut begins"), (5, "cut"), (7, "heal"), (7, "link_cut ends")]),
        (f.LinkCut(at_s=0, for_s=1, silent=True), [(0, "link_cut begins"), (0, "silent cut"), (1, "heal"), (1, "link_cut ends")]),
        (f.Latency(at_s=1, for_s=2, delay_ms=200, jitter_ms=50),
         [(1, "latency begins"), (1, "delay 0.2 0.05"), (3, "delay 0.0 0.0"), (3, "latency ends")]),
        (f.Bandwidth(at_s=1, for_s=2, bytes_per_s=500),
         [(1, "bandwidth begins"), (1, "narrow 500"), (3, "narrow None"), (3, "bandwidth ends")]),
        (f.Flapping(at_s=1, for_s=4, down_s=1, up_s=2),
         [(1, "flapping begins"), (1, "cut"), (2, "heal"), (4, "cut"), (5, "heal"), (5, "flapping ends")]),
        (f.Flapping(at_s=1, for_s=2, down_s=5, up_s=2),
         [(1, "flapping begins"), (1, "cut"), (3, "heal"), (3, "flapping ends")]),
        (f.BrokerRestart(at_s=2, for_s=4),
         [(2, "broker_restart begins"), (2, "kill broker"), (6, "start broker"), (6, "broker_restart ends")]),
        (f.GatewayKill(at_s=2, for_s=1), [(2, "gateway_kill begins"), (2, "kill gateway"), (3, "start gateway"), (6, "ready"),
                                          (6, "gateway_kill ends")]),
        (f.GatewayPause(at_s=2, for_s=1), [(2, "gateway_pause begins"), (2, "pause"), (3, "resume"), (3, "gateway_pause ends")]),
        (f.Malformed(at_s=2, for_s=4), [(2, "malformed begins"), (6, "malformed ends")]),
        (f.ClockJump(at_s=2, by_ms=4), [(2, "clock_jump begins"), (2, "clock_jump ends")]),
    ],
)  # fmt: skip
@in_virtual_time
async def test_a_fault_is_done_at_its_time_and_undone(fault: f.AnyFault, done: Done) -> None:
    assert await acted(fault) == done


@in_virtual_time
async def test_faults_go_on_beside_each_other_but_one_at_a_time_for_a_process() -> None:
    kill, pause = f.GatewayKill(at_s=2, for_s=1), f.GatewayPause(at_s=4, for_s=1)
    assert await acted(kill, pause, f.LinkCut(at_s=2.5, for_s=2), f.BrokerRestart(at_s=3.5, for_s=2)) == [
        (2, "gateway_kill begins"), (2, "kill gateway"), (2.5, "link_cut begins"), (2.5, "cut"), (3, "start gateway"),
        (3.5, "broker_restart begins"), (3.5, "kill broker"), (4.5, "heal"), (4.5, "link_cut ends"),
        (5.5, "start broker"), (5.5, "broker_restart ends"), (6, "ready"), (6, "gateway_kill ends"),
        (6, "gateway_pause begins"), (6, "pause"), (7, "resume"), (7, "gateway_pause ends"),
    ]  # fmt: skip


@in_virtual_time
async def test_a_paused_gateway_goes_on_when_the_run_ends_early() -> None:
    site = Site()
    pause = f.GatewayPause(at_s=1, for_s=50)
    acting = asyncio.create_task(timeline.act([pause], BEGIN_S, site.link, site.local, site.told))
    await asyncio.sleep(BEGIN_S + 10)
    acting.cancel()
    await asyncio.wait([acting])
    assert [what for _, what in site.done] == ["gateway_pause begins", "pause", "resume"]


@pytest.mark.parametrize(
    "fault", [f.BrokerRestart(at_s=1), f.GatewayKill(at_s=1), f.GatewayPause(at_s=1, for_s=1)]
)
def test_a_fault_of_a_process_needs_one_of_ours(fault: f.AnyFault) -> None:
    timeline.check([fault], local=True)
    with pytest.raises(
        UsageError, match=f"the fault {f.kind(fault)} needs a gateway that the run starts itself"
    ):
        timeline.check([f.LinkCut(at_s=1, for_s=1), fault], local=False)


class Crew:
    """Devices that note what is done to them."""

    def __init__(self, *mixes: str) -> None:
        self.done: Done = []
        self.devices = [
            SimpleNamespace(mix=mix, streams=[SimpleNamespace(
                stream=SimpleNamespace(device=mix, stream="s"), use=lambda ring, mix=mix: self.note(f"{mix} uses {ring}")
            )])
            for mix in mixes
        ]  # fmt: skip

    def note(self, what: str) -> None:
        self.done.append((asyncio.get_running_loop().time() - BEGIN_S, what))

    def reboot(self, device: Any, boot: str) -> None:
        self.note(f"{device.mix} is {boot}")


@in_virtual_time
async def test_devices_start_again_and_change_in_the_order_of_the_times() -> None:
    crew = Crew("cam", "vib")
    faults: list[f.AnyFault] = [
        f.Reboot(at_s=7), f.PayloadChange(at_s=3, devices="vib"), f.ClockJump(at_s=1, by_ms=1),
        f.Reboot(at_s=2, devices="cam"),
    ]  # fmt: skip
    others: Any = {("cam", "s"): "png", ("vib", "s"): "json"}
    await device_faults.act(cast(Fleet, crew), faults, BEGIN_S, others, "run")
    assert crew.done == [(2, "cam is run-1"), (3, "vib uses json"), (7, "cam is run-2"), (7, "vib is run-2")]


PAYLOAD = Payload(bytes(range(200)), truth=True)


def changed(faults: Sequence[f.AnyFault], mix: str, times: Sequence[float], seed: str = "s") -> list[Payload]:
    change = device_faults.change_of(faults, mix, seed)
    return [PAYLOAD if change is None else change(at_s, PAYLOAD) for at_s in times]


def test_frames_are_spoiled_within_the_fault_and_of_its_devices_alone() -> None:
    fault = f.Malformed(at_s=2, for_s=3, share=1, devices="cam")
    found = changed([fault], "cam", [0, 1.99, 2, 4.99, 5, 9])
    assert [payload is PAYLOAD for payload in found] == [True, True, False, False, True, True]
    assert device_faults.change_of([fault], "vib", "s") is None
    assert device_faults.change_of([f.Reboot(at_s=1)], "cam", "s") is None


def test_the_share_of_the_frames_is_spoiled_the_same_ones_for_a_seed() -> None:
    faults = [f.HostilePayloads(at_s=0, for_s=9, share=0.3, payloads=("empty", "random"))]
    found = changed(faults, "cam", [1.0] * 2000)
    bad = [payload for payload in found if payload is not PAYLOAD]
    assert len(bad) == pytest.approx(600, abs=4 * np.sqrt(2000 * 0.3 * 0.7))
    assert len([payload for payload in bad if not payload.data]) == pytest.approx(len(bad) / 2, abs=60)
    assert [p.data for p in found] == [p.data for p in changed(faults, "cam", [1.0] * 2000)]
    assert [p.data for p in found] != [p.data for p in changed(faults, "cam", [1.0] * 2000, seed="t")]


def picture(payload: Payload) -> NDArray[Any]:
    decoded = cv2.imdecode(np.frombuffer(payload.data, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    return decoded


def test_a_camera_changes_to_png_with_the_same_picture_and_truth() -> None:
    fault = f.PayloadChange(at_s=1, devices="cam")
    scene = Scene(width=64, height=48, frames=2)
    stream = Stream(source=scene, rate_hz=1)
    rings = [scene.open(seed, 1.0, Path()) for seed in (1, 2)]
    found = device_faults.other_rings([fault], "cam", stream, rings, (1, 2), Path())
    assert found is not None and [ring.media_type for ring in found] == ["image/png"] * 2
    for before, after in zip(rings[1].frames, found[1].frames, strict=True):
        assert after.data.startswith(b"\x89PNG") and np.array_equal(picture(before), picture(after))
        assert after.truth == before.truth
    assert device_faults.other_rings([fault], "other", stream, rings, (1, 2), Path()) is None


def test_a_sensor_changes_its_encoding_and_what_has_no_other_is_refused() -> None:
    fault = f.PayloadChange(at_s=1, encoding="senml")
    stream = Stream(source=Vibration(windows=2), rate_hz=1)
    found = device_faults.other_rings(
        [fault], "vib", stream, [stream.source.open(3, 1.0, Path())], (3,), Path()
    )
    assert found is not None and found[0].media_type.startswith("application/senml")
    plain = Stream(name="raw", source=Bytes(size=3), rate_hz=1)
    with pytest.raises(UsageError, match="another payload type for the stream 'raw' of 'vib'"):
        device_faults.other_rings([fault], "vib", plain, [plain.source.open(1, 1.0, Path())], (1,), Path())


def test_a_fault_knows_its_end_and_its_word() -> None:
    assert (f.LinkCut(at_s=3, for_s=2).ends_s, f.Reboot(at_s=3).ends_s, f.BrokerRestart(at_s=3).ends_s) == (
        5,
        3,
        4,
    )
    assert f.kind(f.HostilePayloads(at_s=1, for_s=1)) == "hostile"


def test_a_library_that_a_killed_run_took_away_is_brought_back(tmp_path: Path) -> None:
    library = tmp_path / "libnpu.so"
    library.with_name("libnpu.so.lost").write_bytes(b"\x7fELF")
    with pytest.raises(PenstockError, match="found none"):
        lose(library, os.getpid())
    assert [file.name for file in tmp_path.iterdir()] == ["libnpu.so"]
