"""A wheel built from the tree works outside the checkout, for a user who has neither Mosquitto, network nor root.

The wheel is installed without its dependencies; a .pth file lends it those of the environment that runs the tests
(the editable install there is not on that path, since .pth files in a lent folder are not read). That the
dependencies install by themselves is what `make install` shows.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT

# Runs a command as nobody in particular, with a loopback of its own and no Mosquitto.
ALONE = """
"$1" -c 'import fcntl, socket, struct
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh", b"lo", 0x41))'
for program in /usr/sbin/mosquitto /usr/local/sbin/mosquitto /usr/bin/mosquitto; do
    [ ! -e "$program" ] || mount --bind /dev/null "$program"
done
shift
exec unshare --user -- "$@"
"""


def _run(*command: str | Path, cwd: Path, timeout_s: float = 50) -> str:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PENSTOCK_", "PYTHON"))}
    done = subprocess.run(
        command, cwd=cwd, env=clean, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from the tree."""
    out = tmp_path_factory.mktemp("wheel")
    _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    (built,) = out.glob("penstock-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into a fresh environment, and return the environment's bin folder."""
    home = tmp_path_factory.mktemp("installed")
    _run(sys.executable, "-m", "venv", "--without-pip", home / "venv", cwd=home)
    python = home / "venv" / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python)
    _run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=home)
    (packages,) = (home / "venv").glob("lib/python3*/site-packages")
    (packages / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python.parent


def test_the_wheel_holds_what_runs_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    floors = {"penstock_models", "penstock_cloud", "penstock_gateway", "penstock_sim"}
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == floors
    assert all(f"{floor}/py.typed" in names for floor in floors)
    assert any(name.startswith("penstock_models/demo/") and name.endswith(".bundle") for name in names)
    assert any(name.endswith("/licenses/LICENSE") for name in names)


def test_the_command_comes_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    where = _run(installed / "python", "-c", "import penstock_models as m; print(m.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(installed.parent)
    assert "demo" in _run(installed / "penstock", "--help", cwd=tmp_path)


@pytest.mark.slow
@pytest.mark.system
def test_the_demo_runs_without_mosquitto_network_or_root(installed: Path, tmp_path: Path) -> None:
    alone = ["unshare", "--user", "--map-root-user", "--net", "--mount"]
    if (
        not shutil.which("unshare")
        or subprocess.run([*alone, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("this machine lets nobody make namespaces, so what is missing cannot be taken away")
    demo = (installed / "penstock", "demo", "--seconds", "3", "--json")
    out = _run(*alone, "bash", "-euc", ALONE, "alone", installed / "python", *demo, cwd=tmp_path)
    ledger = json.loads(out.splitlines()[-1])["ledger"]
    fates = ("answered", "unchanged", "superseded", "duplicate", "expired", "rejected", "failed", "dropped")
    assert ledger["answered"] > 0
    assert ledger["received"] == sum(ledger[fate] for fate in fates) + ledger["in_flight"]
