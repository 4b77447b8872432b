"""The page as text: all of it in one file, every word from outside escaped."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from penstock_sim.measure.closing import Difference
from penstock_sim.measure.objectives import Verdict
from penstock_sim.report.compare import compare
from penstock_sim.report.page import compare_page, report_page
from penstock_sim.run.records import Event, Recorded, Summary
from tests.fakes.recorded import FAULTS, SCENARIO, mix_second, row, rows, summary

HARM = "<script>alert(1)</script><img src=x onerror=alert(2)>&amp;\"'"


class Reader(HTMLParser):
    """Elements by name, attributes, and the text outside of scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._open = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open == "script":
            self.scripts[-1] += data
        elif self._open != "style":
            self.text += data


def recorded(closing: Summary | None = None, made: list[object] | None = None, **changes: object) -> Recorded:
    plain = {"scenario": SCENARIO, "rows": tuple(rows(30)), "events": FAULTS, "summary": closing}
    return Recorded(Path("results"), **(plain | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def page() -> str:
    return report_page(recorded(summary()))


def test_the_page_needs_nothing_else(page: str) -> None:
    for tag, attributes in Reader(page).elements:
        assert tag not in ("link", "iframe", "img", "object", "embed", "base", "form")
        assert not attributes.keys() & {"src", "href", "srcset", "action", "data"}
        assert not [name for name in attributes if name.startswith("on")]


def test_the_policy_runs_these_scripts_alone(page: str) -> None:
    read = Reader(page)
    policy = next(
        a["content"] or "" for tag, a in read.elements if a.get("http-equiv") == "Content-Security-Policy"
    )
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    data, *scripts = read.scripts
    assert data.startswith("{") and len(scripts) == 2
    digests = {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts}
    assert digests == allowed and "default-src 'none'" in policy and "unsafe-eval" not in policy
    assert "script-src 'unsafe-inline'" not in policy


def test_what_is_shown(page: str) -> None:
    text = Reader(page).text
    for expected in (
        "PASSED", "made-up", "Nothing of this happened.", "p99_ms < 200", "came 44", "the books of the devices",
        "answered_share", "expired: in_queue", "edge", "cache", "a processor, 2 cores, 8 GB", "results",
        "link_cut", "for_s 8", "10.0", "18.0", 'objectives = ["p99_ms < 200"',
    ):  # fmt: skip
        assert expected in text, expected


def test_words_from_outside_stay_words() -> None:
    stream = summary().streams["cam-0000/cam"]
    closing = summary(
        name=HARM, run=HARM, ok=False, notes=(HARM,), objectives=(Verdict(HARM, 1.0, False),),
        differences=(Difference(HARM, HARM, 0, 1),), figures={"": {HARM: 1.0}, HARM: {"sent": 1.0}},
        fates={HARM: {HARM: 1}}, answered_by={HARM: {HARM: 1}}, unsent={HARM: 1}, lost_connections={HARM: 1},
        ledger={"received": 1, HARM: 2, "reasons": {"received": {HARM: 1}}}, streams={HARM: stream},
    )  # fmt: skip
    made = (row(0, {HARM: mix_second([1.0], **{HARM: 1})}),)
    events = (Event(0.0, HARM, HARM), Event(0.5, "warning", HARM))
    page = report_page(
        recorded(closing, rows=made, events=events, scenario=f"about = '''{HARM}'''\n# </pre>{HARM}")
    )
    read = Reader(page)
    assert len(read.scripts) == 3
    assert not [tag for tag, _ in read.elements if tag == "img"]
    assert read.text.count(HARM) >= 16


def test_a_cut_off_run_says_so_and_shows_what_is_there() -> None:
    text = Reader(page := report_page(recorded(None))).text
    assert text.count("INCOMPLETE") == 2 and "cut off after 30 s" in text
    assert "NOT KNOWN" in text and 'id="plot"' in page


def test_a_run_without_a_second_has_no_plots() -> None:
    page = report_page(recorded(None, rows=(), events=()))
    assert "nothing to plot" in page and "<script" not in page


def test_a_void_run_is_not_called_failed() -> None:
    text = Reader(report_page(recorded(summary(ok=False, on_time=False, unsent={"end": 7})))).text
    assert "VOID" in text and "FAILED" not in text
    assert "the generator was late" in text and "not judged" in text


def test_long_lists_end(page: str) -> None:
    many = tuple(Difference(f"cam-{n:04}/cam", "frames lost", 0, 1) for n in range(300))
    stream = summary().streams["cam-0000/cam"]
    closing = summary(ok=False, differences=many, streams={f"cam-{n:05}/cam": stream for n in range(5000)})
    found = report_page(recorded(closing))
    assert len(found) < len(page) + 50_000
    assert "and 250 more, in run.json" in Reader(found).text


def test_a_long_run_has_a_bounded_page(page: str) -> None:
    made = [row(n, {"cam": mix_second([10.0])}) for n in range(0, 7200, 3)]
    found = report_page(recorded(summary(), rows=tuple(made)))
    assert "Each point is 6 seconds" in Reader(found).text
    assert len(found) - len(page) < 600_000


def test_the_page_of_two_runs() -> None:
    a, b = recorded(summary()), recorded(summary(), rows=tuple(rows(30, 2, median_ms=60.0)))
    text = Reader(compare_page(compare(a, b), a, b)).text
    for expected in (
        "WORSE",
        "B is worse",
        "no difference seen",
        "27 s of A",
        "A, cam",
        "gain" if False else "p95_ms",
    ):
        assert expected in text
