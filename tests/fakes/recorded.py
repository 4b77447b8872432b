"""Runs of a scenario that never ran: rows, events and a summary made up, written and read back by the real writer."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from penstock_sim.measure.window import MixSecond, new_histogram
from penstock_sim.run.records import Event, Recorded, Row, Summary, Writer, load
from penstock_sim.run.sampler import GatewaySample, ProcessSample

SCENARIO = (
    'name = "made-up"\nabout = "Nothing of this happened."\nobjectives = ["p99_ms < 200", "lost == 0"]\n'
)
FAULTS = (
    Event(10.0, "link_cut", "for_s 8"),
    Event(18.0, "link_cut", "for_s 8", begins=False),
    Event(30.0, "clock_jump", "by_ms 90000"),
    Event(30.0, "clock_jump", "by_ms 90000", begins=False),
)


def histogram(latencies_ms: Sequence[float]) -> str:
    """As a run writes it; "" without values."""
    if not len(latencies_ms):
        return ""
    found = new_histogram()
    for value in latencies_ms:
        found.record_value(max(1, round(value * 1000)))
    text: str = found.encode().decode()
    return text


def mix_second(
    latencies_ms: Sequence[float], sent: int | None = None, late: int = 0, **fates: int
) -> MixSecond:
    """A second with these answers; `fates` beside the ok ones, `_` standing for ": "."""
    answered = len(latencies_ms)
    named = {name.replace("__", ": "): count for name, count in fates.items()}
    return MixSecond(
        answered + sum(fates.values()) if sent is None else sent,
        answered, late, {"ok": answered} | named, histogram(latencies_ms),
    )  # fmt: skip


def row(second: int, mixes: Mapping[str, MixSecond], **changes: Any) -> Row:
    plain: dict[str, Any] = {
        "connected": 4, "held": 0, "unsent": 0, "lag_p99_ms": 1.5,
        "processes": {
            "gateway": ProcessSample(0.6 + 0.05 * (second % 3), 140.0 + second / 10),
            "broker": ProcessSample(0.1, 9.0),
            "generator": ProcessSample(0.2, 80.0),
        },
        "gateway": GatewaySample(
            received=20 * second, in_flight=1, waiting=second % 4, cpu=None, rss_mb=None, celsius=None
        ),
    }  # fmt: skip
    return Row(second=second, mixes=dict(mixes), **(plain | changes))


def rows(seconds: int, seed: int = 1, rate: int = 20, median_ms: float = 20.0) -> list[Row]:
    """Two mixes, `cam` and `vib`; between 10 and 18 s nothing is answered, then what waited comes late."""
    draw = np.random.default_rng(seed)
    found = []
    for second in range(seconds):
        cut, after = 10 <= second < 18, 18 <= second < 21
        level = 8.0 if after else 1.0
        cam = [] if cut else draw.lognormal(np.log(median_ms * level), 0.3, rate).tolist()
        vib = [] if cut else draw.lognormal(np.log(median_ms / 4 * level), 0.4, rate // 2).tolist()
        found.append(
            row(
                second,
                {
                    "cam": mix_second(
                        cam, sent=rate, late=rate // 2 if after else 0,
                        expired__in_queue=2 if after else 0, rejected__decode=int(second % 7 == 0),
                    ),
                    "vib": mix_second(vib, sent=rate // 2),
                },
                connected=0 if cut else 4,
                held=rate // 2 * (second - 9) if cut else 0,
            )
        )  # fmt: skip
    return found


def summary(**changes: Any) -> Summary:
    """A run that passed; `changes` replace its fields."""
    figures = {
        "sent": 1800, "received": 1800, "answered": 1790, "answered_share": 0.9944, "late": 0, "lost": 0,
        "p50_ms": 20.1, "p95_ms": 35.0, "p99_ms": 44.0, "lag_p99_ms": 1.5, "precision": None,
    }  # fmt: skip
    stream = {
        "sent": 900, "results": 895, "answered": 890, "unanswered": 5, "repeated": 0, "unmatched": 0,
        "fates": {"ok": 890, "expired: in_queue": 5}, "latency_ms": {"p99": 44.0},
    }  # fmt: skip
    plain = {
        "name": "made-up", "run": "0a1b2c3d", "seed": 7, "began": 1_760_000_000_000, "seconds": 60.0,
        "ok": True, "on_time": True, "stopped": False,
        "objectives": [
            {"text": "p99_ms < 200", "value": 44.0, "met": True},
            {"text": "lost == 0", "value": 0.0, "met": True},
        ],
        "differences": [],
        "figures": {"": figures, "cam": figures, "vib": figures},
        "fates": {"cam": {"ok": 890, "expired: in_queue": 5}, "vib": {"ok": 900}},
        "answered_by": {"cam": {"edge": 890}, "vib": {"edge": 880, "cache": 20}},
        "unsent": {}, "lost_connections": {},
        "ledger": {
            "received": 1800, "answered": 1790, "expired": 10, "in_flight": 0,
            "reasons": {"expired": {"in_queue": 10}},
        },
        "streams": {"cam-0000/cam": stream, "vib-0000/vib": stream},
        "workers": 1,
        "machine": {
            "processor": "a processor", "cores": 2, "memory_gb": 8.0, "python": "3.11.2", "penstock": "0.1.0",
        },
    }  # fmt: skip
    return msgspec.structs.replace(msgspec.convert(plain, Summary), **changes)


def written(
    folder: Path,
    made: Sequence[Row],
    events: Sequence[Event] = FAULTS,
    closing: Summary | None = None,
    scenario: str = SCENARIO,
) -> Recorded:
    """Write a run into `folder` (new) and read it back; without `closing` it was cut off."""
    writer = Writer(folder, scenario)
    for one in made:
        writer.row(one)
    for event in events:
        writer.event(event)
    writer.close(closing)
    return load(folder)
