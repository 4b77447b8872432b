"""What the tests of OpenVINO share: a copy of its package that may be harmed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import onnxruntime as ort  # type: ignore[import-untyped]
import pytest


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the onnxruntime package by links, in which a file can be removed without harm to the environment; what is
    started from here looks there first."""
    package = Path(ort.__file__).parent
    copy = package.parent.parent / f".test-packages-{os.getpid()}"  # links stay on one disk
    shutil.copytree(package, copy / "onnxruntime", copy_function=os.link)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(copy), os.environ.get("PYTHONPATH", "")]))
    yield copy
    shutil.rmtree(copy)
