"""What a process of its own costs a model: time a call, memory, and time to start; beside the same model on a thread.

Calls alternate between the two, so that both meet the same machine. What decode and model took by their own account is
taken off each call; a figure is the difference of the medians of what is left.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from penstock_models.bundle import write_bundle
from penstock_models.executor import ThreadExecutor
from penstock_models.hosts import Host
from penstock_models.isolation.process_host import ProcessHost
from penstock_models.isolation.thread_host import ThreadHost
from penstock_models.items import Answer, EncodedImage, Item, Tensor
from tests.bench.report import Figure, figure
from tests.bench.site import picture
from tests.models.loaded import bundle, scaler

CALLS = 300
TENSOR_VALUES = 150_528  # 602 kB of float32, a picture of 224×224


def measure(folder: Path, store: Path, repeats: int) -> Sequence[Figure]:
    jpeg = Item(EncodedImage(picture(folder, 640, 480).read_bytes(), "image/jpeg"))
    tensor = Item(Tensor(np.ones(TENSOR_VALUES, "<f4").tobytes(), "float32"))
    tiny = Item(Tensor(np.ones(2, "<f4").tobytes(), "float32"))
    cases = {
        "tiny": (_scaler(folder / "tiny", 2), [tiny]),
        "tiny_64": (_scaler(folder / "tiny_64", 2), [tiny] * 64),
        "tensor": (_scaler(folder / "tensor", TENSOR_VALUES), [tensor]),
        "jpeg": (store / "vww-1.bundle", [jpeg]),
    }
    notes = {
        "tiny": "8 bytes in and out",
        "tiny_64": "a batch of 64 of them",
        "tensor": "602 kB in and 602 kB out",
        "jpeg": f"vww, a JPEG of {len(jpeg.payload.data) / 1e3:.0f} kB",  # type: ignore[union-attr]
    }
    figures = []
    for name, (path, batch) in cases.items():
        found = [asyncio.run(_compare(path, batch)) for _ in range(repeats)]
        hops, starts, sizes = zip(*found, strict=True)
        most = 250 if name in ("tiny", "jpeg") else None
        figures.append(figure(f"isolation_hop_{name}", hops, "µs", most=most, note=notes[name]))
        if name in ("tiny", "jpeg"):
            figures.append(
                figure(f"isolation_start_{name}", starts, "ms", note="from exec to loaded and warm")
            )
            figures.append(
                figure(f"isolation_pss_{name}", sizes, "MB", note="of the process, with its share")
            )
    return figures


def _scaler(folder: Path, width: int) -> Path:
    made = bundle(scaler(width=width))
    return write_bundle(made.manifest, {"model.onnx": scaler(width=width)}, folder)


async def _compare(path: Path, batch: list[Item]) -> tuple[float, float, float]:
    """Microseconds that a call costs more in a process; milliseconds to start it; its megabytes."""
    executor = ThreadExecutor(1)
    thread = await ThreadHost.open(executor, str(path))
    began = time.perf_counter()
    process = await ProcessHost.open(str(path), max_pixels=16_800_000, load_timeout_s=60.0)
    start_ms = (time.perf_counter() - began) * 1e3
    times: dict[Host, list[float]] = {thread: [], process: []}
    for _ in range(CALLS):
        for host, taken in times.items():
            taken.append(await _timed(host, batch))
    size = process.resident_bytes
    await process.close()
    await executor.close()
    hop = statistics.median(times[process]) - statistics.median(times[thread])
    return hop * 1e6, start_ms, size / 1e6


async def _timed(host: Host, batch: list[Item]) -> float:
    """Seconds of a call less decode and model."""
    began = time.perf_counter()
    outcomes = await host.run(batch, 10.0)
    taken = time.perf_counter() - began
    answers = [outcome for outcome in outcomes if isinstance(outcome, Answer)]
    assert len(answers) == len(batch), outcomes[0]
    return taken - sum(answer.decode_ms + answer.infer_ms for answer in answers) / 1e3
