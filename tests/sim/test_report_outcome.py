"""The word for a run and its checks, on the page's side and in JUnit."""

from pathlib import Path
from xml.etree import ElementTree as xml

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_sim.measure.closing import Difference
from penstock_sim.measure.objectives import Verdict
from penstock_sim.report.junit import junit
from penstock_sim.report.outcome import outcome
from penstock_sim.run.records import Recorded, Summary
from tests.fakes.recorded import SCENARIO, rows, summary

DIFFERENCE = Difference("cam-0000/cam", "frames lost", 0, 3)
MISSED = (Verdict("p99_ms < 200", 44.0, True), Verdict("lost == 0", 3.0, False))


def recorded(closing: Summary | None, scenario: str = SCENARIO) -> Recorded:
    return Recorded(Path("results"), scenario, tuple(rows(12)), (), closing)


@pytest.mark.parametrize(
    ("closing", "word", "told"),
    [
        (summary(), "PASSED", "every objective is met"),
        (summary(ok=False, objectives=MISSED), "FAILED", "lost == 0: came 3"),
        (
            summary(ok=False, differences=(DIFFERENCE,)),
            "FAILED",
            "cam-0000/cam: frames lost: expected 0, came 3",
        ),
        (summary(ok=False, stopped=True), "FAILED", "stopped before its end"),
        (summary(ok=False, on_time=False, unsent={"end": 5}), "VOID", "say nothing about the gateway"),
        (summary(ok=False), "FAILED", "the run itself calls it failed"),
        (None, "INCOMPLETE", "cut off after 12 s"),
    ],
)
def test_the_word(closing: Summary | None, word: str, told: str) -> None:
    found = outcome(recorded(closing))
    assert found.word == word and told in " ".join(found.why)
    assert found.ok is (word == "PASSED")


def test_a_void_run_judges_no_objective() -> None:
    found = outcome(recorded(summary(ok=False, on_time=False, objectives=MISSED)))
    assert [check.state for check in found.checks] == ["failed", "passed", "passed", "skipped", "skipped"]
    assert "came 3; not judged" in found.checks[-1].about


def test_books_without_a_ledger_are_not_judged() -> None:
    found = outcome(recorded(summary(ledger=None)))
    assert found.word == "PASSED"
    assert [check.state for check in found.checks if check.name == "books close"] == ["skipped"]


@pytest.mark.parametrize(
    ("scenario", "objectives"),
    [(SCENARIO, 2), ("not toml [", 0), ('objectives = "p99"', 0), ("objectives = [1, 'a < 1']", 1)],
)
def test_a_cut_off_run_knows_no_answer(scenario: str, objectives: int) -> None:
    checks = outcome(recorded(None, scenario)).checks
    assert len(checks) == 3 + objectives and {check.state for check in checks} == {"error"}


summaries = st.builds(
    lambda on_time, stopped, differs, met, ledger: summary(
        ok=on_time and not stopped and not differs and all(met),
        on_time=on_time,
        stopped=stopped,
        differences=(DIFFERENCE,) * differs,
        objectives=tuple(Verdict(f"x_{n} < 1", float(n), held) for n, held in enumerate(met)),
        ledger={"received": 1} if ledger else None,
    ),
    st.booleans(), st.booleans(), st.integers(0, 30), st.lists(st.booleans(), max_size=4), st.booleans(),
)  # fmt: skip


@given(summaries)
def test_junit_fails_exactly_where_the_run_does(closing: Summary) -> None:
    root = xml.fromstring(junit(recorded(closing)))
    failed = root.findall(".//failure") + root.findall(".//error")
    assert (not failed) is closing.ok is outcome(recorded(closing)).ok
    _holds_the_schema(root)


@pytest.mark.parametrize("closing", [summary(), None, summary(ok=False, on_time=False)])
def test_junit_has_a_case_for_each_check(closing: Summary | None) -> None:
    root = xml.fromstring(junit(recorded(closing)))
    _holds_the_schema(root)
    names = [case.get("name") for case in root.iter("testcase")]
    assert names == ["load on time", "books close", "run to its end", "p99_ms < 200", "lost == 0"]


def test_junit_of_a_cut_off_run_is_all_errors() -> None:
    suite = xml.fromstring(junit(recorded(None)))[0]
    assert (suite.get("tests"), suite.get("errors"), suite.get("failures")) == ("5", "5", "0")


def test_junit_holds_what_xml_cannot() -> None:
    odd = Difference("a\x00\x1b]<b>&\ud800\uffff", "]]>", 0, 1)
    root = xml.fromstring(junit(recorded(summary(ok=False, name="n\x01", differences=(odd,)))))
    message = root.findall(".//failure")[0].get("message")
    assert message == "a\ufffd\ufffd]<b>&\ufffd\ufffd: ]]>: expected 0, came 1"
    assert root[0].get("name") == "n\ufffd"


def _holds_the_schema(root: xml.Element) -> None:
    """What the usual schema of JUnit asks of a document, counts included."""
    assert root.tag == "testsuites" and [suite.tag for suite in root] == ["testsuite"]
    suite = root[0]
    cases = suite.findall("testcase")
    assert [child.tag for child in suite] == ["testcase"] * len(cases) + ["system-out"]
    for owner in (root, suite):
        assert int(owner.attrib["tests"]) == len(cases)
        for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert int(owner.attrib[attribute]) == len(root.findall(f".//{tag}"))
        assert float(owner.attrib["time"]) >= 0
    for case in cases:
        assert case.get("name") and case.get("classname") and len(case) <= 1


def test_a_summary_survives_its_json() -> None:
    """`--json` prints the summary itself, as it is in run.json."""
    text = msgspec.json.encode(summary())
    assert msgspec.json.decode(text, type=Summary) == summary()
