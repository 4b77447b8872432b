"""systemd's view of a gateway: ready when it is, alive while its event loop turns, started anew when that is blocked."""

import configparser
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from penstock_gateway.watchdog import SIGNS, Watchdog
from tests.fakes.gateway import gateway
from tests.fakes.service_manager import ServiceManager

pytestmark = pytest.mark.system

UNIT = Path(__file__).parents[2] / "deploy" / "penstock-gateway.service"
CONFIG = """
site = "home"
gateway = "gw1"
[mqtt]
url = "embedded"
listen = "127.0.0.1:{port}"
[models]
path = "{store}"
[[route]]
topic = "penstock/v1/home/dev/{{device}}/{{stream}}/data"
model = "halves"
mode = "latest"
"""


def config(store: Path, folder: Path, port: int) -> Path:
    return gateway(CONFIG.format(store=store, port=port), folder).config


def test_a_blocked_event_loop_is_started_anew(
    store: Path, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """With the unit's 30 s shortened to 1.5: what counts is that signs of life come three times as often as needed, and
    stop with the loop."""
    path = config(store, tmp_path, free_port())
    command = [sys.executable, "-m", "tests.fakes.blocked_gateway", "3.0", str(path)]
    with ServiceManager(command, tmp_path, watchdog_s=1.5) as manager:
        assert manager.serve(20.0, until="READY=1"), manager.log
        assert manager.serve(20.0, until="READY=1"), manager.log
        assert len(manager.restarts) == 1, manager.states
        last = max(at for at, state in manager.states if at < manager.restarts[0])
        assert manager.restarts[0] - last < 1.7


def test_a_gateway_says_when_it_is_ready_alive_and_stopping(
    store: Path, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    command = [sys.executable, "-m", "penstock_models.main", "gateway", "run", "-c",
               str(config(store, tmp_path, free_port()))]  # fmt: skip
    with ServiceManager(command, tmp_path, watchdog_s=1.5) as manager:
        assert manager.serve(20.0, until="READY=1"), manager.log
        manager.serve(3.0)
        assert manager.restarts == []
        assert 4 <= sum(state == "WATCHDOG=1" for _, state in manager.states) <= 9
        assert manager.stop() == 0
        assert manager.serve(2.0, until="STOPPING=1")


def test_the_unit_asks_for_what_the_gateway_gives() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[method-assign,assignment]
    unit.read(UNIT)
    service = unit["Service"]
    assert service["Type"] == "notify" and int(service["WatchdogSec"]) == 30
    watchdog = Watchdog({"NOTIFY_SOCKET": "/run/systemd/notify", "WATCHDOG_USEC": "30000000"})
    assert watchdog.period_s * SIGNS == 30


def test_without_a_manager_nothing_is_sent() -> None:
    assert Watchdog({}).period_s == 0
    Watchdog({"NOTIFY_SOCKET": "/nowhere/at/all"}).tell("READY=1")
    elsewhere = {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}
    assert Watchdog(elsewhere).period_s == 0
