"""Every kind of source, in every format of the wire, over both versions of MQTT: the gateway can read all of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock_sim.run.records import Summary
from tests.fakes.sim_runs import run, scenario

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.realdata]

KIT = {
    "video": 'kind = "video", file = "{kit}/video/one-by-one-person-detection.mp4", step = 30, frames = 4',
    "images": 'kind = "images", folder = "{kit}/images", frames = 4',
    "audio": 'kind = "audio", file = "{sound}", size = 4000',
    "csv": 'kind = "csv", file = "{series}", size = 32, encoding = "json"',
}
MADE = {
    "scene": 'kind = "scene", width = 160, height = 120, frames = 2',
    "motion": 'kind = "accelerometer", size = 10, windows = 4',
    "room": 'kind = "temperature", windows = 4',
    **{
        f"vib-{e}": f'kind = "vibration", windows = 4, encoding = "{e}"'
        for e in ("tensor", "cbor", "json", "senml")
    },
}

DEVICE = """
[[device]]
name = "{name}"
protocol = "{protocol}"
qos = {qos}
[[device.stream]]
source = {{ {source} }}
rate_hz = 4
"""

HEAD = """
name = "sources"
[[phase]]
kind = "steady"
seconds = 2
"""

SERIES = "magic_wand_ring.csv"

READ = {"ok", "rejected: shape", "rejected: dtype"}
"""What becomes of frames that were understood: the demo's models take 512 samples, and not all of these are that."""


async def all_of(sources: dict[str, str], folder: Path) -> Summary:
    devices = [
        DEVICE.format(name=f"{name}-{protocol[0]}", protocol=protocol, qos=qos, source=source)
        for name, source in sources.items()
        for qos, protocol in enumerate(("3.1.1", "5"))
    ]
    summary = await run(scenario(folder, HEAD + "".join(devices)), folder / "run")
    assert [str(difference) for difference in summary.differences] == []
    assert all(stream.sent >= 7 for stream in summary.streams.values())
    return summary


async def test_what_is_made_is_read(tmp_path: Path) -> None:
    summary = await all_of(MADE, tmp_path)
    for name, fates in summary.fates.items():
        if name not in (
            "vib-tensor-3",
            "vib-senml-3",
        ):  # 3.1.1 and this route do not say what their bytes are
            assert set(fates) <= READ, name
    for name in ("scene-3", "scene-5", "vib-tensor-5", "vib-cbor-3", "vib-json-5"):
        assert set(summary.fates[name]) == {"ok"}, name


async def test_what_is_recorded_is_read(realdata: Path, tmp_path: Path) -> None:
    sound, series = realdata / "audio" / "yes_1000ms.wav", realdata / "sensor" / SERIES
    sources = {name: text.format(kit=realdata, sound=sound, series=series) for name, text in KIT.items()}
    summary = await all_of(sources, tmp_path)
    for name in ("video-3", "video-5", "images-3", "images-5"):
        assert set(summary.fates[name]) == {"ok"}, name
    for name in ("csv-3", "csv-5", "audio-5"):
        assert set(summary.fates[name]) <= READ, name
