"""One stream under examination: its rules, and what the report says of it beside the findings. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec

from penstock_gateway.mqtt import Message
from penstock_models.errors import one_line
from penstock_sim.doctor.clock import BOUND_S, Clock
from penstock_sim.doctor.findings import MOST_TEXT, Trouble
from penstock_sim.doctor.numbers import GAP_S, Numbers
from penstock_sim.doctor.payload_rules import Expiry, PayloadType, payload_trouble
from penstock_sim.doctor.places import Kind
from penstock_sim.doctor.receipts import Receipts
from penstock_sim.doctor.seen import Limits, Seen, look

_OTHERS_FAULTS = {"quota", "topic"}
"""Reasons of the gateway that are no fault of the device's, or found by the topic."""
_MOST_ANSWERS = 64


class Rules(msgspec.Struct, frozen=True):
    """The bounds of the rules, in seconds, and the gateway's limits."""

    limits: Limits = Limits()
    skew_s: float = BOUND_S
    gap_s: float = GAP_S


USUAL = Rules()


class StreamView(msgspec.Struct, frozen=True):
    """What was seen of a stream. `answers` are the gateway's results by status, and reason where there is one."""

    frames: int
    bytes: int
    form: str
    boots: int
    numbered: int
    timed: int
    receipted: bool
    answers: dict[str, int]


class _Result(msgspec.Struct):
    status: str = ""
    reason: str | None = None


_result = msgspec.json.Decoder(_Result)


class WatchedStream:
    """Feed it messages; it says what is wrong."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._receipts = Receipts()
        self._numbers = Numbers(self._receipts, rules.gap_s)
        self._clock = Clock(rules.skew_s)
        self._type = PayloadType()
        self._expiry = Expiry()
        self._answers: Counter[str] = Counter()
        self._refusals: set[str] = set()
        self._last: Seen | None = None
        self._frames = self._bytes = self._timed = 0
        self._form = ""
        self.properties = False
        """Whether a frame carried what only MQTT 5 has."""

    @property
    def frames(self) -> int:
        return self._frames

    @property
    def unseen(self) -> int:
        """Frames that the gateway has, and that did not come by here."""
        return self._numbers.unseen

    @property
    def awaited(self) -> int:
        """Numbers that are missing still, not for long enough to be called lost."""
        return self._numbers.awaited

    @property
    def unnumbered(self) -> int:
        """Frames without `seq`."""
        return self._frames - self._numbers.frames

    def frame(self, kind: Kind, message: Message, at: float, wall_ms: int) -> Iterable[Trouble]:
        """A frame of the device, on a topic of that kind."""
        if message.retain:
            return self._retained(message, at, wall_ms)
        seen = look(message, at, wall_ms, self._rules.limits)
        self._count(seen)
        trouble = payload_trouble(seen, self._rules.limits)
        found = [trouble] if trouble is not None else []
        found += self._receipts.observe(seen)
        for rule in (self._numbers, self._clock, self._type):
            found += rule.observe(seen)
        if kind == "frame" or (kind == "own" and seen.is_a.startswith("image/")):
            self._expiry.observe(seen)
        return found

    def _retained(self, message: Message, at: float, wall_ms: int) -> Iterable[Trouble]:
        """Gateways pass it over, and so do the other rules: who knows from when it is."""
        if not message.payload:  # that is how a retained message is taken away
            return ()
        seen = look(message, at, wall_ms, self._rules.limits)
        self._numbers.excuse(seen)
        came = f"a retained message of {seen.size} bytes"
        return (seen.trouble("retained", "frames without the retain flag", came),)

    def receipt(self, message: Message, at: float) -> None:
        """A receipt for the device."""
        self._receipts.told(message, at)

    def result(self, message: Message) -> None:
        """The gateway's word on a frame."""
        try:
            result = _result.decode(message.payload)
        except msgspec.MsgspecError:
            return
        word = f"{result.status}: {result.reason}" if result.reason else result.status
        if word in self._answers or len(self._answers) < _MOST_ANSWERS:
            self._answers[word] += 1

    def tick(self, now: float) -> Iterable[Trouble]:
        """Time passed."""
        return self._numbers.tick(now)

    def close(self, now: float, expiring: bool) -> Iterable[Trouble]:
        """The last words; `expiring` says whether the device can set a Message Expiry, and we can see it."""
        yield from self._numbers.tick(now)
        yield from self._clock.close()
        if expiring and not self._receipts.any:
            yield from self._expiry.close()
        yield from self._refused()

    def _refused(self) -> Iterable[Trouble]:
        """What the gateway refused and was not found here: it decodes pictures and reads numbers."""
        for word, count in self._answers.items():
            status, _, reason = word.partition(": ")
            if status == "rejected" and reason not in self._refusals | _OTHERS_FAULTS:
                topic = self._last.topic if self._last is not None else ""
                yield Trouble(
                    "refused", "a frame that the gateway can read", f"its result {word!r}", topic, None, count
                )

    def _count(self, seen: Seen) -> None:
        self._last = seen
        self._frames += 1
        self._bytes += seen.size
        self._timed += seen.header.ts is not None
        self.properties = self.properties or seen.properties
        self._form = seen.form or self._form
        if seen.refusal is not None:
            self._refusals.add(seen.refusal.reason)

    def view(self) -> StreamView:
        return StreamView(
            frames=self._frames,
            bytes=self._bytes,
            form=one_line(self._form, MOST_TEXT),
            boots=self._numbers.boots,
            numbered=self._numbers.frames,
            timed=self._timed,
            receipted=self._receipts.any,
            answers={one_line(word, MOST_TEXT): n for word, n in self._answers.items()},
        )
