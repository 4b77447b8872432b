"""What every test gets: the kit of real data, finite time, an event loop that is watched, seeds that are shown.

Time limits, "warnings are errors" and the markers stand in pyproject.toml. Helpers that only one room needs
live in that room's own tests.
"""

import asyncio
import inspect
import json
import os
import random
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Callable, Generator
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parent.parent
"""The checkout."""

SOAK = os.environ.get("PENSTOCK_SOAK") == "1"

_TICK_S = 0.05
_BLOCKED_TICKS = 10
"""An event loop that answers nothing for this many ticks (half a second) is blocked."""

# A red CI run is about the change in it, so CI draws the same examples each time; everybody else explores.
hypothesis.settings.register_profile(
    "penstock", deadline=None, print_blob=True, derandomize=os.environ.get("CI") == "true"
)
hypothesis.settings.load_profile("penstock")


NO_REALDATA = "no real data: neither PENSTOCK_REALDATA nor ../shared/realdata holds an expected.json"


def realdata_path() -> Path | None:
    """Return the kit's folder: PENSTOCK_REALDATA, else ../shared/realdata beside the checkout; None without it."""
    folder = Path(os.environ.get("PENSTOCK_REALDATA") or ROOT.parent / "shared" / "realdata")
    return folder if (folder / "expected.json").is_file() else None


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is marked and does not ask for the fixture: a parameter of a test, say."""
    if item.get_closest_marker("realdata") is not None and realdata_path() is None:
        pytest.skip(NO_REALDATA)


@pytest.fixture(scope="session")
def realdata() -> Path:
    """Return the kit's folder, or skip the test with the reason."""
    folder = realdata_path()
    if folder is None:
        pytest.skip(NO_REALDATA)
    return folder


@pytest.fixture(scope="session")
def soak() -> bool:
    """Tell whether the long form is asked for (`make soak`)."""
    return SOAK


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Return the seed of a simulation: TEST_SEED, else 1 in CI, else a new one; a failure shows it."""
    fixed = os.environ.get("TEST_SEED") or ("1" if os.environ.get("CI") == "true" else None)
    value = int(fixed) if fixed else random.SystemRandom().randrange(2**32)
    request.node.add_report_section("setup", "seed", f"TEST_SEED={value} repeats this run")
    return value


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """Return a function that gives a TCP port of 127.0.0.1 that nobody listens on."""

    from penstock_sim.site import gateway

    return gateway.free_port


class _LoopWatch:
    """A thread that asks the event loop for a sign of life, and keeps the stack of what blocks it.

    It counts its own ticks instead of reading a clock: on a starved machine it starves along with the loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.blocked = ""
        self._loop = loop
        self._loop_thread = threading.get_ident()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="loop-watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        alive = threading.Event()
        self._loop.call_soon_threadsafe(alive.set)
        silent = 0
        while not self._over.wait(_TICK_S):
            if alive.is_set():
                silent = 0
                alive.clear()
                self._loop.call_soon_threadsafe(alive.set)
            else:
                silent += 1
            if silent == _BLOCKED_TICKS:
                frame = sys._current_frames().get(self._loop_thread)
                self.blocked = "".join(traceback.format_stack(frame, limit=8))


@pytest.fixture
async def _watched_loop() -> AsyncIterator[None]:
    watch = _LoopWatch(asyncio.get_running_loop())
    watch.start()
    yield
    watch.stop()
    if watch.blocked:
        pytest.fail(
            f"the event loop was blocked for {_BLOCKED_TICKS * _TICK_S} s by\n{watch.blocked}", pytrace=False
        )


@pytest.fixture(autouse=True)
def _no_blocked_loop(request: pytest.FixtureRequest) -> None:
    if inspect.iscoroutinefunction(getattr(request.node, "obj", None)):
        request.getfixturevalue("_watched_loop")


class _RunBook:
    """What the run as a whole is asked: how many tests used the real data, and what the long forms gave.

    A report says what it is about where the test ran, and is counted where all reports come together: with several
    workers these are different processes.
    """

    def __init__(self) -> None:
        self.real = {"ran": 0, "skipped": 0}
        self.soaked: list[dict[str, object]] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        told = report.__dict__
        told["on_realdata"] = _needs_realdata(item)
        told["long_form"] = SOAK and item.get_closest_marker("soak") is not None
        forbidden = realdata_path() is not None and not hasattr(report, "wasxfail")
        if told["on_realdata"] and report.skipped and forbidden:
            told["skipped_realdata"] = True
            report.outcome = "failed"
            report.longrepr = f"the real data is there, so this may not skip: {report.longrepr}"
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        told = report.__dict__
        if told.get("on_realdata"):
            if report.skipped or told.get("skipped_realdata"):
                self.real["skipped"] += 1
            elif report.when == "call":
                self.real["ran"] += 1
        if told.get("long_form") and report.when == "call":
            self.soaked.append(
                {
                    "name": report.nodeid,
                    "outcome": report.outcome,
                    "seconds": round(report.duration, 1),
                    "figures": dict(report.user_properties),
                }
            )

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.write_line(f"realdata: {self.real['ran']} ran, {self.real['skipped']} skipped")

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if SOAK and not hasattr(session.config, "workerinput"):
            out = ROOT / "build" / "soak.json"
            out.parent.mkdir(exist_ok=True)
            out.write_text(json.dumps(self.soaked, indent=1) + "\n")


def _needs_realdata(item: pytest.Item) -> bool:
    return "realdata" in getattr(item, "fixturenames", ()) or item.get_closest_marker("realdata") is not None


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_RunBook(), "penstock-run-book")
