"""Memory of a process that serves one model while another is loaded and unloaded again and again, some loads failing.

    python -m tests.bench.cycles SERVED LARGER COUNT

SERVED and LARGER are bundles. Prints a JSON list: bytes of the process and its children, before and after each of COUNT
cycles. Every fifth fails: in turns for a bundle that is cut off, and for a time limit in the middle of the load.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path

import psutil

from penstock_models.errors import PenstockError
from penstock_models.executor import ThreadExecutor
from penstock_models.images import MAX_PIXELS
from penstock_models.isolation.process_host import ProcessHost
from penstock_models.resident import proportional_bytes
from penstock_models.scheduling.runs import VersionRun
from tests.bench.batching import tensor_item
from tests.bench.traffic import Core, Load, saturate

LOAD_TIMEOUT_S = 300.0
HURRIED_S = 0.5
SERVED_S = 0.5
"""How long the served model works before each look at the memory."""

FAILS = 5
"""Every so many cycles one fails."""


async def cycles(served: Path, larger: Path, cut: Path, count: int) -> list[int]:
    executor = ThreadExecutor(2)
    run = VersionRun(await executor.load(str(served)))
    core, load = Core(executor, 2), Load(run, tensor_item(served), 10.0)
    async with core.serving(run):
        await saturate(core, load, 4, SERVED_S, 0.0)
        sizes = [tree_bytes()]
        for n in range(count):
            failing, broken = n % FAILS == FAILS - 1, n // FAILS % 2 == 0
            path = cut if failing and broken else larger
            if failing == await _cycle(path, HURRIED_S if failing else LOAD_TIMEOUT_S):
                raise SystemExit(f"cycle {n}: expected the load to {'fail' if failing else 'go well'}")
            await saturate(core, load, 4, SERVED_S, 0.0)
            sizes.append(tree_bytes())
    await executor.close()
    return sizes


async def _cycle(path: Path, limit_s: float) -> bool:
    """Load and unload; whether it could be loaded."""
    try:
        host = await ProcessHost.open(str(path), max_pixels=MAX_PIXELS, load_timeout_s=limit_s)
    except PenstockError:
        return False
    await host.close()
    return True


def tree_bytes() -> int:
    """This process and its children: their own pages, and their share of common ones."""
    pids = [os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))]
    return sum(proportional_bytes(pid) for pid in pids)


def main() -> None:
    served, larger, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    with tempfile.TemporaryDirectory() as scratch:
        cut = Path(scratch) / "cut.bundle"
        whole = larger.read_bytes()
        cut.write_bytes(whole[: len(whole) // 2])
        print(json.dumps(asyncio.run(cycles(served, larger, cut, count))))


if __name__ == "__main__":
    main()
