"""The project's own words agree: version and changelog, exported names, the edge box's dependencies."""

import importlib
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGES = sorted(path.parent for path in ROOT.glob("*/penstock_*/__init__.py"))
MODULES = sorted(
    ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__")
    for package in PACKAGES
    for path in package.rglob("*.py")
    if path.name != "__main__.py"
)


def test_the_version_is_the_changelogs_newest() -> None:
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.M)
    assert newest and newest[1] == PROJECT["version"] == importlib.metadata.version("penstock")


@pytest.mark.parametrize("name", MODULES)
def test_a_module_says_what_it_owns_and_holds_what_it_lists(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__
    assert [entry for entry in getattr(module, "__all__", []) if not hasattr(module, entry)] == []


def test_every_command_group_is_there() -> None:
    groups = importlib.metadata.entry_points(group="penstock.commands")
    assert {group.name for group in groups} == {"camera", "demo", "gateway", "model", "plan", "sim"}
    assert all(callable(group.load()) for group in groups)


@pytest.mark.slow
@pytest.mark.parametrize("python", ["3.11", "3.13"])
def test_an_aarch64_edge_box_installs_from_wheels_alone(python: str, tmp_path: Path) -> None:
    """The whole plain install resolves for a Raspberry Pi or a Jetson without a compiler."""
    uv = Path(sys.executable).parent / "uv"
    platform = ("--python-platform", "aarch64-manylinux_2_28", "--python-version", python)
    done = subprocess.run(
        [uv, "pip", "compile", "--only-binary", ":all:", *platform, *_index(), ROOT / "pyproject.toml"],
        cwd=tmp_path,
        env={**os.environ, "UV_SYSTEM_CERTS": "true"},
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    if done.returncode and re.search(r"error sending request|dns error|Connect", done.stderr):
        pytest.skip(f"no package registry can be reached: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    resolved = set(re.findall(r"^([a-z0-9-]+)==", done.stdout, flags=re.M))
    assert {"ai-edge-litert", "numpy", "onnxruntime", "opencv-python-headless"} <= resolved


def _index() -> list[str]:
    """The index that pip is set up with on this machine, if any: uv does not read pip's configuration."""
    pip = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    url = subprocess.run(pip, capture_output=True, text=True, timeout=20, check=False).stdout.strip()
    return ["--default-index", url] if url else []
