"""`make bench`: every speed figure, one line each, and build/bench.json.

python -m tests.bench [--only core batching overload overload-mqtt swaps loading throughput sensor latency footprint isolation sim sim-check plan]
                      [--repeats 3] [--minutes 15]
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from pathlib import Path

from tests.bench import (
    batching,
    core,
    footprint,
    isolation,
    latency,
    loading,
    overload,
    overload_mqtt,
    plan,
    report,
    sensor,
    sim,
    sim_check,
    swaps,
    throughput,
)
from tests.bench.site import store

SUITES = {
    "throughput": throughput.measure,
    "sensor": sensor.measure,
    "latency": latency.measure,
    "footprint": footprint.measure,
    "isolation": isolation.measure,
    "core": core.measure,
    "batching": batching.measure,
    "overload": overload.measure,
    "overload-mqtt": overload_mqtt.measure,
    "swaps": swaps.measure,
    "sim": sim.measure,
    "sim-check": sim_check.measure,
    "plan": plan.measure,
}
"""Each takes a folder for what it makes, a store of bundles, and the number of repeats."""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="tests.bench", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("--only", nargs="*", choices=[*SUITES, "loading"], default=[*SUITES, "loading"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=15.0, help="how long `loading` may look for quiet")
    options = parser.parse_args()
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    )
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        folder = Path(scratch)
        packed = store(folder)
        for name in options.only:
            before, steal = report.calibration_ms(), report.steal_s()
            if name == "loading":
                figures = loading.measure(folder, options.minutes)
            else:
                figures = SUITES[name](folder, packed, options.repeats)
            for found in figures:
                print(report.show(found), flush=True)
            path = report.write(figures)
            print(
                f"{name}: calibration {before:.0f} → {report.calibration_ms():.0f} ms,"
                f" steal {report.steal_s() - steal:.1f} s; {path}",
                flush=True,
            )


if __name__ == "__main__":
    main()
