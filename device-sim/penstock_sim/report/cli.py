"""`penstock sim report` and `penstock sim compare`: arguments, files, exit codes."""

from __future__ import annotations

import os
import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

if TYPE_CHECKING:
    from penstock_sim.run.records import Recorded

PAGE = "report.html"

Folder = Annotated[
    Path, typer.Argument(metavar="DIR", help="A run's folder, as `penstock sim run` writes it.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object for machines, and nothing else.")]


def report(
    folder: Folder,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help=f"The page; DIR/{PAGE} when left out."),
    ] = None,
    junit: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the checks as JUnit XML too, for CI.")
    ] = None,
    as_json: Json = False,
    show: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Write a run as one HTML page that needs no network; exit code 1 where the run did not pass.

    `--json` prints the run's summary, and writes the page only with `-o` or `--open`; of a run that was cut off it
    prints `"incomplete": true` and how many seconds there are.

    \b
    Examples:
      penstock sim report sim/smoke-20260101-120000 --open
      penstock sim report results --junit results.xml
    """
    from penstock_sim.report.outcome import outcome
    from penstock_sim.run.records import load

    recorded = load(folder)
    found = outcome(recorded)
    page = output or (folder / PAGE if show or not as_json else None)
    if page is not None:
        from penstock_sim.report.page import report_page

        write(page, report_page(recorded).encode())
    if junit is not None:
        from penstock_sim.report.junit import junit as document

        write(junit, document(recorded))
    if as_json:
        sys.stdout.write(_json(recorded) + "\n")
    else:
        for line in (found.word, *found.why, *(str(file) for file in (page, junit) if file is not None)):
            typer.echo(line)
    if show and page is not None:
        webbrowser.open(page.resolve().as_uri())
    raise typer.Exit(0 if found.ok else 1)


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="Folder of the run that is compared with.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Folder of the run that is judged.")],
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page with both runs in the same plots.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare two runs: what became better or worse, and how sure that is; exit code 1 where something is worse.

    Judged are p50, p95 and p99 of the latency, answered and late shares, and lost frames, for each mix of devices.
    A void run, or one of less than 10 s, is refused.

    \b
    Example:
      penstock sim compare before after --html difference.html
    """
    from penstock_sim.report.compare import compare as judge
    from penstock_sim.report.compare_words import closing_lines
    from penstock_sim.run.records import load

    one, two = load(a), load(b)
    found = judge(one, two)
    if html is not None:
        from penstock_sim.report.page import compare_page

        write(html, compare_page(found, one, two).encode())
    if as_json:
        sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
    else:
        for line in (*closing_lines(found), *([str(html)] if html is not None else [])):
            typer.echo(line)
    raise typer.Exit(1 if found.worse else 0)


def write(file: Path, content: bytes) -> None:
    """Write a whole file or none.

    Raises:
        UsageError: it cannot be written there.
    """
    from penstock_models.errors import UsageError

    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(file)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UsageError(f"expected to write {file}: {error.strerror}") from None


def _json(recorded: Recorded) -> str:
    if recorded.summary is not None:
        return msgspec.json.encode(recorded.summary).decode()
    cut_off = {
        "v": 1,
        "ok": False,
        "incomplete": True,
        "folder": str(recorded.folder),
        "seconds": len(recorded.rows),
    }
    return msgspec.json.encode(cut_off).decode()
