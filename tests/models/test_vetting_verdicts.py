"""A foreign model meets a limited child process first: what passes, what is refused, and why."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock_models.errors import (
    BundleError,
    GoldenError,
    ModelRefused,
    PenstockError,
    PlacementError,
    UsageError,
)
from penstock_models.vetting.verdict import Limits, Reason, Vetted, life_s, refused
from penstock_models.vetting.vet import require_model, vet_blocking
from tests.conftest import ROOT
from tests.models import onnx_files, vetted_files
from tests.models.vetting_children import QUICK, children

DEMO = ROOT / "models" / "penstock_models" / "demo"


def network() -> str:
    """What keeps a child off it here."""
    return vet_blocking(DEMO / "vibration-1.bundle").network


@pytest.mark.parametrize("name", ["yard", "vibration"])
def test_the_demo_bundles_pass_and_are_measured(name: str) -> None:
    seen: list[tuple[int, int]] = []
    found = vet_blocking(DEMO / f"{name}-1.bundle", advance=lambda done, total: seen.append((done, total)))
    assert (found.ok, found.reason, found.message) == (True, "", "")
    assert seen == [(n, found.golden) for n in range(1, found.golden + 1)]
    assert found.placement == "onnxruntime:cpu"
    assert 1e6 < found.resident_bytes <= found.peak_bytes < 500e6
    assert found.base_bytes > 10e6
    found.require()


REFUSED: dict[str, tuple[bytes, float | None, Reason, str]] = {
    "huge constant": (vetted_files.huge(), None, "memory", "asked for 400000 MB at once"),
    "huge constant, golden": (vetted_files.huge(), 1.0, "memory", "while loading it"),
    "quadratic": (vetted_files.quadratic(), None, "memory", "asked for 160000 MB at once"),
    "endless loop": (vetted_files.endless(), None, "endless", "used 1 s of processor time"),
    "above": (vetted_files.external("../weights.bin"), None, "external_data", "another file"),
    "absolute": (vetted_files.external("/etc/passwd"), None, "external_data", "another file"),
    "device": (vetted_files.external("/dev/zero"), None, "external_data", "another file"),
    "symbolic link": (vetted_files.external("symlink"), None, "external_data", "another file"),
    "hard link": (vetted_files.external("hardlink"), None, "external_data", "another file"),
    "operator": (vetted_files.foreign_operator(), None, "custom_op", "evil.ops:Evil"),
    "truncated": (onnx_files.classifier()[:-9], None, "truncated", "again"),
    "text": (b"<html>404</html>", None, "not_a_model", "text"),
    "wrong answer": (vetted_files.doubler(), 3.0, "golden", "expected 3"),
}


@pytest.mark.parametrize(("data", "golden", "reason", "words"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(
    tmp_path: Path, data: bytes, golden: float | None, reason: Reason, words: str
) -> None:
    path = vetted_files.bundle(tmp_path, data, golden=golden)
    (tmp_path / "target").write_bytes(bytes(8))
    (tmp_path / "symlink").symlink_to("target")
    (tmp_path / "hardlink").hardlink_to(tmp_path / "target")
    found = vet_blocking(path, limits=QUICK)
    assert (found.ok, found.reason) == (False, reason), found.message
    assert words in found.message
    assert "\n" not in found.message and "/proc/self" not in found.message
    assert children() == []


def test_memory_is_what_the_limit_allows(tmp_path: Path) -> None:
    """The same model: 64 MB of intermediate, refused under 50 MB, fine under 500."""
    path = vetted_files.bundle(tmp_path, vetted_files.quadratic(side=4096))
    small = vet_blocking(path, limits=Limits(memory_bytes=50_000_000))
    assert (small.reason, "more than 50 MB were needed" in small.message) == ("memory", True)
    large = vet_blocking(path, limits=Limits(memory_bytes=500_000_000))
    assert large.ok and large.peak_bytes > 64e6


def test_a_bundle_that_is_not_what_it_says(tmp_path: Path) -> None:
    path = vetted_files.bundle(tmp_path, vetted_files.doubler())
    path.write_bytes(path.read_bytes().replace(b"two", b"owt"))
    found = vet_blocking(path)
    assert (found.reason, "model.onnx has sha256" in found.message) == ("bundle", True)
    assert found.message.startswith(str(path))


def test_an_unpacked_bundle_and_a_bare_model_file(tmp_path: Path) -> None:
    bare = tmp_path / "doubler" / "7"
    bare.mkdir(parents=True)
    (bare / "model.onnx").write_bytes(vetted_files.doubler())
    found = vet_blocking(bare)
    assert found.ok and found.golden == 1 and found.resident_bytes > 0
    (bare / "model.toml").write_text('file = "model.onnx"\nwhat = 1\n')
    wrong = vet_blocking(bare)
    assert (wrong.reason, "what" in wrong.message, str(bare) in wrong.message) == ("usage", True, True)
    (bare / "model.toml").unlink()
    (bare / "model.onnx").write_bytes(vetted_files.huge())
    assert vet_blocking(bare).reason == "memory"
    (bare / "model.onnx").unlink()
    assert vet_blocking(bare).reason == "bundle"
    shutil.unpack_archive(vetted_files.bundle(tmp_path, vetted_files.doubler()), tmp_path / "open", "tar")
    assert vet_blocking(tmp_path / "open").ok
    (tmp_path / "open" / "model.onnx").unlink()
    (tmp_path / "open" / "model.onnx").symlink_to("/dev/zero")
    assert "a link or a device" in vet_blocking(tmp_path / "open").message


def test_what_is_no_file_is_said_before_a_child_is_started(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no bundle at"):
        vet_blocking(tmp_path / "none.bundle")
    os.mkfifo(tmp_path / "pipe.bundle")
    assert vet_blocking(tmp_path / "pipe.bundle").reason == "bundle"
    with pytest.raises(ModelRefused, match="not a regular file"):
        require_model(Path("/dev/zero"))
    with pytest.raises(UsageError, match="cannot read"):
        require_model(tmp_path / "none.onnx")


def test_broken_models_of_the_kit(realdata: Path) -> None:
    words = {}
    for path in sorted((realdata / "models" / "broken").iterdir()):
        with pytest.raises(ModelRefused) as caught:
            require_model(path)
        words[path.stem] = caught.value.reason
    assert words == {
        "audio_preprocessor_int8": "custom_op",
        "lfs_pointer": "not_a_model",
        "model_invoking_error": "custom_op",
        "person_detect": "bad_quantization",
    }


@pytest.mark.parametrize(
    "name",
    [
        "light_weight_person_detector_192.onnx",
        "mobilenet_v2_1.0_224_quant.tflite",
        "vww_96_int8.tflite",
    ],
)
def test_good_models_of_the_kit_pass(realdata: Path, name: str) -> None:
    require_model(realdata / "models" / name)


# Threads reserve some 130 MB of address space or not, as they meet: 80 is too little for two rows at once, 300 for eight.
@pytest.mark.parametrize(("memory_mb", "stage"), [(80, "while "), (300, "while running batches of 8")])
def test_a_batch_that_does_not_fit_is_no_half_batch(tmp_path: Path, memory_mb: int, stage: str) -> None:
    """The golden sample alone is right, and so would be the halves of a batch: in a process without limits it would be
    run whole. Every batch size is run, one after the other."""
    path = vetted_files.bundle(tmp_path, vetted_files.quadratic_batch(), golden=1.0)
    found = vet_blocking(path, limits=Limits(memory_bytes=memory_mb * 10**6))
    assert (found.reason, stage in found.message) == ("memory", True), found


def test_a_large_model_passes_where_the_limit_allows(realdata: Path) -> None:
    """It grows by 300 MB."""
    require_model(realdata / "models" / "light_resnet50.onnx", Limits(memory_bytes=400_000_000))
    with pytest.raises(ModelRefused, match=r"memory: .* more than 200 MB were needed while loading it"):
        require_model(realdata / "models" / "light_resnet50.onnx", Limits(memory_bytes=200_000_000))


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("bundle", BundleError),
        ("golden", GoldenError),
        ("placement", PlacementError),
        ("usage", UsageError),
        ("memory", ModelRefused),
        ("external_data", ModelRefused),
    ],
)
def test_a_refusal_is_the_error_that_loading_would_raise(reason: Reason, kind: type[PenstockError]) -> None:
    with pytest.raises(kind) as caught:
        refused(reason, "two\n lines", ("a",)).require()
    assert type(caught.value) is kind
    assert str(caught.value).endswith("two lines")


def test_how_long_a_verdict_lives() -> None:
    assert life_s(Vetted(True)) is None
    lives = {reason: life_s(refused(reason, "")) for reason in Reason.__args__ if reason}  # type: ignore[attr-defined]
    assert {lives[r] for r in ("memory", "endless", "crashed")} == {300.0}
    assert {lives[r] for r in ("golden", "runtime")} == {3_600.0}
    assert lives["external_data"] == 86_400.0
    assert [r for r, life in lives.items() if not life] == ["placement", "usage", "starved", "internal"]


def test_a_path_that_is_no_text(tmp_path: Path) -> None:
    path = vetted_files.bundle(tmp_path, vetted_files.doubler())
    odd = path.rename(Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.bundle")))
    assert vet_blocking(odd).ok
    odd.write_bytes(b"no bundle")
    assert vet_blocking(odd).reason == "bundle"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may read."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="runs as the unprivileged user that it is already")
@pytest.mark.skipif(not shutil.which("setpriv"), reason="no setpriv (util-linux) to give up privileges with")
def test_without_privileges(open_folder: Path) -> None:
    """The same verdicts, with the same limits, as `nobody`."""
    good = vetted_files.bundle(open_folder, vetted_files.doubler(), golden=2.0)
    huge = vetted_files.bundle(open_folder, vetted_files.huge(), name="huge")
    code = (
        "import sys, os; from penstock_models.vetting.vet import vet_blocking as vet\n"
        "from penstock_models.vetting.verdict import Limits\n"
        "print(os.geteuid(), *[(f.reason, f.network) for f in (vet(p, limits=Limits(cpu_s=1)) for p in sys.argv[1:])])"
    )
    # It may read the interpreter, wherever that is installed, and has no other right.
    read = "-all,+dac_read_search"
    rights = [f"--inh-caps={read}", "--ambient-caps=+dac_read_search", f"--bounding-set={read}"]
    words = [sys.executable, "-c", code, str(good), str(huge)]
    done = subprocess.run(
        ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", *rights, *words],
        capture_output=True,
        text=True,
        timeout=50,
        cwd="/",
    )
    assert done.stderr == ""
    user, _, verdicts = done.stdout.strip().partition(" ")
    assert user != "0"
    assert verdicts == f"('', '{network()}') ('memory', '{network()}')"
