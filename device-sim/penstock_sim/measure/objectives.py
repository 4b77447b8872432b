"""What must hold of a run: `p99_ms < 200`, `door.lost == 0`. Read strictly, judged against the run's figures. Pure."""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Collection, Mapping

import msgspec

from penstock_models.errors import UsageError

_TEXT = re.compile(
    r"\s*(?:([A-Za-z0-9_-]+)\.)?([a-z][a-z0-9_]*)\s*(<=|>=|==|<|>)\s*(-?\d+(?:\.\d+)?)\s*(%?)\s*"
)
_SIGNS: Mapping[str, Callable[[float, float], bool]] = {
    "<": operator.lt, "<=": operator.le, "==": operator.eq, ">=": operator.ge, ">": operator.gt,
}  # fmt: skip

Figures = Mapping[str, float | None]
"""By name; None where there was nothing to measure."""


class Objective(msgspec.Struct, frozen=True):
    """`mix` "" speaks of the whole run; `limit` is a share where the text had a per cent sign."""

    text: str
    mix: str
    figure: str
    sign: str
    limit: float

    @classmethod
    def parse(cls, text: str, mixes: Collection[str], figures: Collection[str]) -> Objective:
        """Read one.

        Raises:
            UsageError: saying what was expected in its place.
        """
        found = _TEXT.fullmatch(text)
        if found is None:
            raise UsageError(
                f'expected an objective such as "p99_ms < 200" or "MIX.lost == 0", came {text!r}'
            )
        mix, figure, sign, number, percent = found.groups()
        if mix and mix not in mixes:
            raise UsageError(f"expected a mix of {', '.join(mixes)}, came {mix!r} in {text!r}")
        if figure not in figures:
            near = difflib.get_close_matches(figure, figures, 3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(figures)}"
            raise UsageError(f"expected a known figure in {text!r}; {hint}")
        return cls(text.strip(), mix or "", figure, sign, float(number) / (100 if percent else 1))

    def judge(self, figures: Mapping[str, Figures]) -> Verdict:
        """Hold it against the figures of each mix, "" for the whole run. What was not measured does not hold."""
        value = figures.get(self.mix, {}).get(self.figure)
        met = value is not None and _SIGNS[self.sign](value, self.limit)
        return Verdict(self.text, value, met)


class Verdict(msgspec.Struct, frozen=True):
    text: str
    value: float | None
    met: bool
