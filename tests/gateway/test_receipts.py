"""Receipts: soon after a change, not too often, again where the outbox was full; and the wait for gaps."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.fakes.gateway_core import Core, core, route, until

CAM = "penstock/v1/home/dev/{device}/{stream}/frame"


def send(gw: Core, *numbers: int) -> None:
    for seq in numbers:
        gw.bring("a/vib", boot="b", seq=seq)
    gw.journal.commit()


async def told(gw: Core, through: int) -> None:
    """Wait for the receipt; contracts 5 give it a second."""
    await until(lambda: any(r["through"] == through for r in gw.receipts_of("a/vib")), 1.0)


async def test_a_receipt_speaks_of_what_is_durable(tmp_path: Path) -> None:
    async with core(tmp_path, route()) as gw:
        gw.bring("a/vib", boot="b", seq=0)
        await asyncio.sleep(0.25)
        assert gw.receipts_of("a/vib") == []
        gw.journal.commit()
        await told(gw, 0)
        send(gw, 1, 4)
        await told(gw, 4)
        assert gw.receipts_of("a/vib")[-1] == {
            "v": 1, "boot": "b", "through": 4, "missing": [[2, 3]], "window": 9997,
        }  # fmt: skip
        receipt = next(m for m, _ in gw.control.outbox if m.topic.endswith("/receipt"))
        assert (receipt.qos, receipt.retain) == (1, True)


async def test_a_stream_gets_at_most_five_a_second(tmp_path: Path) -> None:
    async with core(tmp_path, route()) as gw:
        loop = asyncio.get_running_loop()
        began, seq = loop.time(), 0
        while loop.time() < began + 0.7:
            send(gw, seq)
            seq += 1
            await asyncio.sleep(0.005)
        assert 2 <= len(gw.receipts_of("a/vib")) <= 5
        await told(gw, seq - 1)


async def test_a_receipt_that_found_no_room_is_sent_when_there_is_some(tmp_path: Path) -> None:
    async with core(tmp_path, route()) as gw:
        gw.control.room = 0
        send(gw, 0)
        await asyncio.sleep(0.25)
        assert gw.receipts_of("a/vib") == []
        gw.control.room = 10_000
        await told(gw, 0)


async def test_a_gap_is_passed_after_its_time_and_the_device_told(tmp_path: Path) -> None:
    async with core(tmp_path, route(gap_s=0.3)) as gw:
        send(gw, 0, 3)
        await told(gw, 3)
        assert gw.counts("a/vib").missing_upstream == 0
        await until(lambda: gw.counts("a/vib").missing_upstream == 2)
        gw.journal.commit()
        await until(lambda: gw.receipts_of("a/vib")[-1]["missing"] == [])
        assert gw.journal.disk.books.journalled.missing_upstream == 2
        assert gw.gateway._books.rest({"a/vib"}).missing_upstream == 0
        send(gw, 1)  # after all: accepted, and the count lowered
        assert gw.counts("a/vib").missing_upstream == 1
        assert gw.gateway._receipts._gaps == {}


async def test_a_camera_s_gaps_are_counted_and_it_gets_no_receipt(tmp_path: Path) -> None:
    async with core(tmp_path, route("latest", CAM, gap_s=0.05)) as gw:
        for seq in (0, 5):
            gw.bring("a/cam", kind="frame", boot="b", seq=seq)
        await until(lambda: gw.counts("a/cam").missing_upstream == 4)
        assert gw.receipts_of("a/cam") == []
        assert gw.gateway._books.rest(()).missing_upstream == 4


async def test_a_gap_that_an_earlier_start_saw_is_passed_though_the_device_is_silent(tmp_path: Path) -> None:
    async with core(tmp_path, route(gap_s=0.2)) as gw:
        send(gw, 0, 2)
        disk = gw.journal.disk
        gw.kill()
    async with core(tmp_path, route(gap_s=0.2), disk=disk) as gw:
        await until(lambda: gw.ledger.missing_upstream == 1)
