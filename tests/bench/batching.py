"""What dynamic batching is worth: answers within 50 ms with the scheduler's batches, over those with batches of one.

Every int8 model of the kit, ready-made tensors, an executor with a thread a core. Either way so many clients ask, again
and again, as the deadline leaves room for; of a few such numbers the one with the most answers in time counts, for each
side its own. The two sides alternate in slices of a second, a ratio is taken between neighbours.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from penstock_models.executor import ThreadExecutor
from penstock_models.items import Item, ServableInfo, Tensor
from penstock_models.pack import pack
from penstock_models.scheduling.queue import Plan
from penstock_models.scheduling.runs import VersionRun
from penstock_models.store import open_version
from tests.bench.report import Figure, figure
from tests.bench.site import kit
from tests.bench.traffic import Core, Load, saturate

MODELS = {
    "mobilenet_v1": "mobilenet_v1_0.25_128_quant.tflite",
    "mobilenet_v2": "mobilenet_v2_1.0_224_quant.tflite",
    "vww_tflite": "vww_96_int8.tflite",
    "vww_onnx": "derived/vww_96_int8.qdq.onnx",
    "resnet_tflite": "pretrainedResnet_quant.tflite",
    "resnet_onnx": "derived/pretrainedResnet_quant.qdq.onnx",
    "kws_tflite": "kws_ref_model.tflite",
    "kws_onnx": "derived/kws_ref_model.qdq.onnx",
    "ad01": "ad01_int8.tflite",
}
WITHIN_S = 0.05
SLICE_S = 1.0
WARM_S = 0.25
SEARCH_S = 0.5
FILLS = (0.2, 0.4, 0.7)
"""Of the deadline: what the clients' calls together take, by the warm-up's times."""
MOST_CLIENTS = 256


class OneByOne(VersionRun):
    """A version whose batches are single requests."""

    def plan(self, free: int, now: float) -> Plan:
        return super().plan(free, now)._replace(limit=1, floor=1)


def measure(folder: Path, store: Path, repeats: int) -> Sequence[Figure]:
    out = folder / "batching"
    out.mkdir(exist_ok=True)
    figures = []
    for name, file in MODELS.items():
        bundle = pack(kit() / "models" / file, out, preset="raw", name=name)
        figures.append(asyncio.run(_compare(name, Path(bundle), repeats)))
    return figures


def tensor_item(bundle: Path, seed: int = 1) -> Item:
    """Random values in the dtype and shape of a model's input."""
    spec = open_version(bundle).manifest.variants[0].inputs[0]
    shape = [1, *(axis or 1 for axis in spec.shape[1:])]
    values = np.random.default_rng(seed).integers(0, 100, shape).astype(spec.dtype)
    return Item(Tensor(values.tobytes()))


async def _compare(name: str, bundle: Path, repeats: int) -> Figure:
    cores = len(os.sched_getaffinity(0))
    executor = ThreadExecutor(cores)
    info = await executor.load(str(bundle))
    item = tensor_item(bundle)
    core = Core(executor, cores)
    sides: dict[str, list[float]] = {"one": [], "batch": []}
    async with core.serving():
        best = {
            "one": await _best(core, lambda: OneByOne(info), item, info, cores, 1),
            "batch": await _best(core, lambda: VersionRun(info), item, info, cores, info.max_batch),
        }
        for _ in range(repeats):
            for side, make in (("one", OneByOne), ("batch", VersionRun)):
                sides[side].append(await _goodput(core, make(info), item, best[side], SLICE_S))
    await executor.close()
    ratios = [batch / one for one, batch in zip(sides["one"], sides["batch"], strict=True)]
    most = (
        f"{max(sides['one']):.0f}/s by {best['one']} clients → {max(sides['batch']):.0f}/s by {best['batch']}"
    )
    return figure(f"batching_gain_{name}", ratios, "×", note=f"{most}; {_alone(info)}")


def _alone(info: ServableInfo) -> str:
    """What a batch takes in the warm-up, alone."""
    largest = max(info.batch_ms)
    one, most = info.batch_ms[1], info.batch_ms[largest] / largest
    return f"in the warm-up {one:.2f} ms an item alone, {most:.2f} ms in a batch of {largest}"


async def _best(
    core: Core, make: Callable[[], VersionRun], item: Item, info: ServableInfo, slots: int, batch: int
) -> int:
    """How many clients get the most answers in time."""
    size = max(n for n in info.batch_ms if n <= batch)
    item_s = info.batch_ms[size] / size / 1e3
    numbers = {min(MOST_CLIENTS, max(2 * slots, int(fill * WITHIN_S / item_s * slots))) for fill in FILLS}
    found = {n: await _goodput(core, make(), item, n, SEARCH_S) for n in sorted(numbers)}
    return max(found, key=lambda n: found[n])


async def _goodput(core: Core, run: VersionRun, item: Item, clients: int, seconds: float) -> float:
    core.scheduler.runs.append(run)
    tally = await saturate(core, Load(run, item, WITHIN_S), clients, WARM_S + seconds, WARM_S)
    await core.scheduler.retire(run)
    return tally.goodput
