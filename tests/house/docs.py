"""The documentation as the tests see it: files, fenced blocks, links.

A block's language says what is done with it; `text` and `console-norun` are left alone, and so is a block with the
word `norun` after its language. A block with the word `realdata` uses models and pictures of the kit, and is run where
the kit is. Any other word is a file name, to which the block is written for the blocks below it: "```toml gateway.toml".
"""

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from tests.conftest import ROOT, realdata_path

_FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^`\n]*)\n(?P<body>.*?)^(?P=indent)```$", re.M | re.S)
_LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_NOT_RUN = {"text", "console-norun"}
_WORDS = {"norun", "realdata"}


class Block(msgspec.Struct, frozen=True):
    """A fenced block. `line` is that of its fence; `file` the name it is written to, or empty."""

    path: Path
    line: int
    language: str
    body: str
    file: str = ""
    run: bool = True

    @property
    def where(self) -> str:
        """`README.md:12`."""
        return f"{self.path.relative_to(ROOT)}:{self.line}"


def files() -> list[Path]:
    """Every page: at the root, in docs/, and each top-level folder's README."""
    return sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("[!.]*/README.md")})


def blocks(path: Path) -> Iterator[Block]:
    """Give the fenced blocks of a page, in order."""
    text = path.read_text()
    for match in _FENCE.finditer(text):
        language, *words = match["info"].split() or [""]
        no_kit = "realdata" in words and realdata_path() is None
        yield Block(
            path=path,
            line=text.count("\n", 0, match.start()) + 1,
            language=language,
            body=match["body"],
            file=next((word for word in words if word not in _WORDS), ""),
            run=not (language in _NOT_RUN or "norun" in words or no_kit),
        )


def links(path: Path) -> Iterator[str]:
    """Give the targets of a page's links, those in fenced blocks left out."""
    for match in _LINK.finditer(_FENCE.sub("", path.read_text())):
        yield match["target"]


def anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", _FENCE.sub("", path.read_text()), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
