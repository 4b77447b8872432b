"""docs/scenarios.md names every key, kind and figure of a scenario."""

from __future__ import annotations

import re
import typing

import msgspec
import pytest

from penstock_sim.measure.figures import NAMES
from penstock_sim.scenario import faults, phases, things, tree
from tests.conftest import ROOT

PAGE = re.sub(r"```.*?```", "", (ROOT / "docs" / "scenarios.md").read_text(), flags=re.DOTALL)
NAMED = set(re.findall(r"[a-z][a-z0-9_]*", " ".join(re.findall(r"`[^`]+`", PAGE))))

TABLES = (tree.Scenario, tree.Target, tree.Clock, tree.Stream, tree.Devices)
KINDS = [
    kind for union in (faults.AnyFault, phases.AnyPhase, things.AnyThing) for kind in typing.get_args(union)
]


@pytest.mark.parametrize("table", [*TABLES, *KINDS], ids=lambda table: table.__name__)
def test_every_key_is_described(table: type[msgspec.Struct]) -> None:
    keys = {field.encode_name for field in msgspec.structs.fields(table)} - {
        "device",
        "phase",
        "fault",
        "target",
    }
    assert keys <= NAMED, f"docs/scenarios.md does not name {', '.join(sorted(keys - NAMED))}"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_is_described(kind: type[msgspec.Struct]) -> None:
    tag = kind.__struct_config__.tag
    assert f"| `{tag}` |" in PAGE


def test_every_figure_and_hostile_payload_is_described() -> None:
    assert {*NAMES, *faults.HOSTILE} <= NAMED
