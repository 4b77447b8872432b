"""A run's checks as JUnit XML, which every CI shows: one test case each. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from xml.etree import ElementTree as xml

from penstock_sim.report.outcome import Check, outcome
from penstock_sim.run.records import Recorded

_CHILD = {"failed": "failure", "error": "error", "skipped": "skipped"}
_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(recorded: Recorded) -> bytes:
    """The document, UTF-8. The suite is the scenario; no check fails exactly where the run passed."""
    summary, found = recorded.summary, outcome(recorded)
    name = _clean(summary.name if summary is not None else recorded.folder.name)
    counts = {
        "tests": str(len(found.checks)),
        **{
            kind: str(sum(check.state == state for check in found.checks))
            for kind, state in (("failures", "failed"), ("errors", "error"), ("skipped", "skipped"))
        },
        "time": f"{summary.seconds if summary is not None else len(recorded.rows):.3f}",
    }
    suites = xml.Element("testsuites", {"name": "penstock sim", **counts})
    suite = xml.SubElement(suites, "testsuite", {"name": name, **counts})
    if summary is not None:
        began = datetime.fromtimestamp(summary.began / 1000, UTC)
        suite.set("timestamp", began.strftime("%Y-%m-%dT%H:%M:%S"))
    for check in found.checks:
        _case(suite, name, check)
    xml.SubElement(suite, "system-out").text = _clean("\n".join((found.word, *found.why)))
    xml.indent(suites)
    text: bytes = xml.tostring(suites, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _case(suite: xml.Element, name: str, check: Check) -> None:
    case = xml.SubElement(suite, "testcase", {"classname": name, "name": _clean(check.name), "time": "0"})
    if (kind := _CHILD.get(check.state)) is not None:
        child = xml.SubElement(case, kind, {"message": _clean(check.about)})
        if kind != "skipped":
            child.set("type", kind)
            child.text = _clean(check.about)


def _clean(text: str) -> str:
    """Without the characters that XML cannot hold."""
    return _NOT_XML.sub("\ufffd", text)
