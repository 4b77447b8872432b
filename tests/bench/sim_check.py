"""The load generator against Locust, a public load tool: the same devices, rate, payloads, broker and answers.

A process that is neither of them answers each frame and counts it. Rates are held against its count, latencies against
each other: both are from the sending to the answer, at a load that no queue comes from.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.bench.report import Figure, figure
from tests.bench.site import run_json
from tests.conftest import ROOT
from tests.fakes.broker import Broker, mosquitto

DEVICES, RATE, SECONDS, BYTES = 20, 200, 10, 300
VENV = ROOT / ".venv-locust"
BROKER = "set_tcp_nodelay true\nallow_anonymous true"


def measure(folder: Path, store: Path, repeats: int) -> Sequence[Figure]:
    if not _installed():
        return [figure("sim_over_locust_rate", [], "", note="void: Locust could not be installed")]
    folder = folder / "sim-check"
    folder.mkdir()
    rates: list[float] = []
    differences: dict[str, list[float]] = {"p50": [], "p95": []}
    notes: list[str] = []
    with mosquitto(BROKER, folder=folder) as broker:
        for _ in range(repeats):
            ours, counted = _ours(broker)
            theirs, counted_theirs = _theirs(broker, folder)
            rates.append((ours["sent"] / counted["frames"]) / (theirs["sent"] / counted_theirs["frames"]))
            for name, values in differences.items():
                values.append(ours[name] - theirs[name])
            notes.append(f"{ours['p50']:.2f}/{theirs['p50']:.2f} ms")
    note = f"{DEVICES} devices, {RATE}/s of {BYTES} B; p50 ours/theirs {', '.join(notes)}"
    what = "claimed over counted messages, ours over theirs"
    return [
        figure("sim_over_locust_rate", rates, "", note=f"{what}; {note}"),
        *(
            figure(
                f"sim_less_locust_{name}", values, "ms", most=1.0, note=f"latency, ours less theirs; {note}"
            )
            for name, values in differences.items()
        ),
    ]


def _ours(broker: Broker) -> tuple[dict[str, float], dict[str, Any]]:
    options = ("--streams", DEVICES, "--rate", RATE, "--seconds", SECONDS, "--encoding", "json")
    with _echo(broker.port) as counted:
        # 70 small numbers with their commas come to about as many bytes as the padding of the other tool
        made = run_json("tests.bench.generator", "--url", broker.url, *options, "--samples", 70)
    latency = made["latency_ms"]
    return {"sent": made["sent"], "p50": latency["p50"], "p95": latency["p95"]}, counted


def _theirs(broker: Broker, folder: Path) -> tuple[dict[str, float], dict[str, Any]]:
    command = [
        VENV / "bin" / "locust", "-f", ROOT / "tests" / "bench" / "sim_locustfile.py", "--headless", "--json",
        "--host", "127.0.0.1", "--users", DEVICES, "--spawn-rate", DEVICES, "--run-time", f"{SECONDS}s",
    ]  # fmt: skip
    own = {"SIM_RATE": str(RATE / DEVICES), "SIM_BYTES": str(BYTES), "SIM_PORT": str(broker.port)}
    with _echo(broker.port) as counted:
        done = subprocess.run(
            list(map(str, command)),
            env=os.environ | own,
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
    rows = {(row["method"], row["name"].split(":")[0]): row for row in json.loads(done.stdout)}
    answered = rows["MQTT", "answered"]
    return {"sent": float(answered["num_requests"])} | _percentiles(answered["response_times"]), counted


def _percentiles(times: dict[str, int]) -> dict[str, float]:
    """Of counts by milliseconds, as Locust keeps them."""
    values = sorted((float(ms), count) for ms, count in times.items())
    total = sum(count for _, count in values)
    found = {}
    for name, share in (("p50", 0.5), ("p95", 0.95)):
        seen = 0
        for ms, count in values:
            seen += count
            if seen >= share * total:
                found[name] = ms
                break
    return found


@contextmanager
def _echo(port: int) -> Iterator[dict[str, Any]]:
    """Somebody who answers; what it counted is in the dictionary afterwards."""
    counted: dict[str, Any] = {}
    command = (sys.executable, "-m", "tests.bench.sim_echo", str(port))
    with subprocess.Popen(command, cwd=ROOT, stdin=-1, stdout=-1, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield counted
        process.stdin.close()
        counted |= json.loads(process.stdout.read())


def _installed() -> bool:
    """Locust in an environment of its own, made at the first call; it brings a web server and coroutines that are not ours."""
    if (VENV / "bin" / "locust").exists():
        return True
    made = subprocess.run([sys.executable, "-m", "venv", VENV], capture_output=True, check=False)
    pip: list[str | Path] = [VENV / "bin" / "pip", "install", "--quiet", "locust>=2.40", "paho-mqtt>=2.1"]
    return not made.returncode and not subprocess.run(pip, capture_output=True, check=False).returncode
