"""From the books of a run to its verdict: when it is on time, which books are compared, what is no reason to fail."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from penstock_sim.load.track import StreamReport
from penstock_sim.measure.figures import EMPTY
from penstock_sim.measure.window import MixSecond, Window
from penstock_sim.run import wire
from penstock_sim.run.judge import judge
from penstock_sim.run.records import Event, Machine, Row, Summary, Writer
from penstock_sim.run.sampler import GatewaySample, ProcessSample
from penstock_sim.scenario import read

TEXT = """
name = "two"
seed = 9
objectives = [{objectives}]
[[device]]
name = "cam"
[[device.stream]]
source = {{ kind = "bytes", size = 1 }}
rate_hz = 1
[[device]]
name = "vib"
store = 10
[[device.stream]]
source = {{ kind = "bytes", size = 1 }}
rate_hz = 1
[[phase]]
kind = "steady"
seconds = 10
{faults}
"""
KILL = '[[fault]]\nkind = "gateway_kill"\nat_s = 4'
NONE: dict[str, float | None] = {"p50": None, "p95": None, "p99": None, "max": None}
MACHINE = Machine("p", 2, 4.0, "3.11", "0.1")


def report(sent: int, answered: int | None = None, **keys: Any) -> StreamReport:
    count = sent if answered is None else answered
    values: dict[str, Any] = {
        "results": count, "answered": count, "unanswered": sent - count, "repeated": 0, "unmatched": 0,
        "fates": {"ok": count}, "latency_ms": NONE, "answered_by": {"edge": count},
    }  # fmt: skip
    return StreamReport(sent=sent, **values | keys)


def page(start: str, starts: Any = (), **received: int) -> dict[str, Any]:
    """A status page; each keyword is a stream "MIX-0000/cam" and what it received and answered."""
    streams = {
        f"{mix}-0000/cam": dict(EMPTY) | {"received": n, "answered": n, "reasons": {}}
        for mix, n in received.items()
    }
    total = dict(EMPTY) | {
        name: sum(one[name] for one in streams.values()) for name in ("received", "answered")
    }
    return {"start": start, "streams": streams, "ledger": total, "starts": list(starts)}


def second(answered: int, latency_ms: float) -> MixSecond:
    window = Window()
    for _ in range(answered):
        window.result("ok", True, latency_ms, None)
    return window.cut(answered)


def row(number: int, cpu: float = 0.5, rss_mb: float = 100.0) -> Row:
    mixes = {"cam": second(1, 10.0), "vib": second(1, 40.0)}
    processes = {"gateway": ProcessSample(cpu, rss_mb), "broker": ProcessSample(cpu / 2, 5.0)}
    return Row(second=number, mixes=mixes, connected=2, held=0, unsent=0, lag_p99_ms=1.0, processes=processes)


def judged(
    folder: Path,
    cam: StreamReport | None = None,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    objectives: str = '"lost == 0"',
    faults: str = "",
    rows: Sequence[Row] | None = None,
    **keys: Any,
) -> Summary:
    """The verdict on a run in which both mixes sent and heard ten frames, but for what is said."""
    values: dict[str, Any] = {
        "streams": {"cam": {"cam-0000/cam": cam or report(10)}, "vib": {"vib-0000/cam": report(10)}},
        "unsent": {}, "lag_ms": NONE | {"p99": 1.0}, "sent_lag_ms": NONE, "lost_connections": {"cut": 2},
        "refused": 0, "foreign": 0, "undecodable": 0, "stopped": False, "behind": 0,
    }  # fmt: skip
    (folder / "two.toml").write_text(TEXT.format(objectives=objectives, faults=faults))
    loaded = read(folder / "two.toml")
    writer = Writer(folder / "run", loaded.text)
    for one in rows or [row(number, rss_mb=100.0 + number) for number in range(10)]:
        writer.row(one)
    writer.close(None)
    return judge(
        loaded, "r", 5, wire.Done(**values | keys), folder / "run", before or page("a"),
        after or page("a", cam=10, vib=10), 1, MACHINE, ("n",),
    )  # fmt: skip


def test_a_run_whose_books_close_in_time_is_ok(tmp_path: Path) -> None:
    found = judged(tmp_path)
    assert (found.ok, found.on_time, found.differences, found.objectives[0].met) == (True, True, (), True)
    assert (found.name, found.seed, found.seconds, found.notes) == ("two", 9, 10.0, ("n",))
    assert found.figures[""]["sent"] == 20 and found.figures["cam"]["sent"] == 10
    assert found.figures["cam"]["p99_ms"] == pytest.approx(10.0, rel=0.001)
    assert found.figures[""]["p99_ms"] == pytest.approx(40.0, rel=0.001)
    assert found.figures[""]["goodput_per_s"] == 2.0
    run = {"lag_p99_ms": 1.0, "lost_connections": 2, "unsent": 0, "gateway_cpu": 0.5, "broker_cpu": 0.25,
           "gateway_rss_mb": 109.0, "gateway_rss_growth": 109 / 102 - 1}  # fmt: skip
    assert {name: found.figures[""][name] for name in run} == pytest.approx(run)
    assert (found.fates["cam"], found.answered_by["vib"]) == ({"ok": 10}, {"edge": 10})


@pytest.mark.parametrize(
    ("keys", "on_time", "ok"),
    [
        ({"behind": 3}, True, True),
        ({"behind": 4}, False, False),
        ({"behind": 5, "cam": report(490), "after": page("a", cam=490, vib=10)}, True, True),
        ({"behind": 6, "cam": report(490), "after": page("a", cam=490, vib=10)}, False, False),
        ({"unsent": {"end": 1}}, False, False),
        ({"unsent": {"full": 1}}, False, False),
        ({"unsent": {"stale": 1}}, True, True),
        ({"stopped": True}, True, False),
        ({"undecodable": 1}, True, False),
        ({"foreign": 1}, True, True),
        ({"stopped": True, "unsent": {"end": 5}}, True, False),
        ({"objectives": '"unsent > 0"'}, True, False),
        ({"objectives": '"cam.p99_ms < 11", "vib.p99_ms < 11"'}, True, False),
        ({"objectives": '"precision > 0"'}, True, False),
        ({"after": page("a", cam=9, vib=10)}, True, False),
        ({"cam": report(10, answered=9)}, True, False),
    ],
)
def test_what_is_late_open_unmet_or_stopped_is_not_ok(
    tmp_path: Path, keys: dict[str, Any], on_time: bool, ok: bool
) -> None:
    found = judged(tmp_path, **keys)
    assert (found.on_time, found.ok) == (on_time, ok)


def test_a_difference_names_its_stream(tmp_path: Path) -> None:
    found = judged(tmp_path, after=page("a", cam=9, vib=10))
    assert [str(one) for one in found.differences] == [
        "cam-0000/cam: results answered: expected 9, came 10",
        "cam-0000/cam: frames lost: expected 0, came 1",
    ]
    assert (found.figures["cam"]["lost"], found.figures["vib"]["lost"], found.figures[""]["lost"]) == (
        1,
        0,
        1,
    )


def test_what_was_there_before_the_run_is_not_of_it(tmp_path: Path) -> None:
    found = judged(tmp_path, before=page("a", cam=5, old=7), after=page("a", cam=15, vib=10, old=7))
    assert found.ok and found.ledger is not None and found.ledger["received"] == 20


def test_a_gateway_that_was_killed_is_held_to_its_total(tmp_path: Path) -> None:
    ended = {"start": "a", "ledger": page("a", cam=4, vib=6)["ledger"], "carried_out": 0, "unknown": 0}
    whole = judged(tmp_path, after=page("b", [ended], cam=6, vib=4), faults=KILL)
    assert whole.ok and not whole.differences
    assert (whole.figures[""]["lost"], whole.figures[""]["received"]) == (0, 20)
    assert "lost" not in whole.figures["cam"]


def test_a_kill_does_not_excuse_more_than_its_last_second(tmp_path: Path) -> None:
    ended = {"start": "a", "ledger": page("a", cam=1, vib=1)["ledger"], "carried_out": 0, "unknown": 0}
    found = judged(tmp_path, after=page("b", [ended], cam=4, vib=4), faults=KILL)
    assert [one.what for one in found.differences] == ["results answered"]


def test_a_start_that_the_gateway_forgot_is_a_difference(tmp_path: Path) -> None:
    found = judged(tmp_path, after=page("z", cam=10, vib=10), faults=KILL)
    assert [one.what for one in found.differences] == ["starts that the gateway remembers from the begin on"]
    assert not found.ok and found.ledger is None


def test_a_gateway_that_could_not_be_asked_leaves_the_books_one_sided(tmp_path: Path) -> None:
    (tmp_path / "two.toml").write_text(TEXT.format(objectives='"answered == 10"', faults=""))
    loaded = read(tmp_path / "two.toml")
    writer = Writer(tmp_path / "run", loaded.text)
    writer.event(Event(0.5, "link_cut", "", True))
    writer.close(None)
    done = wire.Done({"cam": {"c": report(10)}, "vib": {}}, {}, NONE, 0, NONE, {}, 0, 0, 0, False)
    found = judge(loaded, "r", 5, done, tmp_path / "run", None, None, 1, MACHINE, ())
    assert (found.ledger, found.differences, found.ok) == (None, (), True)
    assert "lost" not in found.figures[""]


def test_a_remote_gateway_s_own_figures_are_taken_where_its_process_is_not_ours(tmp_path: Path) -> None:
    rows = [
        Row(
            second=n, mixes={"cam": second(1, 1.0), "vib": second(1, 1.0)}, connected=2, held=0, unsent=0,
            lag_p99_ms=None, gateway=GatewaySample(1, 0, 0, cpu=0.1 * n if n else None, rss_mb=50.0 + n),
        )
        for n in range(8)
    ]  # fmt: skip
    found = judged(tmp_path, rows=rows).figures[""]
    assert found["gateway_cpu"] == pytest.approx(0.4)
    assert (found["gateway_rss_mb"], found["broker_cpu"]) == (57.0, None)
    assert found["gateway_rss_growth"] == pytest.approx(57 / 52 - 1)
