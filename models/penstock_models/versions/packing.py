"""Packs a bare model file into a bundle, in a process of its own: `python -m penstock_models.versions.packing FROM TO`.

Packing opens a session and runs the model. In the process that serves, that would hold the interpreter while others wait,
and a model of unknown origin could take the process down. Here it costs this child: it runs at the lowest priority,
its processor time and wall time are limited, and it ends with its parent.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import resource
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from pathlib import Path

import msgspec

from penstock_models.errors import BundleError, ModelRefused, PenstockError, TemporaryError, UsageError

PACK_S = 120.0
MAX_ANSWER = 64 * 1024
_PR_SET_PDEATHSIG = 1


class Complaint(msgspec.Struct, frozen=True):
    """Why there is no bundle: what the child writes before it ends with 1. `reason` is a refused model's."""

    text: str
    reason: str = ""


async def pack_apart(source: Path, out: Path) -> None:
    """Pack a version's folder into the bundle `out`. A cancelled call leaves no process.

    Raises:
        ModelRefused, BundleError: the model or its model.toml is wrong.
        TemporaryError: the child died or took longer than `PACK_S`.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", __name__, str(source), str(out), stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL
    )
    try:
        async with asyncio.timeout(PACK_S):
            answer, _ = await process.communicate()
    except TimeoutError as error:
        raise TemporaryError("timeout", f"{source}: packing took longer than {PACK_S:g} s") from error
    finally:
        await _end(process)
    if process.returncode:
        raise _error(source, answer, process.returncode)


async def _end(process: Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _error(source: Path, answer: bytes, code: int) -> PenstockError:
    try:
        complaint = msgspec.json.decode(answer, type=Complaint)
    except msgspec.DecodeError:
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return TemporaryError("crashed", f"{source}: the process that packs it ended by {how}")
    if complaint.reason:
        # The reason stands at the head of the text, and is put there by the error.
        return ModelRefused(complaint.reason, complaint.text.removeprefix(f"{complaint.reason}: "))
    return BundleError(complaint.text)


def main(source: str, out: str) -> int:
    """The child: 0 when the bundle is written, else 1 with a `Complaint` on stdout."""
    _limit()
    from penstock_models.bundle import copy_bundle
    from penstock_models.store import open_version

    try:
        copy_bundle(open_version(Path(source)), Path(out), lambda: None)
    except (BundleError, UsageError) as error:
        complaint = Complaint(str(error), error.reason if isinstance(error, ModelRefused) else "")
        sys.stdout.buffer.write(msgspec.json.encode(complaint))
        return 1
    return 0


def _limit() -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.nice(19)
    resource.setrlimit(resource.RLIMIT_CPU, (int(PACK_S), int(PACK_S)))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
