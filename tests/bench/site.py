"""A broker, a gateway and models for the benchmarks: real processes on this machine's cores."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2

from penstock_models.pack import pack
from tests.conftest import ROOT, realdata_path
from tests.fakes.broker import Broker, mosquitto
from tests.fakes.gateway import Gateway

BROKER = "max_queued_messages 100000\nmax_inflight_messages 1000\nset_tcp_nodelay true\npersistence false"
BENCH = Path(__file__).parent
TRIES = 3
"""How often a slice is taken until its generator kept its own times."""

HEAD = """
site = "home"
gateway = "bench"
[mqtt]
url = "{url}"
[models]
path = "{store}"
"""
CAMERA = """
[[route]]
topic = "penstock/v1/home/dev/{{device}}/{{stream}}/frame"
model = "{model}"
deadline_ms = 10000
queue_bytes = 268435456
"""
SENSOR = """
[[route]]
topic = "penstock/v1/home/dev/{{device}}/{{stream}}/data"
model = "{model}"
mode = "{mode}"
deadline_ms = 10000
queue = 100000
queue_bytes = 268435456
content_type = "application/x-tensor"
dtype = "i8"
shape = [640]
"""


def kit() -> Path:
    folder = realdata_path()
    assert folder is not None, "the benchmarks need the real models: set PENSTOCK_REALDATA"
    return folder


def store(folder: Path) -> Path:
    """The kit's models that the figures name, packed."""
    out = folder / "store"
    out.mkdir()
    models = kit() / "models"
    for source, preset, name in (
        ("mobilenet_v2_1.0_224_quant.tflite", "classification", "mobilenet"),
        ("derived/vww_96_int8.qdq.onnx", "classification", "vww"),
        ("light_weight_person_detector_192.onnx", "yolox", "person"),
        ("ad01_int8.tflite", "autoencoder", "anomaly"),
    ):
        pack(models / source, out, preset=preset, name=name)
    return out


def picture(folder: Path, width: int, height: int) -> Path:
    """A frame of the kit's video as a JPEG of that size, quality 85."""
    out = folder / f"{width}x{height}.jpg"
    image = cv2.imread(str(kit() / "frames" / "visit_0240.jpg"))
    assert image is not None
    cv2.imwrite(str(out), cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC), [1, 85])
    return out


class LinkGateway(Gateway):
    """A gateway on one of the links, started the same way for each of them."""

    def __init__(self, config_text: str, folder: Path, link: str) -> None:
        super().__init__(config_text, folder)
        self._link = link

    def command(self) -> list[str]:
        return [sys.executable, "-m", "tests.bench.gateway_on", self._link, str(self.config)]


@contextmanager
def site(folder: Path, route: str, link: str = "", **names: str) -> Iterator[tuple[Broker, Gateway]]:
    """A running broker and a ready gateway with one route: the product, or where a `link` is named, that one in it."""
    folder.mkdir(exist_ok=True)
    with mosquitto(BROKER) as broker:
        text = (HEAD + route).format(url=broker.url, **names)
        with LinkGateway(text, folder, link) if link else Gateway(text, folder) as gw:
            gw.wait_ready()
            yield broker, gw


def timely(take: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Take a slice, and again while its generator missed its own times; `on_time` is false where it always did."""
    for _ in range(TRIES - 1):
        found = take()
        if found["on_time"]:
            return found
    return take()


def generate(broker: Broker, *arguments: object, timeout_s: float = 180.0) -> dict[str, Any]:
    """Run the generator once, and return what it reports.

    Raises:
        AssertionError: frames were refused or failed, which no load explains.
    """
    found: dict[str, Any] = run_json(
        "tests.bench.generator", "--url", broker.url, *arguments, timeout_s=timeout_s
    )
    wrong = unexplained(found["fates"])
    assert not wrong and not found["undecodable"], (
        f"expected answers from the load {arguments}, came {wrong}, {found['undecodable']} undecodable"
    )
    return found


def unexplained(fates: Mapping[str, int]) -> dict[str, int]:
    """Results that are neither answers nor what becomes of frames that come too fast."""
    return {fate: n for fate, n in fates.items() if fate != "ok" and not fate.startswith("expired")}


def bare(recipe: str, *arguments: object, timeout_s: float = 120.0) -> dict[str, Any]:
    """Run the bare loop, and return its rate."""
    found: dict[str, Any] = _json([sys.executable, BENCH / "bare.py", recipe, kit(), *arguments], timeout_s)
    return found


def run_json(module: str, *arguments: object, timeout_s: float = 120.0) -> Any:
    """Run a module of the benchmarks, and return what its last line says."""
    return _json([sys.executable, "-m", module, *arguments], timeout_s)


def _json(command: Sequence[object], timeout_s: float) -> Any:
    done = subprocess.run(
        [str(word) for word in command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=True,
    )
    return json.loads(done.stdout.strip().splitlines()[-1])
