"""`gateway check --broker` against a real Mosquitto: what it grants, who may publish, how much it queues."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.broker import mosquitto
from tests.gateway.test_check import check, config, write

__all__ = ["config"]

pytestmark = pytest.mark.system


def report(folder: Path, url: str, *options: str) -> dict[str, Any]:
    code, text = check(write(folder, url=url), "--json", *options)
    assert code == 0, text
    found: dict[str, Any] = json.loads(text)
    return found


def test_an_open_broker_with_a_short_queue_is_named(tmp_path: Path, config: Path) -> None:
    with mosquitto("max_queued_messages 50") as broker:
        found = report(tmp_path, broker.url, "--probe-queue", "200")
    assert found["broker"][0] == f"MQTT 5 at {broker.url}"
    names = [warning.partition(":")[0] for warning in found["warnings"]]
    assert names == ["open", "queue_small"]
    kept = int(found["broker"][-1].split()[1])
    assert 50 <= kept < 200 and f"{200 - kept} of 200" in found["warnings"][-1]


def test_without_a_probe_the_queue_is_left_alone(tmp_path: Path, config: Path) -> None:
    with mosquitto("max_queued_messages 1000\npersistent_client_expiration 1h") as broker:
        found = report(tmp_path, broker.url, "--broker")
    assert len(found["broker"]) == 1
