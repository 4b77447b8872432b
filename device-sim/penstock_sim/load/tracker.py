"""All streams of a process: results find the books of their stream; what is foreign or no result is counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from penstock_sim.load.clock import ClockOffset
from penstock_sim.load.track import Result, StreamTrack

_decoder = msgspec.json.Decoder(Result)

OnResult = Callable[[StreamTrack, str, bool, float], None]
"""A stream, the fate, whether it is an answer, and the latency in ms."""


class Tracker:
    """All streams of a process. Results of foreign devices or boots (`foreign`) and what is no result (`undecodable`) are
    only counted; `offset` is what the results say of the gateway's clock."""

    def __init__(self, tracks: Iterable[StreamTrack], on_result: OnResult | None = None) -> None:
        self._tracks: dict[tuple[str, str, str], StreamTrack] = {}
        self._all: list[StreamTrack] = []
        self._on_result = on_result
        self.foreign = self.undecodable = 0
        self.offset = ClockOffset()
        for track in tracks:
            self.add(track)

    def add(self, track: StreamTrack) -> None:
        """Take a stream's books in; a result that names no boot is of the stream's newest one."""
        self._all.append(track)
        self._tracks[track.device, track.stream, ""] = track
        if track.stamped:
            self._tracks[track.device, track.stream, track.boot] = track

    def result(self, body: bytes, now_s: float, now_ms: float) -> None:
        """Take one message of a `…/result` topic, received at monotonic time `now_s` and epoch time `now_ms`."""
        try:
            result = _decoder.decode(body)
        except msgspec.MsgspecError:
            self.undecodable += 1
            return
        track = self._tracks.get((result.device, result.stream, result.boot or ""))
        if track is None:
            self.foreign += 1
            return
        if result.arrived:
            sent_ms = track.sent_ms(result.seq) if track.stamped else None
            self.offset.see(result.arrived, now_ms, sent_ms)
        latency_ms = track.resolve(result, body, now_s, now_ms, result.arrived - self.offset.ms)
        if latency_ms is not None and self._on_result is not None:
            self._on_result(track, result.fate, result.is_answer, latency_ms)

    @property
    def outstanding(self) -> int:
        """Sent frames without a result; what is only counted by the gateway (superseded, dropped) stays here."""
        return sum(track.sent - track.matched for track in self._all)
