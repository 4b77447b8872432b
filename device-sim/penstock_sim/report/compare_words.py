"""A comparison in words, for the terminal and the page. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from penstock_sim.report.compare import Compared, Comparison
from penstock_sim.run.words import number

_HOPELESS = 10.0
"""A difference of ten times the figure, which a comparison that needs it cannot see."""


def verdict(found: Comparison) -> str:
    """The whole of it in one line."""
    counts = {
        word: sum(one.verdict == word for one in found.figures)
        for word in ("worse", "better", "no difference seen", "not judged")
    }
    told = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    return f"B is {word(found)}: {told}"


def word(found: Comparison) -> str:
    """What B is."""
    if found.worse:
        return "worse in some figures and better in others" if found.better else "worse"
    return "better" if found.better else "not seen to differ"


def method(found: Comparison) -> str:
    """How it was judged."""
    same = "the same blocks of both runs" if found.same_seconds else "blocks of each run by themselves"
    return (
        f"compared are {found.a.seconds} s of A and {found.b.seconds} s of B, after their first tenth (warm-up); "
        f"1,000 resamples of {same}, {found.block_s} s each; intervals are 95 % each by itself, verdicts are corrected "
        "for the number of figures (Holm); how much the machine differs between two days is in none of them"
    )


def closing_lines(found: Comparison) -> Iterator[str]:
    for run, about in (("A", found.a), ("B", found.b)):
        yield f"{run}: {about.folder} ({about.name}, {about.word})"
    yield from (f"note: {note}" for note in found.notes)
    width = max((len(f"{one.mix} {one.figure}") for one in found.figures), default=0)
    for one in found.figures:
        cells = (value(one, one.a), "→", value(one, one.b), change(one), one.verdict, seen(one))
        yield f"{one.mix + ' ' + one.figure:<{width}}  {' '.join(filter(None, cells))}"
    yield verdict(found)
    yield method(found)


def value(one: Compared, came: float | None) -> str:
    if came is None:
        return "nothing"
    return {"ms": f"{number(came)} ms", "share": f"{100 * came:.4g} %", "count": number(came)}[one.kind]


def change(one: Compared) -> str:
    """The difference with its interval; per cent of A, or points of a share."""
    if one.difference is None or one.kind == "count":
        return "" if not one.difference else f"({one.difference:+g})"
    unit = "%" if one.kind == "ms" else "points"
    if one.low is None or one.high is None:
        return f"({_percent(one.difference):+g} {unit})"
    return f"({_percent(one.difference):+g} {unit}, {_percent(one.low):+g} to {_percent(one.high):+g})"


def seen(one: Compared) -> str:
    """How large a difference would have been found, where none was."""
    if one.verdict != "no difference seen" or one.seen is None:
        return ""
    if one.seen > _HOPELESS:
        return "(too little was measured to see any)"
    return f"(one of {_percent(one.seen):g} {'%' if one.kind == 'ms' else 'points'} would have been)"


def _percent(part: float) -> float:
    """Per cent with three digits, or whole."""
    return float(f"{100 * part:.3g}") if abs(part) < 10 else round(100 * part)
