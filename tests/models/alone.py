"""Runs code in a process of its own: in a test's, threads and garbage of other tests take and free memory meanwhile."""

import subprocess
import sys

from tests.conftest import ROOT


def alone(code: str) -> None:
    """Run it where the checkout's modules are found; what it raises fails the test."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
