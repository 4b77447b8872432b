"""Put the figures of build/bench.json into the README's table, and the script into docs/performance.md.

python -m tests.bench.publish
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from tests.bench.report import BUILD, Figure
from tests.conftest import ROOT

SCRIPT = Path(__file__).parent / "script.py"
PAGE = ROOT / "docs" / "performance.md"


def table(figures: list[Figure]) -> str:
    """A row a figure: value, spread, aim, verdict."""
    verdicts = {True: "met", False: "**missed**", None: ""}
    rows = ["| figure | median | spread | aim | |", "|---|---|---|---|---|"]
    for f in figures:
        value = "no valid measurement" if f.value is None else f"{_short(f.value)} {f.unit}"
        spread = f"{_short(f.spread[0])} … {_short(f.spread[1])}" if f.spread else ""
        rows.append(f"| `{f.name}` | {value} | {spread} | {f.aim} | {verdicts[f.met]} |")
    return "\n".join(rows)


def between(page: str, mark: str, text: str) -> str:
    """The page with `text` between the comments `<!-- MARK: begin -->` and `<!-- MARK: end -->`."""
    begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
    assert begin in page and end in page, f"the page has no place for {mark}"
    return re.sub(f"{begin}.*?{end}", lambda _: f"{begin}\n{text}\n{end}", page, flags=re.S)


def script_block() -> str:
    return f"```python norun\n{SCRIPT.read_text()}```"


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def main() -> None:
    figures = msgspec.json.decode((BUILD / "bench.json").read_bytes(), type=list[Figure])
    readme = ROOT / "README.md"
    readme.write_text(between(readme.read_text(), "figures", table(figures)))
    PAGE.write_text(between(PAGE.read_text(), "script", script_block()))


if __name__ == "__main__":
    main()
