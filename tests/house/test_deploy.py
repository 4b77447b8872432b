"""The shipped files of deploy/ pass the judges that exist for them."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from penstock_gateway import config, embedded
from tests.conftest import ROOT
from tests.house import docs

DEPLOY = ROOT / "deploy"
BIN = Path(sys.executable).parent


def _run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)


@pytest.fixture
def systemd_analyze() -> str:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("systemd-analyze is not installed (package systemd; `make test` installs it)")
    return tool


def test_the_unit_is_shut_in(systemd_analyze: str) -> None:
    done = _run(
        systemd_analyze, "security", "--offline=true", "--no-pager", DEPLOY / "penstock-gateway.service"
    )
    exposure = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert exposure, done.stdout + done.stderr
    assert float(exposure[1]) <= 2.0, done.stdout


def test_systemd_understands_every_line_of_the_unit(systemd_analyze: str, tmp_path: Path) -> None:
    text = (DEPLOY / "penstock-gateway.service").read_text()
    unit = tmp_path / "penstock-gateway.service"
    unit.write_text(text.replace("/opt/penstock/bin/penstock", "/bin/true"))
    done = _run(systemd_analyze, "verify", "--man=no", unit)
    about_ours = [line for line in done.stderr.splitlines() if "penstock" in line]
    assert (done.returncode, about_ours) == (0, []), done.stderr


def test_hadolint_has_nothing_to_say_about_the_dockerfile() -> None:
    done = _run(BIN / "hadolint", DEPLOY / "Dockerfile")
    assert done.returncode == 0, done.stdout


def test_hadolint_would_complain(tmp_path: Path) -> None:
    worse = tmp_path / "Dockerfile"
    worse.write_text((DEPLOY / "Dockerfile").read_text().replace("bookworm-slim", "latest"))
    assert "DL3007" in _run(BIN / "hadolint", worse).stdout


def test_the_compose_file_follows_the_compose_specification() -> None:
    done = _run(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_image_is_given_all_that_it_copies() -> None:
    """Every path of a COPY, and of the wheel's packages, is let through by the ignore file."""
    allowed = {
        line[1:]
        for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = re.findall(r"^COPY (deploy/\S+) ", (DEPLOY / "Dockerfile").read_text(), flags=re.M)
    packages = re.findall(r'^    "(\S+/penstock_\w+)",$', (ROOT / "pyproject.toml").read_text(), flags=re.M)
    assert len(copied) == 2 and len(packages) == 4
    assert {*copied, *packages, "pyproject.toml", "README.md", "LICENSE"} == allowed
    assert all((ROOT / path).exists() for path in allowed)


def test_the_sample_configuration_loads(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    shutil.copy(DEPLOY / "gateway.toml", path)
    (tmp_path / "bundles").mkdir()
    (tmp_path / "mqtt.password").write_text("x")
    loaded = config.load(path, {})
    assert (loaded.site, loaded.gateway, len(loaded.route)) == ("home", "gw1", 1)
    assert len(path.read_text().splitlines()) <= 15


@pytest.mark.system
def test_making_the_users_leaves_the_umask_as_it_was(tmp_path: Path) -> None:
    block = next(b for b in docs.blocks(DEPLOY / "README.md") if "penstock.passwd" in b.body)
    script = f"PATH=$PATH:/usr/sbin\ncd {tmp_path}\numask 022\n{block.body}\numask"
    done = _run("bash", "-euo", "pipefail", "-c", script)
    assert done.stdout.split()[-1:] == ["0022"], done.stderr
    made = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert made["penstock.passwd"] == made["door.password"] == 0o600


def test_the_embedded_broker_has_the_shipped_limits() -> None:
    limits = re.findall(r"^(?:max_(?:queued|inflight)|message_size|persistent_client).*$", _conf(), re.M)
    assert len(limits) == 6
    ours = Path(embedded.__file__).read_text()
    assert [limit for limit in limits if f"{limit}\n" not in ours] == []


def _conf() -> str:
    return (DEPLOY / "mosquitto.conf").read_text()
