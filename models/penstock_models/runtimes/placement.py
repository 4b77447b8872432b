"""Walks a preference list until a device is proven to run the model; what proof means is each runtime's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from penstock_models.errors import PlacementError

T = TypeVar("T")


class NotProven(Exception):
    """One candidate cannot run this model here; the text says why."""


def first_proven(devices: Sequence[str], attempt: Callable[[str], T]) -> T:
    """The first device for which `attempt` returns.

    `attempt` raises `NotProven` to pass on to the next; any other error (a broken model) ends the walk.

    Raises:
        PlacementError: naming every candidate and why it was passed over.
    """
    passed: list[str] = []
    for device in devices:
        try:
            return attempt(device)
        except NotProven as why:
            passed.append(f"{device}: {why}")
    raise PlacementError(
        f"no wanted device could be proven to run the model ({'; '.join(passed)});"
        " install its runtime package or add cpu to devices",
        passed,
    )
