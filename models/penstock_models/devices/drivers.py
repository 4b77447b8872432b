"""What a device's optimised files depend on, in words: runtime, driver and hardware. For cache keys and status.

Nothing here loads a driver: versions are read from files and package metadata, and what cannot be read is `unknown`. They
are read once a process: what is upgraded on the disk meanwhile is not what this process has loaded.
"""

from __future__ import annotations

import hashlib
import platform
import re
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

PROC = Path("/proc")
UNKNOWN = "unknown"
MAX_BYTES = 1024**2

_MODEL = ("model name", "CPU implementer", "CPU part", "uarch")
_FLAGS = ("flags", "Features", "isa")


@cache
def onnxruntime_version() -> str:
    """The package that brings `onnxruntime`, and its version: `onnxruntime-openvino 1.24.1`."""
    for folder in _onnxruntime():
        facts = dict(
            re.findall(r"^(\w+) = ['\"](.*)['\"]$", _read(folder / "build_and_package_info.py"), re.M)
        )
        return f"{facts.get('package_name', 'onnxruntime')} {facts.get('__version__', UNKNOWN)}"
    return f"onnxruntime {UNKNOWN}"


@cache
def driver_version(device: str, proc: Path = PROC) -> str:
    """Versions and hardware that a file made for `device` depends on, one line; equal where it can be used again.

    Args:
        device: as in a preference list: `cpu`, `openvino`, `cuda`, `tensorrt`, …
        proc: where the kernel tells about the machine.
    """
    if device == "openvino":
        return f"openvino {_openvino()}, {_cpu(proc)}"
    if device in ("cuda", "tensorrt"):
        engine = f"tensorrt {_package('tensorrt')}, " if device == "tensorrt" else ""
        return f"{engine}nvidia {_nvidia_driver(proc)}, {_nvidia_cards(proc)}"
    if device == "cpu":
        return _cpu(proc)
    return f"{device} {UNKNOWN}, {_cpu(proc)}"


def _cpu(proc: Path) -> str:
    """Model and instruction sets: a layout that is best on one is wrong, or cannot run, on another."""
    text = _read(proc / "cpuinfo")
    model = " ".join(_field(text, name) for name in _MODEL).strip() or platform.machine()
    flags = " ".join(sorted({flag for name in _FLAGS for flag in _field(text, name).split()}))
    return f"{platform.machine()} {model} {hashlib.sha256(flags.encode()).hexdigest()[:12]}"


def _openvino() -> str:
    """Of the library itself, which the provider's package carries within it."""
    for folder in _onnxruntime():
        for library in sorted(folder.glob("libopenvino.so.*.*")):
            return library.name.removeprefix("libopenvino.so.")
    return _package("openvino")


def _onnxruntime() -> list[Path]:
    """Where the library itself lies, found but not loaded."""
    spec = find_spec("onnxruntime")
    return [Path(folder, "capi") for folder in (spec.submodule_search_locations or () if spec else ())]


def _nvidia_driver(proc: Path) -> str:
    text = _read(proc / "driver" / "nvidia" / "version")
    found = re.search(r"Kernel Module\D*?(\d+(?:\.\d+)+)", text)
    return found[1] if found else UNKNOWN


def _nvidia_cards(proc: Path) -> str:
    cards = sorted((proc / "driver" / "nvidia" / "gpus").glob("*/information"))
    return " + ".join(_field(_read(card), "Model") or UNKNOWN for card in cards) or f"card {UNKNOWN}"


def _package(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return UNKNOWN


def _field(text: str, name: str) -> str:
    """The first `name : value` line's value, "" where there is none."""
    found = re.search(rf"^{re.escape(name)}\s*:[ \t]*(.*)$", text, re.MULTILINE)
    return found[1].strip() if found else ""


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
