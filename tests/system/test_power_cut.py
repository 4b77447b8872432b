"""Power cuts: whatever the journal called durable is on the disk that a cut leaves behind."""

from __future__ import annotations

import asyncio
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from penstock_gateway.identity import StreamIdentity
from penstock_gateway.journal import Journal
from tests.fakes.journal_owner import JournalOwner
from tests.fakes.journal_writer import STREAM
from tests.fakes.powercut import PowerCutDisk

CUTS = 60 if os.environ.get("PENSTOCK_SOAK") == "1" else 10
MAX_BYTES = 8 << 20


@contextmanager
def writer(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "tests.fakes.journal_writer", str(folder), str(MAX_BYTES)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        try:
            yield process
        finally:
            process.kill()


def freeze_after(process: subprocess.Popen[bytes], seconds: float) -> tuple[int, int]:
    """Let it write, stop it anywhere, and return the last line that it had said by then: row and `through`."""
    assert process.stdout is not None
    said = process.stdout.readline()
    time.sleep(seconds)  # the moment of the cut: nothing is waited for
    process.send_signal(signal.SIGSTOP)
    while select.select([process.stdout], [], [], 0)[0]:
        said += os.read(process.stdout.fileno(), 1 << 20)
    row, through = said[: said.rfind(b"\n")].splitlines()[-1].split()
    return int(row), int(through)


async def check(folder: Path, row: int, through: int) -> int:
    """Open what the cut left; returns how many rows had been called durable."""
    journal = await Journal.open(folder / "journal.db", MAX_BYTES, JournalOwner())
    try:
        opened = journal.opened
        first = int(opened.starts[-1].start, 16) << 20
        rows = {entry.row async for entry in journal.carried()}
        ledger = opened.starts[-1].ledger
        lost = [n for n in range(first, row + 1) if n not in rows and n % 2]
        assert not lost, f"{len(lost)} rows called durable are gone: {lost[:5]}"
        assert ledger.settled + len(rows) == ledger.received >= row + 1 - first
        assert opened.reports == ()
        told = StreamIdentity.restore(STREAM, opened.streams[STREAM], 30.0, 0.0).durable
        assert told.through == ledger.received - 1 >= through
        return row + 1 - first
    finally:
        assert await journal.close(10.0)


@pytest.mark.system
@pytest.mark.soak
@pytest.mark.timeout(60 + 3 * CUTS)
def test_no_row_that_was_called_durable_is_lost_in_a_power_cut() -> None:
    seed = random.randrange(1 << 32)
    moments = random.Random(seed)
    durable = 0
    for cut in range(CUTS):
        with PowerCutDisk(24) as disk, writer(disk.path / "state") as process:
            told = freeze_after(process, moments.uniform(0.02, 0.25))
            with disk.cut() as found:
                try:
                    durable += asyncio.run(check(found / "state", *told))
                except AssertionError as exc:
                    raise AssertionError(f"seed {seed}, cut {cut}: {exc}") from exc
    assert durable > CUTS
    print(f"{CUTS} cuts, {durable} rows called durable, 0 lost (seed {seed})")
