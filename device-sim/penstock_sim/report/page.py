"""A page in one file that needs no network: figures, tables and Plotly's own script in it.

Whatever comes from outside is escaped by the template engine; beyond that the page's policy runs no script but its own
two, which it knows by their digest, and fetches nothing.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from pathlib import Path
from typing import Any

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from penstock_sim.report import contents, panels, plots
from penstock_sim.report.compare import Comparison
from penstock_sim.report.outcome import outcome
from penstock_sim.report.series import series, step_of
from penstock_sim.run.records import Recorded

_TEMPLATES = Path(__file__).parent / "templates"


class Plot(msgspec.Struct, frozen=True):
    """A figure for the page: what is said of it, and its JSON, safe in a script element."""

    about: str
    json: Markup


def report_page(recorded: Recorded) -> str:
    """The page of one run.

    Raises:
        UsageError: a second whose latencies are no histogram.
    """
    found = series(recorded.rows, step_of(recorded.rows))
    end_s = panels.end_of(recorded.rows)
    faults = panels.bands(recorded.events, end_s)
    drawn = panels.of_run(found)
    left_out = len(found.mixes) - len(panels.shown_mixes(found))
    plot = plotted(drawn, faults, end_s, found.step_s, left_out) if drawn else None
    return rendered(
        "report.html.j2", plot, outcome=outcome(recorded), faults=faults, **contents.of_run(recorded)
    )


def compare_page(found: Comparison, a: Recorded, b: Recorded) -> str:
    """The page of two runs, which lie over each other in its plots.

    Raises:
        UsageError: a second whose latencies are no histogram.
    """
    step = max(step_of(a.rows), step_of(b.rows))
    one, two = series(a.rows, step), series(b.rows, step)
    end_s = max(panels.end_of(a.rows), panels.end_of(b.rows))
    faults = panels.bands(a.events, end_s) if a.scenario == b.scenario else []
    left_out = len(one.mixes.keys() & two.mixes.keys()) - len(panels.shown_mixes(one, two))
    plot = plotted(panels.of_two(one, two), faults, end_s, step, left_out, "faults of A")
    return rendered("compare.html.j2", plot, **contents.of_two(found))


def plotted(
    drawn: list[panels.Panel],
    faults: list[panels.Band],
    end_s: float,
    step_s: int,
    left_out: int,
    grey: str = "faults",
) -> Plot:
    """A figure with what a reader must know of it; `left_out` mixes have no plot."""
    about = f"Each point is {'a second' if step_s == 1 else f'{step_s} seconds'}; grey bands are {grey}."
    if left_out:
        about += f" {left_out} mixes with fewer answers have no latency plot of their own."
    return Plot(about, Markup(plots.as_json(plots.figure(drawn, faults, end_s))))


def rendered(template: str, plot: Plot | None, **values: Any) -> str:
    """A template of this room with what every page has."""
    script = (_TEMPLATES / "page.js").read_text()
    text: str = (
        _environment()
        .get_template(template)
        .render(
            plot=plot,
            policy=_policy(get_plotlyjs(), script),
            plotly=Markup(get_plotlyjs()),
            script=Markup(script),
            style=Markup((_TEMPLATES / "page.css").read_text()),
            **values,
        )
    )
    return text


@functools.cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _policy(*scripts: str) -> str:
    digests = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in scripts
    )
    return f"default-src 'none'; script-src {digests}; style-src 'unsafe-inline'; img-src data: blob:"
