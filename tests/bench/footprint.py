"""What a gateway costs before it does anything: resident memory, time to the first answer, disk, memory a stream."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import psutil
from paho.mqtt.enums import CallbackAPIVersion

from tests.bench.report import Figure, figure, lateness
from tests.bench.site import CAMERA, HEAD, generate, picture, site, timely
from tests.conftest import ROOT
from tests.fakes.broker import Broker, mosquitto
from tests.fakes.gateway import Gateway

IDLE_S = 5.0
PERIOD_S = 0.02
MB = 1e6


def measure(folder: Path, store: Path, repeats: int) -> Sequence[Figure]:
    image = picture(folder, 640, 480)
    rss, starts = [], []
    for repeat in range(repeats):
        starts.append(_cold_start(folder / f"start-{repeat}", store, image))
        with site(folder / f"idle-{repeat}", CAMERA, store=str(store), model="vww") as (_, gw):
            time.sleep(IDLE_S)
            rss.append(psutil.Process(gw.pid).memory_info().rss / MB)
    return [
        figure("idle_rss", rss, "MB", most=150, note="one int8 model (vww, ONNX)"),
        figure("cold_start_to_first_answer", starts, "s", most=2.0, note="from exec to the first result of a 50 Hz camera"),
        figure("edge_install", [_install_mb()], "MB", most=430, note="environment less pip and bytecode"),
        *_streams(folder, store),
    ]  # fmt: skip


def _cold_start(folder: Path, store: Path, image: Path) -> float:
    """Seconds from starting the process to its first answer, while a camera sends."""
    folder.mkdir()
    with mosquitto() as broker, _camera(broker, image) as answered:
        text = (HEAD + CAMERA).format(url=broker.url, store=store, model="vww")
        began = time.perf_counter()
        with Gateway(text, folder):
            assert answered.wait(30), "no answer in 30 s"
            return time.perf_counter() - began


@contextmanager
def _camera(broker: Broker, image: Path) -> Iterator[threading.Event]:
    """A camera that sends all the time; the event is set with the first answer."""
    answered, stop = threading.Event(), threading.Event()
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.on_message = lambda *_: answered.set()
    client.connect("127.0.0.1", broker.port)
    client.subscribe("penstock/v1/home/dev/door/cam/result")
    client.loop_start()
    jpeg = image.read_bytes()

    def send() -> None:
        while not stop.wait(PERIOD_S):
            client.publish("penstock/v1/home/dev/door/cam/frame", jpeg)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield answered
    finally:
        stop.set()
        sender.join()
        client.loop_stop()


def _install_mb() -> float:
    """Megabytes of a fresh environment with the plain install, less pip and bytecode."""
    with tempfile.TemporaryDirectory() as scratch:
        venv = Path(scratch) / "venv"
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        subprocess.run(
            [venv / "bin" / "pip", "install", "-q", "--no-compile", str(ROOT)],
            check=True,
            capture_output=True,
        )
        packages = next((venv / "lib").glob("python*/site-packages"))
        for folder in (*packages.glob("pip*"), *packages.rglob("__pycache__")):
            shutil.rmtree(folder, ignore_errors=True)
        return sum(p.stat().st_size for p in venv.rglob("*") if p.is_file() and not p.is_symlink()) / MB


def _streams(folder: Path, store: Path) -> list[Figure]:
    """Memory of an idle stream, and CPU a frame with 20 and with 2,000 streams."""
    image = picture(folder, 320, 240)
    cost: dict[int, float] = {}
    grown, late = 0.0, 0
    for streams in (20, 2000):
        with site(folder / f"streams-{streams}", CAMERA, store=str(store), model="vww") as (broker, gw):
            process = psutil.Process(gw.pid)
            generate(broker, "--streams", 20, "--rate", 100, "--seconds", 4, "--image", image)
            before = process.memory_info().rss
            warm = generate(broker, "--streams", streams, "--rate", 100, "--seconds", 22, "--image", image)
            assert warm["sent"] >= streams
            grown = process.memory_info().rss - before
            found = timely(partial(_frame_cost, process, broker, streams, image))
            cost[streams] = found["cpu_ms"]
            late += not found["on_time"]
    return [
        figure("idle_stream_memory", [grown / 1980 / 1e3], "kB", most=20, note="2,000 streams against 20"),
        figure(
            "cpu_2000_streams_over_20", [cost[2000] / cost[20]], "×", most=1.15,
            note=f"{cost[20]:.2f} ms a frame with 20", doubt=lateness(late),
        ),
    ]  # fmt: skip


def _frame_cost(process: psutil.Process, broker: Broker, streams: int, image: Path) -> dict[str, Any]:
    """A slice of load, and with it `cpu_ms`, the gateway's CPU a frame."""
    before = sum(process.cpu_times()[:2])
    found = generate(broker, "--streams", streams, "--rate", 100, "--seconds", 10, "--image", image)
    return found | {"cpu_ms": (sum(process.cpu_times()[:2]) - before) / found["results"] * 1e3}
