"""Hosts that are real processes, so that a device's library is loaded anew each time and can be broken and mended.

The smallest such host, for tests of what happens between hosts: pickles over pipes, one batch at a time.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import struct
import sys
from asyncio import Future
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from penstock_models.bundle import open_bundle
from penstock_models.devices.cache import ModelCache
from penstock_models.items import Item, Outcome, Refusal, ServableInfo
from penstock_models.servable import Servable
from tests.conftest import ROOT

LENGTH = struct.Struct("<I")


class ChildHost:
    """A `Host`: one version in a child process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.info: ServableInfo
        self.resident_bytes = 0
        self.lost: Future[str] = asyncio.get_running_loop().create_future()
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()

    @classmethod
    async def open(cls, path: Path, device: str, cache: Path | None, packages: Path | None) -> ChildHost:
        """Args:
        packages: a folder that is looked through for packages before the environment's own.
        """
        folders = [str(packages)] if packages else []
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.extras.openvino.children", str(path), device, str(cache or "")),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([*folders, *sys.path])},
        )
        host = cls(process)
        try:
            answer = await host._receive()
        except BaseException:
            await host.close()
            raise
        if isinstance(answer, Exception):
            await host.close()
            raise answer
        host.info = answer
        host._start(host._watch())
        return host

    def run(self, items: Sequence[Item], timeout_s: float) -> Future[list[Outcome]]:
        return self._start(self._ask("run", list(items)))

    async def probe(self) -> bool:
        return bool(await self._ask("probe", None) is True)

    async def close(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _start(self, work: Any) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _watch(self) -> None:
        self.lost.set_result(f"the process ended with {await self.process.wait()}")

    async def _ask(self, verb: str, items: Any) -> Any:
        async with self._turn:
            try:
                assert self.process.stdin is not None
                data = pickle.dumps((verb, items))
                self.process.stdin.write(LENGTH.pack(len(data)) + data)
                await self.process.stdin.drain()
                return await self._receive()
            except (OSError, EOFError):
                return [Refusal("failed", "model_error", "the process ended", suspect=True)] * len(
                    items or ()
                )

    async def _receive(self) -> Any:
        assert self.process.stdout is not None
        try:
            (length,) = LENGTH.unpack(await self.process.stdout.readexactly(LENGTH.size))
            return pickle.loads(await self.process.stdout.readexactly(length))
        except asyncio.IncompleteReadError as error:
            raise EOFError("the process ended") from error


def serve(path: str, device: str, cache: str) -> None:
    """The child: load, then answer until the parent closes the pipe."""
    asked, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not come between
    try:
        kept = ModelCache(Path(cache)) if cache else None
        servable = Servable.open_checked(open_bundle(path), (device,), model_cache=kept)
    except Exception as error:
        answer(answers, error)
        return
    answer(answers, servable.info)
    while header := asked.read(LENGTH.size):
        verb, items = pickle.loads(asked.read(LENGTH.unpack(header)[0]))
        answer(answers, servable.run(items) if verb == "run" else servable.probe())


def answer(out: BinaryIO, value: Any) -> None:
    data = pickle.dumps(value)
    out.write(LENGTH.pack(len(data)) + data)
    out.flush()


if __name__ == "__main__":
    serve(*sys.argv[1:])
