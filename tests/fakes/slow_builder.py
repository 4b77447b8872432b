"""A TensorRT that builds until it is told to go on, for the processes that a test starts; see `tensorrt/onnxruntime.py`."""

from __future__ import annotations

import os
from pathlib import Path

_PLACE = Path(__file__).parent / "tensorrt"


def python_path() -> str:
    """What `PYTHONPATH` must be."""
    return os.pathsep.join([str(_PLACE), *filter(None, [os.environ.get("PYTHONPATH")])])


def builds(cache: Path) -> list[str]:
    """What began and ended below a cache's folder, in order, each with the number of its process."""
    return (cache / "builds").read_text().splitlines()


def go_on(cache: Path) -> None:
    """Let builds end."""
    (cache / "go").touch()
