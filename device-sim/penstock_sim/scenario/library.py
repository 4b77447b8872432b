"""The ready scenarios, and how one is found, shortened and pointed elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from penstock_models.errors import UsageError
from penstock_sim.scenario.load import Load
from penstock_sim.scenario.read import read
from penstock_sim.scenario.tree import Loaded

_HERE = Path(__file__).resolve().parents[1]
_PLACES = (_HERE / "scenarios", _HERE.parent / "scenarios")
"""In an installed package, and in a checkout."""

_IN_SECONDS = ("at_s", "for_s", "down_s", "up_s")


def ready() -> Mapping[str, Path]:
    """The ready scenarios by name."""
    return {file.stem: file for place in _PLACES for file in sorted(place.glob("*.toml"))}


def find(name: str, url: str | None = None, status: str | None = None, scale: float = 1.0) -> Loaded:
    """Read a scenario by its file, or by the name of a ready one.

    Args:
        url, status: another target than the scenario's own.
        scale: times its seconds; faults move and last with them.

    Raises:
        UsageError: there is none, or it cannot be read.
    """
    files = ready()
    path = Path(name)
    if not path.is_file():
        if name not in files:
            raise UsageError(f"expected a scenario's file or one of {', '.join(files)}, came {name!r}")
        path = files[name]
    loaded = read(path)
    target = loaded.scenario.target
    if url is not None:
        target = msgspec.structs.replace(target, url=url, status=status or "")
    scenario = msgspec.structs.replace(
        loaded.scenario, target=target, fault=tuple(_scaled(fault, scale) for fault in loaded.scenario.fault)
    )
    times, values = loaded.load.points
    load = Load((times * scale).tolist(), values.tolist())
    return msgspec.structs.replace(loaded, scenario=scenario, load=load)


def _scaled(fault: Any, scale: float) -> Any:
    changed = {name: getattr(fault, name) * scale for name in _IN_SECONDS if hasattr(fault, name)}
    return msgspec.structs.replace(fault, **changed)
