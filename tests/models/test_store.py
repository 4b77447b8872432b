"""What a reference means in a folder of models."""

import shutil
import tarfile
from pathlib import Path

import pytest

from penstock_models.bundle import open_bundle, write_bundle
from penstock_models.errors import BundleError, UsageError
from penstock_models.manifest import Manifest, TensorSpec, Variant
from penstock_models.store import Reference, open_version, parse_reference, resolve, versions

from . import onnx_files

TENSOR = TensorSpec("x", "float32", (1, 4))
FILES = {"model.onnx": onnx_files.autoencoder()}


def bundle(folder: Path, name: str, version: int) -> Path:
    manifest = Manifest(name, version, "raw", (Variant("model.onnx", "onnx", (TENSOR,), (TENSOR,)),), ())
    return write_bundle(manifest, FILES, folder)


def unpacked(folder: Path, name: str, version: int) -> Path:
    packed = bundle(folder.parent / "packing", name, version)
    with tarfile.open(packed) as opened:
        opened.extractall(folder, filter="data")
    shutil.rmtree(packed.parent)
    return folder


def test_the_highest_version_wins(tmp_path: Path) -> None:
    for version in (9, 10, 2):
        bundle(tmp_path, "person", version)
    assert resolve(tmp_path, "person").name == "person-10.bundle"
    assert resolve(tmp_path, "person:2").name == "person-2.bundle"


def test_goes_by_the_manifest_and_not_by_the_file_name(tmp_path: Path) -> None:
    bundle(tmp_path, "person", 3).rename(tmp_path / "other-9.bundle")
    assert resolve(tmp_path, "person:3").name == "other-9.bundle"


def test_layouts_may_be_mixed(tmp_path: Path) -> None:
    bundle(tmp_path, "a", 1)
    unpacked(tmp_path / "a" / "2", "a", 2)
    unpacked(tmp_path / "b-unpacked", "b", 1)
    bundle(tmp_path / "c" / "5", "c", 5)
    (tmp_path / "d" / "4").mkdir(parents=True)
    (tmp_path / "d" / "4" / "model.onnx").write_bytes(FILES["model.onnx"])
    (tmp_path / "d" / "notes").mkdir()
    (tmp_path / "readme.txt").write_text("not a model")
    (tmp_path / ".a-3.bundle.17.tmp").write_bytes(b"half")
    found = [(v.name, v.version, v.error) for v in versions(tmp_path)]
    assert found == [("a", 1, ""), ("a", 2, ""), ("b", 1, ""), ("c", 5, ""), ("d", 4, "")]
    assert open_version(resolve(tmp_path, "a")).manifest.version == 2
    assert open_version(resolve(tmp_path, "c")).manifest.version == 5


def test_a_broken_bundle_disturbs_no_other(tmp_path: Path) -> None:
    bundle(tmp_path, "good", 1)
    (tmp_path / "bad-2.bundle").write_bytes(b"not a tar")
    assert resolve(tmp_path, "good").name == "good-1.bundle"
    with pytest.raises(BundleError, match="tar"):
        resolve(tmp_path, "bad")


def test_a_broken_newer_version_leaves_the_older_one(tmp_path: Path) -> None:
    bundle(tmp_path, "person", 1)
    (tmp_path / "person-2.bundle").write_bytes(b"not a tar")
    assert resolve(tmp_path, "person").name == "person-1.bundle"
    with pytest.raises(BundleError, match="tar"):
        resolve(tmp_path, "person:2")


def test_a_folder_must_hold_what_its_name_says(tmp_path: Path) -> None:
    unpacked(tmp_path / "person" / "7", "person", 6)
    with pytest.raises(BundleError, match=r"manifest is of person:6, the folder of person:7"):
        resolve(tmp_path, "person:7")


def test_two_files_of_one_version_are_an_error(tmp_path: Path) -> None:
    first = bundle(tmp_path, "person", 1)
    shutil.copy(first, tmp_path / "copy.bundle")
    with pytest.raises(BundleError, match="lies in"):
        resolve(tmp_path, "person")


def test_a_version_folder_without_a_model_says_what_it_needs(tmp_path: Path) -> None:
    (tmp_path / "person" / "1").mkdir(parents=True)
    with pytest.raises(BundleError, match=r"model\.toml"):
        resolve(tmp_path, "person")
    with pytest.raises(BundleError, match=r"model\.toml"):
        open_version(tmp_path / "person" / "1")


def test_what_is_not_there_lists_what_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="it has no models"):
        resolve(tmp_path, "person")
    bundle(tmp_path, "face", 2)
    with pytest.raises(UsageError, match=r"no model 'person:1' in .*; it has face:2"):
        resolve(tmp_path, "person:1")
    with pytest.raises(UsageError, match="no model store"):
        resolve(tmp_path / "none", "person")


def test_a_folder_of_several_bundles_is_no_bundle(tmp_path: Path) -> None:
    bundle(tmp_path, "a", 1)
    assert open_bundle(tmp_path).manifest.name == "a"
    bundle(tmp_path, "a", 2)
    with pytest.raises(UsageError, match="2 bundles"):
        open_bundle(tmp_path)


@pytest.mark.parametrize(
    ("text", "reference"),
    [("person", Reference("person")), ("person:7", Reference("person", 7)), ("a_b-9", Reference("a_b-9"))],
)
def test_references(text: str, reference: Reference) -> None:
    assert parse_reference(text) == reference


@pytest.mark.parametrize(
    "text",
    ["", "Person", "a/b", "../a", "a:", "a:0", "a:01", "a:x", "a:1:2", f"a:{2**63}", "@x", "a@", "a@b:1"],
)
def test_bad_references(text: str) -> None:
    with pytest.raises(UsageError, match="model"):
        parse_reference(text)


def test_a_folder_has_no_labels(tmp_path: Path) -> None:
    assert parse_reference("person@stable") == Reference("person", label="stable")
    with pytest.raises(UsageError, match=r"a running gateway has; write NAME or NAME:VERSION"):
        resolve(tmp_path, "person@stable")
    for bad in ("person@Stable", "person@7"):
        with pytest.raises(UsageError, match="label"):
            parse_reference(bad)


def test_a_half_copied_folder_is_an_error_without_reading_it(tmp_path: Path) -> None:
    folder = unpacked(tmp_path / "person" / "7", "person", 7)
    (folder / "model.onnx").write_bytes(FILES["model.onnx"][:-1])
    with pytest.raises(BundleError, match=r"model\.onnx has \d+ bytes"):
        resolve(tmp_path, "person:7")


def test_a_bare_model_opens_as_a_bundle(tmp_path: Path) -> None:
    folder = tmp_path / "half" / "3"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(FILES["model.onnx"])
    opened = open_version(resolve(tmp_path, "half"))
    assert (opened.manifest.name, opened.manifest.version, opened.manifest.task) == ("half", 3, "raw")
    (folder / "model.toml").write_text('file = "model.onnx"\npreset = "autoencoder"\n')
    assert open_version(folder).manifest.task == "anomaly"
    assert open_version(folder).digest == open_version(folder).digest
