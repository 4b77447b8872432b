"""Results: what is published, what waits for room, when the journal forgets."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from penstock_gateway import results
from penstock_models.items import Answer, OutputTensor, Refusal
from tests.fakes.gateway_core import Core, core, route, until

CAM = "penstock/v1/home/dev/{device}/{stream}/frame"
REPLY = "penstock/v1/home/reply/x"


async def send(gw: Core, count: int, **options: Any) -> None:
    """Bring so many durable frames and let them run."""
    for seq in range(count):
        gw.bring("a/vib", boot="b", seq=seq, **options)
    gw.journal.commit()
    for _ in range(count):
        await gw.executor.finish()


def answered(gw: Core) -> list[int]:
    return [result["seq"] for result in gw.results_of("a/vib")]


async def test_the_journal_forgets_a_frame_when_the_broker_has_its_result(tmp_path: Path) -> None:
    async with core(tmp_path, route()) as gw:
        await send(gw, 1)
        gw.journal.commit()
        assert len(gw.journal.disk.rows) == 1  # published, and not yet taken
        gw.results.deliver()
        gw.journal.commit()
        assert gw.journal.disk.rows == {} and gw.journal.disk.settled == [(1, ("answered", ""))]


async def test_a_full_outbox_holds_journalled_results_back_in_order(tmp_path: Path) -> None:
    async with core(tmp_path, route(queue=6)) as gw:
        gw.results.room = 2
        await send(gw, 6)
        gw.results.room = 10_000  # one that came later would now pass the others
        gw.bring("a/vib", boot="b", seq=6)
        gw.journal.commit()
        await gw.executor.finish()
        assert answered(gw) == [0, 1] and gw.frames.paused
        gw.results.deliver()
        assert answered(gw) == list(range(7)) and not gw.frames.paused
        gw.results.deliver()
        gw.journal.commit()
        assert gw.journal.disk.rows == {}
        await gw.check()


@pytest.mark.parametrize("qos", [0, 1])
async def test_held_results_go_out_when_those_of_cameras_leave_the_outbox(tmp_path: Path, qos: int) -> None:
    async with core(tmp_path, route(), route("latest", CAM)) as gw:
        gw.results.room = 1
        gw.bring("x/cam", kind="frame", link=gw.links["latest"], qos=qos)
        await gw.executor.finish()
        every = next(link for name, link in gw.links.items() if name.startswith("every"))
        gw.bring("a/vib", boot="b", seq=0, link=every)
        gw.journal.commit()
        await gw.executor.finish()
        assert answered(gw) == []
        gw.results.deliver(1)
        assert answered(gw) == [0]


async def test_a_camera_s_result_without_room_is_counted_and_forgotten(tmp_path: Path) -> None:
    async with core(tmp_path, route("latest", CAM)) as gw:
        gw.results.room = 0
        gw.bring("a/cam", kind="frame")
        await gw.executor.finish()
        assert gw.ledger.fates == {("answered", ""): 1}
        assert b"penstock_results_undelivered_total 1.0" in gw.gateway._views.metrics()
        assert gw.gateway._lanes[0].frames == 0


async def test_a_response_topic_gets_the_result_with_its_correlation_too(tmp_path: Path) -> None:
    async with core(tmp_path, route()) as gw:
        await send(gw, 1, response_topic=REPLY, correlation=b"c")
        assert gw.results.sent(REPLY) == gw.results_of("a/vib")
        reply = next(message for message, _ in gw.results.outbox if message.topic == REPLY)
        assert (reply.correlation, reply.qos, reply.retain) == (b"c", 1, False)


async def test_the_result_says_who_answered_and_when(tmp_path: Path) -> None:
    async with core(tmp_path, route()) as gw:
        await send(gw, 1)
        (result,) = gw.results_of("a/vib")
        assert result["answered_by"] == "edge" and result["placement"] == "fake:cpu"
        assert result["model"] == {"name": "m", "version": 1, "digest": "sha256:m"}
        assert result["offload"] == {"decision": "edge", "reason": "policy", "score": None}
        assert result["latency_ms"]["total"] >= result["latency_ms"].get("queue", 0) >= 0


async def test_a_refused_frame_has_no_model_and_its_reason(tmp_path: Path) -> None:
    async with core(tmp_path, route()) as gw:
        gw.bring("a/vib", boot="b", seq=0)
        gw.journal.commit()
        await gw.executor.finish(lambda _: Refusal("failed", "model_error", "no"))
        (result,) = gw.results_of("a/vib")
        assert (result["status"], result["reason"]) == ("failed", "model_error")
        assert result["model"] is None and result["answered_by"] is None


async def test_an_answer_that_ends_after_its_deadline_is_late_and_answered(tmp_path: Path) -> None:
    async with core(tmp_path, route(deadline_ms=100)) as gw:
        gw.bring("a/vib", boot="b", seq=0)
        gw.journal.commit()
        await until(lambda: bool(gw.executor.running))
        await asyncio.sleep(0.11)  # longer than the deadline
        await gw.executor.finish()
        assert gw.counts("a/vib").late == 1 and gw.ledger.fates == {("answered", ""): 1}
        assert gw.gateway._books.rest(()).late == 1


async def test_a_result_that_no_broker_takes_is_failed_instead_of_held_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "MAX_RESULT_BYTES", 1000)
    async with core(tmp_path, route()) as gw:
        gw.bring("a/vib", boot="b", seq=0)
        gw.journal.commit()
        large = Answer(outputs={"y": OutputTensor("uint8", (1000,), bytes(1000))})
        await gw.executor.finish(lambda _: large)
        (result,) = gw.results_of("a/vib")
        assert (result["status"], result["reason"]) == ("failed", "model_output")
