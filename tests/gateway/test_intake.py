"""The way in: acknowledgements after the commit, what "full" does, pause and resume, carried frames, strangers."""

from pathlib import Path

import pytest

from penstock_gateway.ledger import OK, SUPERSEDED
from tests.fakes.executor import turns
from tests.fakes.gateway_core import Core, Disk, core, route, until, waiting

CAM = "penstock/v1/home/dev/{device}/{stream}/frame"
BIG = b"[" + b"1," * 20_000 + b"1]"


async def test_a_latest_frame_is_acknowledged_on_arrival_and_replaced_by_the_next(tmp_path: Path) -> None:
    async with core(tmp_path, route("latest", CAM)) as gw:
        first = gw.bring("a/cam", kind="frame")
        await turns()
        others = [gw.bring("a/cam", kind="frame") for _ in range(3)]
        assert gw.frames.acked == [first, *others]
        assert gw.counts("a/cam").fates == {SUPERSEDED: 2}
        await gw.check()
        await gw.executor.finish()
        await gw.executor.finish()
        assert [r["status"] for r in gw.results_of("a/cam")] == ["ok", "ok"]
        await gw.check()


async def test_an_every_frame_is_acknowledged_and_run_when_it_is_durable_in_arrival_order(
    tmp_path: Path,
) -> None:
    async with core(tmp_path, route()) as gw:
        handles = [gw.bring("a/vib", boot="b", seq=0), gw.bring("a/vib", boot="b", seq=0)]
        handles += [gw.bring("a/vib", b""), gw.bring("b/vib")]
        await turns()
        assert gw.frames.acked == [] and gw.executor.running == []
        gw.journal.commit()
        await turns()
        assert gw.frames.acked == handles
        assert gw.counts("a/vib").fates == {("duplicate", "duplicate"): 1, ("rejected", "empty"): 1}
        await gw.check()


async def test_what_waits_is_refused_or_dropped_as_the_route_says(tmp_path: Path) -> None:
    for on_full, kept in (("drop_oldest", ["0", "3", "4"]), ("drop_newest", ["0", "1", "2"])):
        async with core(tmp_path, route(on_full=on_full, queue=2)) as gw:
            for seq in range(5):
                gw.bring("a/vib", boot="b", seq=seq)
                gw.journal.commit()  # the first one runs, the others wait
            assert not gw.frames.paused
            assert gw.ledger.fates == {("dropped", "full"): 2}
            gw.journal.commit()
            assert [str(entry.seq) for entry in gw.journal.disk.rows.values()] == kept
            await gw.check()


@pytest.mark.parametrize("on_full", ["drop_oldest", "drop_newest"])
async def test_answers_on_their_way_out_leave_no_less_room_for_new_frames(
    tmp_path: Path, on_full: str
) -> None:
    async with core(tmp_path, route(on_full=on_full, queue=2)) as gw:
        for seq in range(6):
            gw.bring("a/vib", boot="b", seq=seq)
            gw.journal.commit()
            await gw.executor.finish()  # the broker takes none of the results
        assert gw.ledger.fates == {OK: 6} and len(gw.results.outbox) == 6


async def test_wait_stops_reading_tells_the_devices_to_pause_and_reads_on_at_three_quarters(
    tmp_path: Path,
) -> None:
    async with core(tmp_path, route(queue=8)) as gw:
        for seq in range(8):
            gw.bring("a/vib", boot="b", seq=seq)
        assert gw.frames.paused and gw.ledger.fates == {}
        gw.journal.commit()
        await until_receipt(gw, "a/vib", window=0)
        await settle(gw, 2)
        assert gw.frames.paused  # six are left
        await settle(gw, 1)
        assert not gw.frames.paused
        await until_receipt(gw, "a/vib", window=3)
        assert gw.receipts_of("a/vib")[-1]["through"] == 7
        await gw.check()


async def test_a_queue_bounded_in_bytes_is_full_by_bytes(tmp_path: Path) -> None:
    more = "[limits]\nmax_frame_bytes = 60000"
    async with core(tmp_path, route(queue_bytes=60_000), more=more) as gw:
        gw.bring("a/vib", BIG)
        assert not gw.frames.paused
        gw.bring("a/vib", BIG)
        assert gw.frames.paused


async def test_a_full_journal_stops_reading_whatever_the_route_says(tmp_path: Path) -> None:
    async with core(tmp_path, route(on_full="drop_newest")) as gw:
        gw.journal.full = True
        gw.bring("a/vib")
        assert gw.frames.paused and gw.ledger.fates == {}
        gw.journal.full = False
        gw.journal.commit()
        assert not gw.frames.paused


async def test_many_streams_on_a_short_queue_are_told_to_pause_and_told_when_not_to(tmp_path: Path) -> None:
    async with core(tmp_path, route(queue=4, on_full="drop_newest")) as gw:
        for n in range(8):
            gw.bring(f"d{n}/vib", boot="b", seq=0)
        gw.journal.commit()
        await until_receipt(gw, "d7/vib", window=0)
        for _ in range(4):
            await settle(gw, 1)
        await until_receipt(gw, "d7/vib", window=1)
        assert gw.ledger.fates[("dropped", "full")] == 4


async def test_latest_frames_beyond_the_memory_bound_are_dropped(tmp_path: Path) -> None:
    async with core(tmp_path, route("latest", CAM, queue=2)) as gw:
        for n in range(5):
            gw.bring(f"d{n}/cam", kind="frame")  # the first one runs, two wait
        assert gw.ledger.fates == {("dropped", "memory"): 2}
        await gw.check()


async def test_a_frame_that_finds_no_room_leaves_the_one_before_it_in_place(tmp_path: Path) -> None:
    more = "[limits]\nmax_frame_bytes = 60000"
    async with core(tmp_path, route("latest", CAM, queue_bytes=60_000), more=more) as gw:
        gw.bring("a/cam", kind="frame")  # runs
        gw.bring("a/cam", kind="frame")
        gw.bring("b/cam", BIG, kind="frame")
        gw.bring("a/cam", BIG, kind="frame")
        assert gw.ledger.fates == {("dropped", "memory"): 1}
        assert [frame.stream.key for frame in waiting(gw)] == ["a/cam", "b/cam"]


async def test_retained_messages_and_strange_topics_make_no_frame(tmp_path: Path) -> None:
    more = "[limits]\nmax_streams = 1"
    async with core(tmp_path, route(), more=more) as gw:
        gw.bring("a/vib", retain=True)
        assert gw.ledger.received == 0 and gw.gateway._streams.find("some/where/else") is None
        gw.bring("a/vib")
        gw.bring("bad name/vib")
        gw.bring("b/vib", boot="b", seq=1)
        assert gw.frames.acked == [1, 3, 4]  # the first frame waits for its commit
        assert gw.gateway._books.ledger.unattributed.fates == {
            ("rejected", "topic"): 1,
            ("rejected", "quota"): 1,
        }
        assert [r["reason"] for r in gw.results_of("b/vib")] == ["quota"]
        assert gw.results_of("bad name/vib") == []
        await gw.check()


async def test_carried_frames_run_as_historical_under_their_own_id_and_the_books_close(
    tmp_path: Path,
) -> None:
    disk = Disk()
    async with core(tmp_path, route(), disk=disk) as gw:
        for seq in (0, 1):
            gw.bring("a/vib", boot="b", seq=seq, response_topic="penstock/v1/home/reply/x", correlation=b"c")
        gw.journal.commit()
        rows = list(disk.rows)
        gw.kill()
    async with core(tmp_path, route(), disk=disk) as gw:
        assert gw.ledger.carried == gw.ledger.received == 2
        again = gw.bring("a/vib", boot="b", seq=1, dup=True)
        gw.journal.commit()
        assert gw.frames.acked == [again]
        await gw.executor.finish()
        results = gw.results_of("a/vib")
        assert [r["id"] for r in results] == [f"{row:x}" for row in rows]
        assert all(r["historical"] for r in results)
        assert len(gw.results.sent("penstock/v1/home/reply/x")) == 2
        gw.results.deliver()
        gw.journal.commit()
        assert disk.rows == {}
        await gw.check()


@pytest.mark.parametrize(
    ("after", "fates"),
    [
        (route(topic="elsewhere/{device}/{stream}"), {("dropped", "cancelled"): 1}),
        (route("latest"), {("answered", ""): 1}),
    ],
    ids=["gone", "latest now"],
)
async def test_a_carried_frame_whose_route_changed_has_its_fate_in_the_journal_s_books(
    tmp_path: Path, after: str, fates: dict[tuple[str, str], int]
) -> None:
    disk = Disk()
    async with core(tmp_path, route(), disk=disk) as gw:
        gw.bring("a/vib")
        gw.journal.commit()
        gw.kill()
    async with core(tmp_path, after, disk=disk) as gw:
        await gw.executor.finish()
        gw.results.deliver()
        gw.journal.commit()
        assert gw.ledger.fates == fates and disk.rows == {}
        assert gw.gateway._books.rest(()).received == 0
        await gw.check()


async def test_a_device_that_was_told_to_pause_before_a_kill_is_told_to_go_on(tmp_path: Path) -> None:
    disk = Disk()
    async with core(tmp_path, route(queue=1), disk=disk) as gw:
        gw.bring("a/vib", boot="b", seq=0)
        gw.journal.commit()
        await until_receipt(gw, "a/vib", window=0)
        gw.kill()
    async with core(tmp_path, route(queue=1), disk=disk) as gw:
        await settle(gw, 1)
        await until_receipt(gw, "a/vib", window=1)
        assert gw.receipts_of("a/vib")[-1]["through"] == 0


async def test_a_redelivered_frame_without_a_number_is_one_frame_even_when_it_was_refused(
    tmp_path: Path,
) -> None:
    disk = Disk()
    async with core(tmp_path, route(), disk=disk) as gw:
        for payload in (b"[1]", b"{", b""):
            gw.bring("a/vib", payload)
            gw.bring("a/vib", payload, dup=True)
        gw.journal.commit()
        assert gw.ledger.fates[("duplicate", "duplicate")] == 3
        gw.kill()
    async with core(tmp_path, route(), disk=disk) as gw:
        for payload in (b"[1]", b"{", b""):
            gw.bring("a/vib", payload, dup=True)
        assert gw.ledger.fates == {("duplicate", "duplicate"): 3}
        gw.bring("a/vib")  # the device's own second sending
        assert gw.ledger.in_flight == 2  # the carried one, and this


async def test_a_refused_frame_with_a_number_leaves_no_gap(tmp_path: Path) -> None:
    async with core(tmp_path, route()) as gw:
        for seq, payload in enumerate((b"[1]", b"", b"{", b"[1]")):
            gw.bring("a/vib", payload, boot="b", seq=seq)
        gw.journal.commit()
        await until_receipt(gw, "a/vib", window=9998)
        assert gw.receipts_of("a/vib")[-1]["missing"] == [] and gw.receipts_of("a/vib")[-1]["through"] == 3
        assert [(r["seq"], r["reason"]) for r in gw.results_of("a/vib")] == [(1, "empty"), (2, "schema")]


async def settle(gw: Core, count: int) -> None:
    """So many frames get their answer, and the journal forgets them."""
    for _ in range(count):
        await gw.executor.finish(count=1)
        gw.results.deliver(1)
    gw.journal.commit()


async def until_receipt(gw: Core, stream: str, *, window: int) -> None:
    """Wait until the stream's newest receipt has this window."""
    await until(lambda: bool(told := gw.receipts_of(stream)) and told[-1]["window"] == window)
