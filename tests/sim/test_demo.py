"""The demo's order of things and its verdict, on a stand-in gateway that ends in every way there is."""

import asyncio
import io
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer
from PIL import Image
from rich.console import Console

from penstock_models.errors import PenstockError, UsageError
from penstock_models.items import Anomaly, Detection
from penstock_sim import cli
from penstock_sim.demo import run as demo
from penstock_sim.demo import streams as demo_streams
from penstock_sim.demo.streams import BestPicture, Shown, Speed
from penstock_sim.demo.view import LiveView, PlainView, Row, ledger_line, table
from penstock_sim.load.track import StreamTrack
from penstock_sim.load.tracker import Tracker
from penstock_sim.site import gateway as site_gateway
from penstock_sim.sources import Payload, Ring

STREAMS = {"gate/cam", "dock/cam", "aisle/cam", "pump/vib", "fan/vib", "press/vib"}
ROW = Row("gate/cam", 90, 88, 9.97, 12.34, None, "2 person", "edge yard:1 on cpu")
LEDGER = {"received": 5, "answered": 3, "superseded": 1, "expired": 0, "in_flight": 1}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Few pictures, short patience, and folders that pytest clears away."""
    monkeypatch.setattr(demo_streams, "_FRAMES", 4)
    monkeypatch.setattr(demo_streams, "_WINDOWS", 4)
    monkeypatch.setattr(demo, "_DRAIN_S", 1.0)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(site_gateway, "MODELS", ())


@pytest.fixture
def behave(monkeypatch: pytest.MonkeyPatch) -> Any:
    def choose(behaviour: str) -> None:
        command = (sys.executable, "-m", "tests.sim.small_gateway", behaviour)
        monkeypatch.setattr(site_gateway, "COMMAND", command)

    return choose


def quiet() -> PlainView:
    return PlainView(Console(file=io.StringIO()))


def names(folder: str) -> set[str]:
    return {entry.name for entry in Path(folder).iterdir()}


@pytest.mark.parametrize(("behaviour", "mqtt"), [("good", "5"), ("old", "3.1.1")])
async def test_a_run_that_goes_well(behave: Any, behaviour: str, mqtt: str) -> None:
    behave(behaviour)
    outcome = await demo.run_demo(quiet(), seconds=0.6)
    assert (outcome.ok, outcome.closed, outcome.answered, outcome.mqtt) == (True, True, True, mqtt)
    assert set(outcome.streams) == STREAMS
    assert outcome.ledger["received"] == sum(books.sent for books in outcome.streams.values())
    assert all(books.latency_ms["p50"] is not None for books in outcome.streams.values())
    assert outcome.streams["gate/cam"].last == "1 person"
    assert outcome.streams["pump/vib"].who == "edge fake:1 on cpu"
    assert outcome.picture is not None
    with Image.open(outcome.picture) as picture:
        assert picture.width / picture.height == pytest.approx(4 / 3)
    assert names(outcome.folder) == {"bundles", "gateway.toml", "gateway.log", "picture.jpg"}


@pytest.mark.parametrize(
    ("behaviour", "closed", "answered", "exit_code"),
    [("mute", True, False, 0), ("loses", False, True, 0), ("crashes", True, True, 3)],
)
async def test_a_run_that_does_not_is_not_ok(
    behave: Any, behaviour: str, closed: bool, answered: bool, exit_code: int
) -> None:
    behave(behaviour)
    outcome = await demo.run_demo(quiet(), seconds=0.6)
    assert (outcome.closed, outcome.answered, outcome.exit_code) == (closed, answered, exit_code)
    assert not outcome.ok


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [("dies", r"ended with 2; its log .*gateway.log ends with: .*on fire"), ("vanishes", r"status|broker")],
)
async def test_a_gateway_that_is_gone_is_one_clear_error(behave: Any, behaviour: str, words: str) -> None:
    behave(behaviour)
    with pytest.raises(PenstockError, match=words):
        await demo.run_demo(quiet(), seconds=30.0)


async def test_ctrl_c_drains_and_closes_the_books(behave: Any) -> None:
    behave("good")

    class PressesCtrlC(PlainView):
        def show(self, rows: Any, ledger: Any, seconds: float, final: bool = False) -> None:
            if all(row.answered for row in rows) and not final:
                os.kill(os.getpid(), signal.SIGINT)

    outcome = await demo.run_demo(PressesCtrlC(Console(file=io.StringIO())), seconds=None)
    assert outcome.ok


async def test_ctrl_c_before_the_start_leaves_nothing_behind(behave: Any) -> None:
    behave("sleeps")
    seen: list[site_gateway.Gateway] = []

    class PressesCtrlC(PlainView):
        def say(self, text: str) -> None:
            if text.startswith("waiting"):
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        ready = site_gateway.Gateway.ready

        async def note(self: site_gateway.Gateway) -> None:
            seen.append(self)
            await ready(self)

        patch.setattr(site_gateway.Gateway, "ready", note)
        with pytest.raises(asyncio.CancelledError):
            await demo.run_demo(PressesCtrlC(Console(file=io.StringIO())), seconds=None)
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()
    assert seen[0].child.returncode is not None


async def test_settings_of_another_gateway_stay_outside(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PENSTOCK_MQTT__URL", "mqtt://elsewhere.example")
    monkeypatch.setenv("PENSTOCK_SITE", "plant")
    shows = "import os; print(*(key for key in os.environ if key.startswith('PENSTOCK_')))"
    monkeypatch.setattr(site_gateway, "COMMAND", (sys.executable, "-c", shows))
    async with site_gateway.with_own_broker(tmp_path / "gateway.toml") as running:
        with pytest.raises(PenstockError, match="ended with 0"):
            await running.ready()
    assert set(running.child.log.read_text().split()) == {"PENSTOCK_MQTT__LISTEN", "PENSTOCK_HTTP__LISTEN"}


def test_a_model_that_is_not_packaged_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(site_gateway, "MODELS", ("no_such_model",))
    with pytest.raises(UsageError, match="no_such_model"):
        site_gateway.prepare(tmp_path)


# --- the command ---------------------------------------------------------------------------------------------------


def outcome(ok: bool, **more: Any) -> demo.Outcome:
    ledger = {"received": 1, "answered": int(ok), "in_flight": int(not ok)}
    books = demo.StreamSummary(1, int(ok), int(ok), int(not ok), 0, 0, {}, {})
    values: dict[str, Any] = {
        "v": 1, "ok": ok, "closed": ok, "answered": ok, "exit_code": 0, "seconds": 1.0, "mqtt": "5", "ledger": ledger,
        "streams": {"gate/cam": books}, "on_time": True, "lag_ms": {}, "picture": None, "folder": "/tmp/run",
    }  # fmt: skip
    return demo.Outcome(**values | more)


@pytest.mark.parametrize("ok", [True, False])
def test_json_is_one_object_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ok: bool
) -> None:
    async def run(view: Any, seconds: float | None) -> demo.Outcome:
        view.say("progress")
        return outcome(ok)

    monkeypatch.setattr(demo, "run_demo", run)
    with pytest.raises(typer.Exit) as leave:
        cli.demo(seconds=1.0, json=True)
    printed = capsys.readouterr()
    assert leave.value.exit_code == (0 if ok else 1)
    assert printed.out.count("\n") == 1
    assert json.loads(printed.out) == msgspec.to_builtins(outcome(ok))
    assert "progress" in printed.err


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (
            outcome(True, picture="/tmp/p.jpg"),
            ("(closed)", "every stream was answered", "/tmp/p.jpg", "-c /tmp/run/"),
        ),
        (outcome(False), ("(NOT closed)", "no answer for gate/cam")),
        (outcome(True, exit_code=3), ("ended with 3", "/tmp/run/gateway.log")),
    ],
)
def test_the_closing_words(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    made: demo.Outcome,
    words: tuple[str, ...],
) -> None:
    async def run(view: Any, seconds: float | None) -> demo.Outcome:
        return made

    monkeypatch.setattr(demo, "run_demo", run)
    with pytest.raises(typer.Exit):
        cli.demo(seconds=None, json=False)
    printed = capsys.readouterr().out
    assert [word for word in words if word not in printed] == []


def test_an_interrupted_start_is_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(view: Any, seconds: float | None) -> demo.Outcome:
        raise asyncio.CancelledError

    monkeypatch.setattr(demo, "run_demo", run)
    with pytest.raises(KeyboardInterrupt):
        cli.demo(seconds=None, json=True)


# --- what is shown -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Shown(detections=()), "nothing there"),
        (Shown(detections=(_d := Detection((0, 0, 1, 1), 0.9, "person"), _d)), "2 person"),
        (Shown(detections=(_d, Detection((0, 0, 1, 1), 0.5, "forklift"))), "1 forklift, 1 person"),
        (Shown(anomaly=Anomaly(0.3, 0.1)), "ANOMALY 3.0×"),
        (Shown(anomaly=Anomaly(0.05, 0.1)), "healthy 0.5×"),
        (Shown(anomaly=Anomaly(0.05)), "score 0.05"),
        (Shown(), ""),
    ],
)
def test_an_answer_in_words(answer: Shown, words: str) -> None:
    assert answer.words() == words


def test_a_live_view_shows_every_number() -> None:
    screen = io.StringIO()
    with LiveView(Console(file=screen, force_terminal=True, width=120, color_system=None)) as view:
        view.say("starting")
        view.show([ROW], LEDGER, seconds=7.4)
    shown = screen.getvalue()
    for word in ("starting", "gate/cam", "2 person", "edge yard:1 on cpu", "88 of 90", "10.0", "12.3", "7 s"):
        assert word in shown


def test_a_narrow_terminal_keeps_the_numbers() -> None:
    screen = io.StringIO()
    long = msgspec.structs.replace(
        ROW, last="3 forklift, 2 parcel, 4 person", who="edge vibration:1 on onnxruntime:cpu"
    )
    Console(file=screen, width=80).print(table([long], 80))
    shown = screen.getvalue()
    assert max(map(len, shown.splitlines())) <= 80
    for word in ("gate/cam", "88 of 90", "10.0", "12.3", "3 forklift", "edge vibr"):
        assert word in shown


def test_a_plain_view_prints_lines_now_and_then() -> None:
    screen = io.StringIO()
    with PlainView(Console(file=screen, width=40)) as view:
        for seconds in (0.0, 4.9, 5.0, 9.9):
            view.show([ROW], LEDGER, seconds)
        view.show([ROW], LEDGER, 10.0, final=True)
    lines = screen.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["5", "5", "10", "10"]
    assert "p50 12.3 p95 - ms  2 person  (edge yard:1 on cpu)" in lines[0]


def test_the_ledger_line_leaves_out_what_is_empty() -> None:
    assert ledger_line(LEDGER) == "ledger: 5 received = 3 answered + 1 superseded + 1 in flight"


def test_speed_is_that_of_the_last_seconds() -> None:
    speed = Speed()
    rates = [speed.update(float(second), second * 10 if second < 5 else 50) for second in range(9)]
    assert rates == pytest.approx([0, 10, 10, 10, 10, 10, 20 / 3, 10 / 3, 0])


def test_the_best_picture_is_the_one_with_most_to_see() -> None:
    ring = Ring("scene", "image/jpeg", 1.0, [Payload(b"first"), Payload(b"second"), Payload(b"third")])
    best, books = BestPicture({"gate": ring}), StreamTrack("gate", "cam", "b", 1.0)
    tracker = Tracker([books])
    for seq, found in enumerate((1, 2, 0)):
        best.look(books)
        books.record(0.0, 0)
        detections = [{"box": [0, 0, 1, 1], "score": 0.5, "label": "person"}] * found
        keys = {
            "device": "gate",
            "stream": "cam",
            "boot": "b",
            "seq": seq,
            "status": "ok",
            "detections": detections,
        }
        tracker.result(msgspec.json.encode(keys), 1.0, 1000.0)
    best.look(books)
    assert best.found is not None
    assert (best.found[0], len(best.found[1].detections or ())) == (b"second", 2)
