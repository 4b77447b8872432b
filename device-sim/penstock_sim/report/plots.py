"""Panels drawn as one Plotly figure: a shared time axis, one legend, the faults as bands over every panel. Pure.

Text of a figure is Plotly's little HTML, so all of it is escaped here.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from penstock_sim.report.panels import Band, Line, Panel

PANEL_PX, EDGES_PX = 190, 110
BAND = "rgba(136, 136, 136, 0.22)"

_GAP_PX = 44
_NARROW = 0.12
"""A band of a smaller part of the run has its label upright, and a moment is drawn a twentieth of that wide."""

_UNITS = ((900.0, 1.0, "s"), (10_800.0, 60.0, "min"), (float("inf"), 3600.0, "h"))
"""Up to how many seconds the time axis has which unit."""


def figure(panels: Sequence[Panel], faults: Sequence[Band], end_s: float) -> go.Figure:
    """One figure of some panels.

    Args:
        end_s: the end of the time axis, which begins at 0.
    """
    scale, unit = next((scale, unit) for most, scale, unit in _UNITS if end_s <= most)
    found = go.Figure(layout=_layout(panels, end_s / scale, unit))
    for number, panel in enumerate(panels, 1):
        found.add_traces([_trace(line, panel, number, scale) for line in panel.lines])
    found.update_layout(
        shapes=[_shape(band, number, scale, end_s) for number in range(1, len(panels) + 1) for band in faults]
    )
    return found


def as_json(found: go.Figure) -> str:
    """For a script element: without any sign that could end it."""
    text: str = found.to_json()
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _trace(line: Line, panel: Panel, number: int, scale: float) -> go.Scatter:
    """Panel `number` draws on axis y`number`; all share x."""
    stacked = {"stackgroup": "fates", "fillcolor": _pale(line), "line": {"width": 0.5, "color": line.colour}}
    plain = {"line": {"color": line.colour, "dash": line.dash, "width": 1.6}}
    return go.Scatter(
        x=np.round(line.x / scale, 4),
        y=np.round(line.y, 4),
        name=html.escape(line.name, quote=False),
        mode="lines",
        yaxis=f"y{number}" if number > 1 else "y",
        legendgroup=str(number),
        legendgrouptitle={"text": html.escape(f"{panel.title}, {panel.unit}", quote=False)},
        **(stacked if panel.stacked else plain),
    )


def _pale(line: Line) -> str:
    red, green, blue = (int(line.colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {0.85 - line.pale:g})"


def _layout(panels: Sequence[Panel], end: float, unit: str) -> dict[str, Any]:
    height = PANEL_PX * len(panels) + EDGES_PX
    part, gap = 1.0 / max(1, len(panels)), _GAP_PX / (PANEL_PX * max(1, len(panels)))
    layout: dict[str, Any] = {
        "height": height,
        "margin": {"l": 56, "r": 8, "t": 34, "b": 48},
        "hovermode": "x unified",
        "hoversubplots": "axis",
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "legend": {
            "groupclick": "toggleitem",
            "traceorder": "grouped",
            "tracegroupgap": 12,
            "font": {"size": 12},
        },
        "annotations": [],
        "xaxis": {
            "range": [0, end],
            "anchor": f"y{len(panels)}" if len(panels) > 1 else "y",
            "title": {"text": f"{unit} since the load began"},
            "hoverformat": ".4~g",
        },
    }
    for number, panel in enumerate(panels, 1):
        top = 1.0 - (number - 1) * part
        axis: dict[str, Any] = {"domain": [top - part + gap, top], "anchor": "x"}
        axis |= (
            {"type": "log", "tickvals": _ticks(panel)} if panel.log else {"rangemode": "tozero", "nticks": 5}
        )
        layout[f"yaxis{number}" if number > 1 else "yaxis"] = axis | {"hoverformat": ".4~g"}
        layout["annotations"].append(_heading(panel, top))
    return layout


def _ticks(panel: Panel) -> list[float]:
    """Round values of a logarithmic axis, fewer of them the more decades there are."""
    values = np.concatenate([line.y for line in panel.lines])
    there = np.log10(values[np.isfinite(values) & (values > 0)])
    if not len(there):
        return []
    decades = there.max() - there.min()
    within = (1, 2, 5) if decades < 1.7 else (1, 3) if decades < 3 else (1,)
    powers = range(int(np.floor(there.min())), int(np.ceil(there.max())) + 1)
    return [float(f"{step}e{power}") for power in powers for step in within]


def _heading(panel: Panel, top: float) -> dict[str, Any]:
    text = html.escape(f"{panel.title}, {panel.unit}", quote=False)
    return {
        "text": f"<b>{text}</b>", "xref": "paper", "yref": "paper", "x": 0, "y": top, "xanchor": "left",
        "yanchor": "bottom", "showarrow": False, "font": {"size": 13}, "yshift": 4,
    }  # fmt: skip


def _shape(band: Band, number: int, scale: float, end_s: float) -> dict[str, Any]:
    """A band over panel `number`, with its fault's kind."""
    least = end_s * _NARROW / 20
    end = max(band.end_s, band.begin_s + least)
    upright = end - band.begin_s < end_s * _NARROW
    axis = str(number) if number > 1 else ""
    return {
        "type": "rect", "xref": "x", "yref": f"y{axis} domain", "x0": band.begin_s / scale, "x1": end / scale,
        "y0": 0, "y1": 1, "fillcolor": BAND, "line": {"width": 0}, "layer": "above",
        "name": html.escape(band.kind, quote=False),
        "label": {
            "text": html.escape(band.kind, quote=False), "textposition": "top left",
            "textangle": 90 if upright else 0, "font": {"size": 10}, "padding": 3,
        },
    }  # fmt: skip
