"""An import goes down or stays on its floor, and an edge box never imports what it does not use."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

# From the top down: a floor may import itself and what stands below it.
FLOORS = {
    "penstock_sim": "device-sim",
    "penstock_gateway": "gateway",
    "penstock_cloud": "cloud",
    "penstock_models": "models",
}

# What a gateway never needs: other floors' tools, training, tests, and clients that it does not talk with.
HEAVY = {
    "amqtt",
    "awscrt",
    "grpc",
    "hypothesis",
    "jinja2",
    "onnx",
    "paho",
    "pandas",
    "penstock_sim",
    "plotly",
    "pytest",
    "ray",
    "scipy",
    "sqlite_utils",
    "tensorflow",
    "torch",
}


def _modules(package: str) -> Iterator[tuple[str, Path]]:
    folder = ROOT / FLOORS[package] / package
    for path in sorted(folder.rglob("*.py")):
        yield path.relative_to(ROOT).as_posix(), path


def _imported(path: Path) -> Iterator[tuple[int, str]]:
    """Every import of a file, wherever it stands in it: line, and the package's name."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.lineno, (node.module or "").partition(".")[0]


def _upward(package: str, path: Path) -> list[str]:
    floors = list(FLOORS)
    above = set(floors[: floors.index(package)])
    return [f"line {line}: {package} imports {name}" for line, name in _imported(path) if name in above]


@pytest.mark.parametrize("package", FLOORS)
def test_imports_go_down(package: str) -> None:
    wrong = [f"{name}, {fault}" for name, path in _modules(package) for fault in _upward(package, path)]
    assert not wrong, "\n".join(wrong)


def test_an_import_that_goes_up_is_found(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text(
        "def late():\n    from penstock_gateway.config import load\n    import penstock_models\n"
    )
    assert _upward("penstock_cloud", module) == ["line 2: penstock_cloud imports penstock_gateway"]


@pytest.mark.parametrize("package", FLOORS)
def test_nobody_imports_another_floors_private_module(package: str) -> None:
    wrong = []
    for name, path in _modules(package):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if not isinstance(node, ast.ImportFrom) or node.level:
                continue
            parts = (node.module or "").split(".")
            foreign = parts[0] in FLOORS and parts[0] != package
            private = [part for part in (*parts, *(a.name for a in node.names)) if part.startswith("_")]
            if foreign and private:
                wrong.append(f"{name}, line {node.lineno}: {node.module} is private ({private[0]})")
    assert not wrong, "\n".join(wrong)


def _loaded_by(statement: str) -> set[str]:
    code = f"{statement}\nimport sys; print(*(name.partition('.')[0] for name in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_a_gateway_loads_nothing_that_it_does_not_use() -> None:
    assert not _loaded_by("import penstock_gateway.cli, penstock_gateway.gateway") & HEAVY


def test_help_loads_neither_runtime_nor_codec() -> None:
    """`penstock --help` answers at once: a group is imported when it is called."""
    loaded = _loaded_by("import penstock_models.main")
    assert not loaded & (
        HEAVY | {"cv2", "numpy", "onnxruntime", "ai_edge_litert", "aiohttp", "penstock_gateway"}
    )


def test_the_wheel_holds_the_four_floors() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert set(packages) == {f"{folder}/{package}" for package, folder in FLOORS.items()}
