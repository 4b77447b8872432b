"""Gives a frame its fate: the ledger's entry, the result message and, for a journalled frame, the end of its row.

The order is what makes the effect exactly once: the result is published, the broker acknowledges it, and only then
does the journal forget the frame. A gateway that dies between the two answers again, under the same result id.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from penstock_gateway.frames import Frame
from penstock_gateway.journal import Journal
from penstock_gateway.ledger import OK, Counts, Fate
from penstock_gateway.logs import Limiter, Log
from penstock_gateway.metrics import ModelTimes, Tally
from penstock_gateway.mqtt import Link, Publish
from penstock_gateway.wire import LatencyMs, ModelView, Offload, Result, encode_result
from penstock_models.items import Answer, Outcome, Refusal
from penstock_models.scheduling.runs import VersionRun

log = Limiter(Log(__name__))

EDGE = Offload(decision="edge", reason="policy")
SILENT = frozenset(("superseded", "duplicate", "dropped"))
"""Buckets that are counted and not published."""
MAX_RESULT_BYTES = 16 << 20
"""A larger result is none: the shipped broker takes no larger message, and the outbox must hold a few."""


class Results:
    """Settles frames.

    Args:
        link: carries results; never paused, so acknowledgements come back however full the gateway is.
        journal: forgets a frame once its fate is safe.
        journalled: the part of the ledger that the journal's durable books count, kept apart for the checkpoint.
        on_room: called with every lane that let go of a frame.
    """

    def __init__(
        self,
        link: Link,
        journal: Journal,
        journalled: Counts,
        tally: Tally,
        on_room: Callable[[Frame], None],
    ) -> None:
        self._link = link
        self._journal = journal
        self._journalled = journalled
        self._tally = tally
        self._on_room = on_room
        self._held: deque[tuple[Publish, Frame, Fate]] = deque()

    def outcomes(self, model: VersionRun, batch: list[Frame], outcomes: Sequence[Outcome]) -> None:
        """Settle a batch that ran."""
        now = time.monotonic()
        info = model.info
        view = ModelView(info.name, info.version, info.digest)
        times = self._tally.times(info.name, info.version)
        for frame, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, Answer):
                self._answer(frame, outcome, view, info.placement, now, times)
            else:
                self.refuse(frame, outcome)

    def refuse(self, frame: Frame, refusal: Refusal) -> None:
        """Settle a frame without an answer: a result that says why, or only the count where the contract has none."""
        fate = (refusal.bucket, refusal.reason)
        if refusal.bucket in SILENT:
            self.count(frame, fate)
            return
        if refusal.detail:
            log.info(
                "frame refused",
                stream=frame.stream.key,
                fate=":".join(fate),
                detail=refusal.detail,
                id=frame.id,
            )
        result = self._result(frame, *fate, now=time.monotonic())
        self._publish(frame, encode_result(result), fate)

    def settle(self, frames: list[Frame], fate: Fate) -> None:
        """Settle frames that were not run."""
        for frame in frames:
            self.refuse(frame, Refusal(*fate))

    def count(self, frame: Frame, fate: Fate) -> None:
        """Settle a frame that gets no result."""
        self._book(frame, fate)
        self._forget(frame, fate)

    def _answer(
        self, frame: Frame, answer: Answer, model: ModelView, placement: str, now: float, times: ModelTimes
    ) -> None:
        queue_ms = (frame.taken - frame.arrived) * 1e3
        total_ms = (now - frame.arrived) * 1e3
        latency = LatencyMs(queue_ms, answer.decode_ms, answer.infer_ms, 0.0, total_ms)
        result = self._result(frame, "ok", None, now)
        result.answered_by, result.model, result.placement = (
            "cache" if answer.cached else "edge",
            model,
            placement,
        )
        result.latency_ms, result.offload = latency, EDGE
        result.detections, result.classes = answer.detections, answer.classes
        result.anomaly, result.outputs = answer.anomaly, answer.outputs
        payload = encode_result(result)
        if len(payload) > MAX_RESULT_BYTES:
            detail = f"a result of {len(payload)} bytes, at most {MAX_RESULT_BYTES} can be sent"
            self.refuse(frame, Refusal("failed", "model_output", detail))
            return
        if now > frame.due:
            frame.stream.counts.late += 1
        times.queue.observe(queue_ms)
        times.decode.observe(answer.decode_ms)
        times.infer.observe(answer.infer_ms)
        times.total.observe(total_ms)
        self._publish(frame, payload, OK)

    def _result(self, frame: Frame, status: str, reason: str | None, now: float) -> Result:
        return Result(
            id=frame.id,
            device=frame.stream.device,
            stream=frame.stream.name,
            seq=frame.seq,
            boot=frame.boot,
            ts=frame.ts,
            arrived=frame.arrived_ms,
            status=status,
            reason=reason,
            ts_suspect=frame.ts_suspect,
            historical=frame.historical,
            latency_ms=LatencyMs(total=(now - frame.arrived) * 1e3),
        )

    def _publish(self, frame: Frame, payload: bytes, fate: Fate) -> None:
        self._book(frame, fate)
        if frame.response_topic:
            reply = Publish(frame.response_topic, payload, min(frame.qos, 1), correlation=frame.correlation)
            if not self._link.publish(reply, self._send_held):
                self._tally.undelivered += 1
        message = Publish(frame.stream.result_topic, payload, min(frame.qos, 1))
        if (self._held and frame.row) or not self._send(message, frame, fate):
            self._wait_for_room(message, frame, fate)

    def _send(self, message: Publish, frame: Frame, fate: Fate) -> bool:
        if frame.row:
            return self._link.publish(message, partial(self._delivered, frame, fate))
        if not self._link.publish(message, self._send_held):  # whatever leaves the outbox makes room
            return False
        self._forget(frame, fate)
        return True

    def _wait_for_room(self, message: Publish, frame: Frame, fate: Fate) -> None:
        """The outbox is full. A journalled frame waits: its lane stays full and stops reading. Others are counted."""
        if frame.row:
            self._held.append((message, frame, fate))
        else:
            self._tally.undelivered += 1
            self._forget(frame, fate)

    def _delivered(self, frame: Frame, fate: Fate) -> None:
        self._forget(frame, fate)
        self._send_held()

    def _send_held(self) -> None:
        while self._held and self._send(*self._held[0]):
            self._held.popleft()

    def _book(self, frame: Frame, fate: Fate) -> None:
        frame.stream.counts.settle(fate)
        if frame.every:
            self._journalled.settle(fate)

    def _forget(self, frame: Frame, fate: Fate) -> None:
        if frame.row:
            self._journal.settle(frame.row, fate)
        self._on_room(frame)
