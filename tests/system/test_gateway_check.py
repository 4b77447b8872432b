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
    assert not any(fact.startswith("queued ") for fact in found["broker"])


def test_an_acl_that_binds_only_the_status_is_open(tmp_path: Path, config: Path) -> None:
    (tmp_path / "acl").write_text("topic write penstock/v1/home/dev/+/+/data\ntopic read #\n")
    with mosquitto(f"acl_file {tmp_path}/acl") as broker:
        found = report(tmp_path, broker.url, "--broker")
    (warning,) = [text for text in found["warnings"] if text.startswith("open: ")]
    assert "penstock/v1/home/dev/{device}/{stream}/data;" in warning and "status" not in warning
    assert any(fact.startswith("not tried: cams/door ") for fact in found["broker"])
    assert not any(fact.startswith("closed: ") for fact in found["broker"])


def test_a_route_that_the_broker_refuses_is_named(tmp_path: Path, config: Path) -> None:
    """Mosquitto's ACL files refuse no SUBSCRIBE; its dynamic-security plugin does."""
    plugins = sorted(Path("/usr/lib").glob("*/mosquitto_dynamic_security.so"))
    if not plugins:
        pytest.skip("Mosquitto is installed without its dynamic-security plugin")
    rules = tmp_path / "rules.json"
    access = {
        "publishClientSend": True,
        "publishClientReceive": True,
        "subscribe": False,
        "unsubscribe": True,
    }
    rules.write_text(json.dumps({"defaultACLAccess": access, "clients": [], "groups": [], "roles": []}))
    settings = f"allow_anonymous true\nplugin {plugins[0]}\nplugin_opt_config_file {rules}"
    with mosquitto(settings) as broker:
        found = report(tmp_path, broker.url, "--broker")
    refused = [text for text in found["warnings"] if text.startswith("subscription_refused: ")]
    assert [text.split()[1] for text in refused] == ["cams/door;", "penstock/v1/home/dev/+/+/data;"]
