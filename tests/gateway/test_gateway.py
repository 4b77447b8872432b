"""A start's end and its books: what is left to the next start, and what a checkpoint holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock_gateway import gateway
from penstock_gateway.intake import Books
from penstock_gateway.ledger import OK, SUPERSEDED, Counts, Ledger
from tests.fakes.executor import turns
from tests.fakes.gateway_core import Core, Disk, core, route, until

CAM = "penstock/v1/home/dev/{device}/{stream}/frame"
BOTH = (route(), route("latest", CAM))


def every(gw: Core) -> str:
    return next(name for name in gw.links if name.startswith("every"))


def test_a_checkpoint_holds_the_total_less_what_the_journal_counts() -> None:
    books = Books(Ledger(), Counts())
    sensor, camera = books.ledger.stream("a/vib"), books.ledger.stream("x/cam")
    for counts in (sensor, books.journalled):
        counts.received = 5
        counts.carried = 2
        counts.settle(OK)
    sensor.missing_upstream, sensor.late = 7, 1
    camera.received, camera.missing_upstream, camera.late = 3, 4, 2
    camera.settle(SUPERSEDED)
    books.ledger.unattributed.received = 1
    books.ledger.unattributed.settle(("rejected", "topic"))
    rest = books.rest({"a/vib"})
    assert (rest.received, rest.carried, rest.in_flight) == (4, 0, 2)
    assert {fate: n for fate, n in rest.fates.items() if n} == {SUPERSEDED: 1, ("rejected", "topic"): 1}
    assert rest.missing_upstream == 4, "the journal keeps the sensor's with its numbers"
    assert rest.late == 3, "the journal keeps nobody's"


async def test_the_books_of_a_killed_start_are_exact_up_to_its_checkpoint(tmp_path: Path) -> None:
    disk = Disk()
    async with core(tmp_path, *BOTH, disk=disk) as gw:
        for n in range(3):
            gw.bring("x/cam", kind="frame", link=gw.links["latest"])
            gw.bring("a/vib", boot="b", seq=2 * n, link=gw.links[every(gw)])
        gw.journal.commit()
        gw.gateway._checkpoint()
        gw.journal.commit()
        gw.kill()
    durable = disk.books
    assert durable.journalled.received == 3 == len(disk.rows) + durable.journalled.settled
    assert durable.other.received == 3 and durable.other.fates == {"superseded:newer_frame": 1}
    assert durable.journalled.missing_upstream + durable.other.missing_upstream == 0


async def test_a_checkpoint_is_written_only_when_something_changed(tmp_path: Path) -> None:
    async with core(tmp_path, *BOTH) as gw:
        gw.gateway._checkpoint()
        gw.journal.commit()
        gw.gateway._checkpoint()
        assert gw.journal.pending == []
        gw.bring("x/cam", kind="frame", link=gw.links["latest"])
        gw.gateway._checkpoint()
        assert len(gw.journal.pending) == 1


async def test_what_is_not_drained_in_time_is_dropped_or_left_to_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "DRAIN_S", 0.05)
    disk = Disk()
    async with core(tmp_path, *BOTH, disk=disk) as gw:
        gw.executor.deaf = True
        for n in range(3):
            gw.bring(f"c{n}/cam", kind="frame", link=gw.links["latest"])
            gw.bring("a/vib", boot="b", seq=n, link=gw.links[every(gw)])
            gw.journal.commit()
        gw.bring("c0/cam", kind="frame", link=gw.links["latest"])  # waits behind the one that runs
        await turns()
    fates = gw.ledger.fates
    assert fates == {("dropped", "shutdown"): 4} and len(disk.rows) == 3
    assert gw.ledger.in_flight == 3, "what the next start carries over"
    (stats,) = gw.control.sent("penstock/v1/home/gw/gw1/stats")
    assert stats["ledger"]["dropped"] == 4 and stats["ledger"]["in_flight"] == 3
    async with core(tmp_path, *BOTH, disk=disk) as gw:
        await until(lambda: bool(gw.executor.running))
        await gw.executor.finish()
        assert gw.ledger.carried == 3


async def test_nothing_is_read_after_the_stop_and_what_was_read_is_answered(tmp_path: Path) -> None:
    async with core(tmp_path, *BOTH) as gw:
        gw.bring("x/cam", kind="frame", link=gw.links["latest"])
        gw.bring("a/vib", boot="b", seq=0, link=gw.links[every(gw)])
        gw.journal.commit()
    assert gw.ledger.fates == {OK: 2} and gw.journal.disk.rows == {}
    assert gw.statuses()[-1]["state"] == "stopped"
