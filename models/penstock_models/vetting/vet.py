"""Vet a version before this process opens it: one child at a time, others wait their turn.

Owns the turns and cancelling. What a child may do is `confine`'s, how one is run `attempt`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

from penstock_models.bundle import locate
from penstock_models.gaps import Gaps
from penstock_models.store import bare_identity, holds_bundle
from penstock_models.vetting.attempt import Attempt, Subject
from penstock_models.vetting.listening import Advance
from penstock_models.vetting.verdict import DEFAULT_LIMITS, Limits, Vetted

WAKE_S = 0.2

# One thread: at most one child. It outlives every child, as the kernel ends a child with the thread that started it.
_turns = ThreadPoolExecutor(1, thread_name_prefix="penstock-vet")


async def vet(
    path: str | Path,
    devices: Sequence[str] = (),
    limits: Limits = DEFAULT_LIMITS,
    advance: Advance | None = None,
    gaps: Gaps | None = None,
) -> Vetted:
    """Load, run and measure a version in a limited child process.

    Cancelled, it ends the child first.

    Args:
        path: a bundle, an unpacked one, or a folder with a bare model file.
        devices: preference list as for loading.
        advance: called (in another thread) after each golden sample with how many of how many are done.
        gaps: of those that serve, in which the child runs; None where nobody serves.

    Raises:
        UsageError: there is nothing at `path`, or it cannot be read.
    """
    subject = await asyncio.to_thread(_subject, Path(path))
    attempt = Attempt(subject, devices, limits, advance, gaps)
    return await in_turn(attempt, attempt.run)


def vet_blocking(
    path: str | Path,
    devices: Sequence[str] = (),
    limits: Limits = DEFAULT_LIMITS,
    advance: Advance | None = None,
) -> Vetted:
    """The same for a caller without an event loop; an interrupt ends the child first.

    Raises:
        UsageError: as `vet`.
    """
    return _waited_for(Attempt(_subject(Path(path)), devices, limits, advance))


def require_model(path: Path, limits: Limits = DEFAULT_LIMITS) -> None:
    """Let a model file through that opens in a child, and runs zeros there where it takes them. Blocking.

    Raises:
        UsageError: it cannot be read.
        ModelRefused, PlacementError: as loading it, or `memory`, `endless`, `crashed`.
    """
    _waited_for(Attempt(Subject("model", path), limits=limits)).require()


async def pack_apart(source: Path, out: Path, gaps: Gaps | None = None) -> None:
    """Pack a folder with a bare model file into the new file `out`, in a limited child process: it runs the model.

    Cancelled, it ends the child first. Whatever is in `out` then, or after an error, is worth nothing.

    Args:
        gaps: as of `vet`.

    Raises:
        UsageError, BundleError, PlacementError: as packing; `endless`, `memory`, `crashed` where it went beyond the limits.
        OSError: `out` cannot be made.
    """
    name, version = await asyncio.to_thread(bare_identity, source)
    attempt = Attempt(Subject("pack", source, name, version, out), gaps=gaps)
    (await in_turn(attempt, attempt.run)).require()


async def in_turn(attempt: Attempt, work: Callable[[], Vetted]) -> Vetted:
    """Do `work`, which runs `attempt`, when its turn comes; cancelled, the child is ended and reaped before it raises."""
    turn = _turns.submit(work)
    done = asyncio.wrap_future(turn)
    try:
        with attempt.gaps.within(attempt.signal):
            return await asyncio.shield(done)
    except asyncio.CancelledError:
        if not turn.cancel():
            attempt.kill()
            await asyncio.wait([done])
        raise


def _waited_for(attempt: Attempt) -> Vetted:
    try:
        turn = _turns.submit(attempt.run)
        # Not for ever at once: a signal that comes just before the wait, or to the other thread, does not end it.
        while not wait([turn], WAKE_S).done:
            pass
        return turn.result()
    finally:
        attempt.kill()  # where an interrupt came, also one within `submit`


def _subject(path: Path) -> Subject:
    if holds_bundle(path):
        return Subject("bundle", locate(path))
    return Subject("bare", path, *bare_identity(path))
