"""The command line: exit codes, one-line errors, JSON, and no import that is not needed."""

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import onnx
import pytest
from PIL import Image

from penstock_models import main as root
from penstock_models.bundle import open_bundle, write_bundle
from penstock_models.errors import BundleError
from penstock_models.main import main

from . import onnx_files, vetted_files


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.new("RGB", (64, 48), (0, 200, 0)).save(tmp_path / "green.png")
    return tmp_path / "green.png"


@pytest.fixture
def bundle(tmp_path: Path, photo: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    (tmp_path / "m.onnx").write_bytes(onnx_files.classifier())
    (tmp_path / "labels.txt").write_text("red\ngreen\nblue\n")
    words = [
        "pack",
        "m.onnx",
        "--preset",
        "classification",
        "--labels",
        "labels.txt",
        "--golden",
        "green.png",
    ]
    paths = [str(tmp_path / w) if "." in w else w for w in words]
    assert main(["model", *paths, "--set", "topk.k=2", "-o", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    return tmp_path / "out" / "m-1.bundle"


def call(capsys: pytest.CaptureFixture[str], *words: Any) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_help_lists_the_groups(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "--help")
    assert code == 0
    assert "model" in out and "Example:" in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "--version")[:2] == (0, f"penstock {metadata.version('penstock')}\n")


@pytest.mark.parametrize("command", ["pack", "inspect", "verify", "run", "bench"])
def test_every_command_has_help_with_an_example_and_json(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    code, out, _ = call(capsys, "model", command, "--help")
    assert code == 0
    assert f"Example:\n    penstock model {command}" in out
    assert "--json" in out


def test_pack_prints_the_digest(capsys: pytest.CaptureFixture[str], bundle: Path, tmp_path: Path) -> None:
    code, out, _ = call(
        capsys, "model", "pack", tmp_path / "m.onnx", "--version", 3, "-o", tmp_path, "--json"
    )
    found = json.loads(out)
    assert code == 0
    assert found["path"] == str(tmp_path / "m-3.bundle")
    assert (found["name"], found["version"], found["digest"][:7]) == ("m", 3, "sha256:")


def test_inspect(capsys: pytest.CaptureFixture[str], bundle: Path) -> None:
    code, out, _ = call(capsys, "model", "inspect", bundle)
    assert code == 0
    assert "m:1  classification" in out and "topk k=2" in out and "3 labels: red, green, blue" in out
    manifest = json.loads(call(capsys, "model", "inspect", bundle, "--json")[1])["manifest"]
    assert manifest["postprocess"] == [{"op": "topk", "k": 2}]


def test_verify_exits_1_on_a_no(capsys: pytest.CaptureFixture[str], bundle: Path) -> None:
    code, out, _ = call(capsys, "model", "verify", bundle)
    assert (code, out[:3]) == (0, "ok:")
    assert "1 golden sample right" in out
    bundle.write_bytes(bundle.read_bytes().replace(b"IDAT", b"IDAX"))
    code, out, err = call(capsys, "model", "verify", bundle, "--json")
    assert code == 1
    assert json.loads(out)["ok"] is False
    assert "Traceback" not in err


def test_run_draws_and_prints(
    capsys: pytest.CaptureFixture[str], bundle: Path, photo: Path, tmp_path: Path
) -> None:
    code, out, _ = call(capsys, "model", "run", bundle, photo, "--save", tmp_path / "drawn.png")
    assert code == 0
    assert out.startswith(f"{photo}: green ")
    assert (tmp_path / "drawn.png").stat().st_size > 0
    found = json.loads(call(capsys, "model", "run", bundle, photo, photo, "--json")[1])
    assert [r["classes"][0]["label"] for r in found["results"]] == ["green", "green"]
    assert found["model"]["digest"].startswith("sha256:")


def test_run_prints_the_answer_although_the_picture_cannot_be_saved(
    capsys: pytest.CaptureFixture[str], bundle: Path, photo: Path, tmp_path: Path
) -> None:
    code, out, err = call(capsys, "model", "run", bundle, photo, "--save", tmp_path / "drawn.what")
    assert (code, out.startswith(f"{photo}: green ")) == (2, True)
    assert "drawn.what" in err and err.count("\n") == 1


def test_run_saves_only_pictures(capsys: pytest.CaptureFixture[str], bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("1,2\n")
    code, out, err = call(capsys, "model", "run", bundle, tmp_path / "x.csv", "--save", tmp_path / "o.png")
    assert (code, out) == (2, "")
    assert "x.csv: expected a JPEG, PNG or WebP picture" in err and err.count("\n") == 1


def test_run_exits_1_where_an_input_has_no_answer(
    capsys: pytest.CaptureFixture[str], bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff junk")
    code, out, _ = call(capsys, "model", "run", bundle, tmp_path / "bad.jpg")
    assert code == 1
    assert "rejected: decode" in out


def test_bench(capsys: pytest.CaptureFixture[str], bundle: Path) -> None:
    code, out, _ = call(capsys, "model", "bench", bundle, "--seconds", 0.1, "--json")
    assert code == 0
    assert json.loads(out)["rows"][0]["batch"] == 1
    assert "items/s" in call(capsys, "model", "bench", bundle, "--seconds", 0.1)[1]


ERRORS: dict[str, tuple[list[str], int, str]] = {
    "no command": ([], 2, ""),
    "unknown command": (["modle"], 2, "there are"),
    "unknown subcommand": (["model", "pakc"], 2, "pakc"),
    "missing argument": (["model", "pack"], 2, "FILE"),
    "no file": (["model", "pack", "none.onnx", "-o", "out"], 2, "cannot read the model none.onnx"),
    "no bundle": (["model", "verify", "none.bundle"], 2, "no bundle at none.bundle"),
    "preset": (["model", "pack", "none.onnx", "--preset", "yolo", "-o", "out"], 2, "no preset 'yolo'"),
}


@pytest.mark.parametrize(("words", "code", "message"), ERRORS.values(), ids=ERRORS)
def test_usage_errors_exit_2(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    words: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    found, _, err = call(capsys, *words)
    assert found == code
    assert message in err
    assert err.count("\n") <= 1


def test_a_group_alone_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, "model")
    assert code == 2
    assert "pack" in out + err


def test_a_refused_model_exits_1_with_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_text("version https://git-lfs.github.com/spec/v1")
    code, _, err = call(capsys, "model", "pack", tmp_path / "m.onnx", "-o", tmp_path)
    assert code == 1
    assert err.startswith("penstock: not_a_model: m.onnx: a git-lfs pointer") and err.count("\n") == 1


def external_data() -> bytes:
    far = onnx_files.weight("k", [1.0])
    far.ClearField("raw_data")
    far.data_location = onnx.TensorProto.EXTERNAL
    far.external_data.add(key="location", value="k")
    ends = [onnx_files.tensor("x", [1])], [onnx_files.tensor("y", [1])]
    node = onnx.helper.make_node("Mul", ["x", "k"], ["y"])
    return bytes(onnx_files.model([node], *ends, [far]).SerializeToString())


def test_the_reason_of_a_refusal_reaches_programs(
    capsys: pytest.CaptureFixture[str], bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "far.onnx").write_bytes(external_data())
    code, out, err = call(capsys, "model", "pack", tmp_path / "far.onnx", "-o", tmp_path, "--json")
    found = json.loads(out)
    assert (code, found["reason"]) == (1, "external_data")
    assert err == f"penstock: {found['error']}\n"
    assert err.startswith("penstock: external_data: far.onnx: ")
    opened = open_bundle(bundle)
    wrong = {name: opened.read(name) for name in ("golden/0.png",)} | {"model.onnx": external_data()}
    refused = write_bundle(opened.manifest, wrong, tmp_path / "refused.bundle")
    code, out, _ = call(capsys, "model", "verify", refused, "--json")
    assert (code, json.loads(out)["reason"]) == (1, "external_data")
    code, out, _ = call(capsys, "model", "verify", bundle, "--json")
    assert (code, json.loads(out)["reason"]) == (0, None)


@pytest.mark.parametrize("place", [0, 1, 3])
def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str], tmp_path: Path, place: int) -> None:
    words = ["model", "verify", str(tmp_path / "none.bundle")]
    words.insert(place, "--debug")
    code, _, err = call(capsys, *words)
    assert code == 2
    assert "Traceback" in err


def test_debug_comes_from_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PENSTOCK_DEBUG", "1")
    assert "Traceback" in call(capsys, "model", "verify", tmp_path / "none.bundle")[2]


class Point:
    """An entry point whose command does what a test wants."""

    value = "tests:command"

    def __init__(self, act: Any) -> None:
        self.name = "made"
        self._act = act

    def load(self) -> Any:
        if isinstance(self._act, ImportError):
            raise self._act
        return self._act


def interrupted() -> None:
    raise KeyboardInterrupt


def unexpected() -> None:
    raise ValueError("two\nlines")


def verdict_no() -> None:
    raise BundleError("not this one")


@pytest.mark.parametrize(
    ("act", "code", "message"),
    [
        (interrupted, 130, ""),
        (unexpected, 1, "penstock: ValueError: two lines (unexpected; --debug shows where)\n"),
        (verdict_no, 1, "penstock: not this one\n"),
        (ModuleNotFoundError("no", name="tensorflow"), 2, "[recipes]"),
        (ModuleNotFoundError("no", name="nowhere_at_all.x"), 2, "pip install nowhere_at_all"),
    ],
)
def test_how_a_command_may_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, act: Any, code: int, message: str
) -> None:
    monkeypatch.setattr(root, "_groups", lambda: {"made": Point(act)})
    found, _, err = call(capsys, "made")
    assert found == code
    assert message in err if message else err.strip() == ""


def test_help_imports_nothing_heavy() -> None:
    """Each runs in a process of its own: what is imported here already would hide it."""
    heavy = [
        "numpy",
        "onnxruntime",
        "cv2",
        "ai_edge_litert",
        "PIL",
        "rich",
        "aiohttp",
        "penstock_gateway",
        "penstock_sim",
    ]
    code = (
        "import sys; from penstock_models.main import main; main(sys.argv[1:]);"
        f"print([m for m in {heavy} if m in sys.modules], file=sys.stderr)"
    )
    for words in (["--help"], ["model", "pack", "--help"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=30
        )
        assert done.stderr.strip() == "[]", words


def test_a_reader_that_leaves_is_no_error(bundle: Path) -> None:
    """`penstock … | head -c 0`: the pipe closes before anything is written."""
    command = [sys.executable, "-m", "penstock_models.main", "model", "inspect", str(bundle)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        process.wait(30)


def test_a_harmful_model_is_refused_in_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    bundle = vetted_files.bundle(tmp_path, vetted_files.huge())
    code, out, _ = call(capsys, "model", "verify", bundle, "--json")
    assert (code, json.loads(out)["reason"]) == (1, "memory")
    (tmp_path / "huge.onnx").write_bytes(vetted_files.huge())
    code, out, err = call(capsys, "model", "pack", tmp_path / "huge.onnx", "-o", tmp_path / "out", "--json")
    assert (code, json.loads(out)["reason"]) == (1, "memory")
    assert err.startswith("penstock: memory: ") and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_verify_lists_every_wrong_answer(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    bundle = vetted_files.bundle(tmp_path, vetted_files.doubler(), golden=3.0)
    code, out, _ = call(capsys, "model", "verify", bundle, "--json")
    found = json.loads(out)
    assert (code, found["reason"], found["golden"], found["digest"][:7]) == (1, "golden", 1, "sha256:")
    assert found["problems"] == ["golden/0.json: output y, 0: expected 3 ± 0.15, got 2"]
