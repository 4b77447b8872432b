"""A link that is bad on request, against real sockets: nothing is lost or turned round that it does not cut."""

import asyncio
import hashlib
import socket
import time
from collections.abc import Callable

import pytest

from penstock_sim.faults.proxy import LinkProxy
from tests.sim.link_peers import gone, linked, reset, say, silence, through

MUCH = 8 << 20


async def test_a_good_link_hands_on_both_ways_whole_and_in_order() -> None:
    data = hashlib.shake_256(b"seed").digest(MUCH)
    async with linked() as link, through(link) as one, through(link) as other:
        one[1].write(data)
        assert await say(other, b"beside") < 5
        assert await one[0].readexactly(MUCH) == data


async def test_a_cut_ends_every_connection_and_lets_none_in_until_it_is_healed() -> None:
    async with linked() as link, through(link) as one, through(link) as other:
        await say(one, b"1")
        await say(other, b"2")
        link.cut()
        assert await gone(one) and await gone(other)
        async with through(link) as refused:
            assert await gone(refused)
        link.heal()
        async with through(link) as again:
            await say(again, b"3")


async def test_a_silent_cut_lets_nothing_through_and_tells_nobody() -> None:
    async with linked() as link, through(link) as one:
        await say(one, b"before")
        link.cut(silent=True)
        one[1].write(b"during")
        async with through(link) as other:
            other[1].write(b"new")
            await silence(one)
            await silence(other, 0.01)
            link.heal()
            assert await one[0].readexactly(6) == b"during"
            assert await other[0].readexactly(3) == b"new"


@pytest.mark.parametrize("end", ["close", "reset"])
async def test_who_goes_during_a_silent_cut_is_missed_after_it(end: str) -> None:
    heard = asyncio.get_running_loop().create_future()

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(1))
        heard.set_result(await gone((reader, writer)))
        writer.close()

    async with linked(hear) as link, through(link) as one:
        await say(one, b"x")
        link.cut(silent=True)
        if end == "reset":
            reset(one[1])
        else:
            one[1].close()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(heard), 0.1)
        link.heal()
        assert await asyncio.wait_for(heard, 5)


async def test_a_silent_cut_becomes_a_loud_one() -> None:
    async with linked() as link, through(link) as one:
        await say(one, b"x")
        link.cut(silent=True)
        one[1].write(b"never")
        await silence(one, 0.01)
        link.cut()
        assert await gone(one)


async def test_a_delay_counts_each_way_and_ends_when_it_is_taken_back() -> None:
    async with linked() as link, through(link) as one:
        link.delay(0.1)
        assert 0.2 <= await say(one, b"slow") < 1.0
        link.delay(0.0)
        assert await say(one, b"fast") < 0.1


async def test_jitter_turns_nothing_round() -> None:
    async with linked(seed=3) as link, through(link) as one:
        one[1].transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link.delay(0.0, 0.02)
        words = b"".join(b"%05d" % n for n in range(400))
        for begin in range(0, len(words), 5):
            one[1].write(words[begin : begin + 5])
            await asyncio.sleep(0)
        link.delay(0.0)
        one[1].write(b"last")
        assert await one[0].readexactly(len(words) + 4) == words + b"last"


async def test_a_narrow_link_lets_its_bytes_through_for_all_together() -> None:
    """A one-way server, as either way has its own width."""
    async with linked(swallow) as link, through(link) as one, through(link) as other:
        link.narrow(400_000)
        began = time.monotonic()
        for _, writer in (one, other):
            writer.write(bytes(150_000))
            writer.write_eof()
        assert await one[0].read() == await other[0].read() == b"150000"
        assert time.monotonic() - began == pytest.approx(300_000 / 400_000, rel=0.2)


async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say how much came until the end."""
    writer.write(b"%d" % len(await reader.read()))
    writer.close()


async def test_whoever_waits_on_a_narrow_link_goes_on_when_it_is_wide_again() -> None:
    async with linked() as link, through(link) as one, through(link) as other:
        link.narrow(1)  # for days
        one[1].write(bytes(200_000))
        other[1].write(bytes(160_000))
        await silence(one)
        link.narrow(None)
        await asyncio.wait_for(one[0].readexactly(200_000), 5)
        await asyncio.wait_for(other[0].readexactly(160_000), 5)
        assert await say(one, b"x") < 1


async def test_a_small_frame_gets_its_turn_beside_a_large_one() -> None:
    async with linked() as link, through(link) as one, through(link) as other:
        link.narrow(200_000)
        one[1].write(bytes(MUCH))
        await one[0].readexactly(1000)
        assert await say(other, b"small") < 1.0


async def test_a_direction_ends_by_itself() -> None:
    """A client that has said all hears the whole answer; so does one whose server said all first."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.read()
        writer.write(asked * 40_000)
        writer.close()

    async with linked(answer) as link, through(link) as one:
        one[1].write(b"please")
        one[1].write_eof()
        assert await one[0].read() == b"please" * 40_000

    heard = asyncio.get_running_loop().create_future()

    async def first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"welcome")
        writer.write_eof()
        heard.set_result(await reader.read())
        writer.close()

    async with linked(first) as link, through(link) as one:
        assert await one[0].read() == b"welcome"
        one[1].write(b"thanks")
        one[1].write_eof()
        assert await asyncio.wait_for(heard, 5) == b"thanks"


async def test_the_end_does_not_overtake_what_was_said_before_it() -> None:
    """Where the sockets hold next to nothing, so that the link itself still has it when both directions have ended."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read())
        writer.close()

    async with linked(answer) as link:
        assert link._server is not None
        link._server.sockets[0].setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDBUF, 4096
        )  # its connections inherit it
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.setblocking(False)
        await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", link.port))
        reader, writer = await asyncio.open_connection(sock=raw, limit=1024)
        writer.write(bytes(50_000))
        writer.write_eof()
        assert len(await reader.read()) == 50_000
        writer.close()


async def test_a_reset_goes_to_the_other_side() -> None:
    async def abort(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        reset(writer)

    async with linked(abort) as link, through(link) as one:
        one[1].write(b"x")
        assert await gone(one)


async def test_nobody_behind_the_link_ends_the_connection(free_port: Callable[[], int]) -> None:
    async with LinkProxy("127.0.0.1", free_port()) as link, through(link) as one:
        assert await gone(one)


async def test_a_side_that_does_not_read_stops_the_other() -> None:
    over = asyncio.Event()

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.transport.abort()

    async with linked(deaf) as link, through(link) as one:
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 256 << 20:
                one[1].write(bytes(1 << 18))
                await asyncio.wait_for(one[1].drain(), 1.0)
                sent += 1 << 18
        assert sent < 64 << 20  # the buffers of four sockets and a megabyte of the link's
        over.set()


@pytest.mark.parametrize("state", ["idle", "delayed", "narrow", "cut", "silent"])
async def test_nothing_is_left_at_the_end(state: str) -> None:
    before = asyncio.all_tasks()
    async with linked() as link, through(link) as one, through(link) as two:
        await say(one, b"x")
        await say(two, b"y")
        verbs: dict[str, Callable[[], None]] = {
            "delayed": lambda: link.delay(60), "narrow": lambda: link.narrow(100), "cut": link.cut,
            "silent": lambda: link.cut(silent=True), "idle": lambda: None,
        }  # fmt: skip
        verbs[state]()
        one[1].write(bytes(100_000))
        two[1].close()
        async with through(link) as late:
            if state not in ("cut", "idle"):
                await silence(late, 0.02)
    assert link._connections == set()
    if others := asyncio.all_tasks() - before:  # the echo server's, which see the end a moment later
        await asyncio.wait(others, timeout=5)
    assert asyncio.all_tasks() == before
