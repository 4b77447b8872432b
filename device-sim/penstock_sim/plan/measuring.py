"""`--measure`: the scenario as it stands, on a real gateway of this machine, beside its prediction."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from penstock_models.errors import UsageError
from penstock_sim.plan.planning import Planning
from penstock_sim.plan.work import work_of
from penstock_sim.scenario.tree import Loaded

if TYPE_CHECKING:
    from rich.console import Console

COMPARED = ("answered", "goodput_per_s", "superseded", "expired", "p50_ms", "p95_ms", "p99_ms")


class Beside(msgspec.Struct, frozen=True):
    """One figure of a mix ("" for all), predicted and measured."""

    mix: str
    figure: str
    predicted: float | None
    measured: float | None

    @property
    def off(self) -> float | None:
        """The prediction less the measurement, as a share of the measurement."""
        if self.predicted is None or not self.measured:
            return None
        return self.predicted / self.measured - 1

    @property
    def text(self) -> str:
        values = [_number(value) for value in (self.predicted, self.measured)]
        off = "" if self.off is None else f" ({self.off:+.0%})"
        return f"{self.mix or 'all'}.{self.figure}: predicted {values[0]}, measured {values[1]}{off}"


def compared(
    predicted: Mapping[str, Mapping[str, float | None]], measured: Mapping[str, Mapping[str, float | None]]
) -> tuple[Beside, ...]:
    """Predicted and measured figures side by side."""
    return tuple(
        Beside(mix, figure, predicted[mix].get(figure), measured.get(mix, {}).get(figure))
        for mix in predicted
        for figure in COMPARED
    )


def beside(loaded: Loaded, question: Planning, console: Console) -> tuple[Beside, ...]:
    """Run the scenario, and predict what it did on the gateway as it is configured.

    Raises:
        UsageError: the scenario names a gateway elsewhere, or has faults.
    """
    from penstock_sim.run.records import Writer
    from penstock_sim.run.run import Run
    from penstock_sim.run.view import PlainView

    if loaded.scenario.target.url:
        raise UsageError(
            "expected a scenario without [target] url for --measure: profiles are of this machine"
        )
    if loaded.scenario.fault:
        raise UsageError("expected a scenario without faults for --measure: a prediction knows none")
    whole = msgspec.structs.replace(question, work=work_of(loaded))  # at its own pace, however many frames
    predicted = whole.evaluate(whole.space.shapes()[0])
    with tempfile.TemporaryDirectory(prefix="penstock-plan-") as scratch, PlainView(console) as view:
        summary = asyncio.run(Run(loaded, Writer(Path(scratch) / "run", loaded.text), view).go())
    if not summary.on_time:
        console.print("note: the devices missed their own times, so the measurement is void")
    return compared(predicted.figures, summary.figures)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
