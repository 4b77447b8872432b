"""What a store offers, on real folders: half copies, twins, replaced and unreadable entries."""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest

from penstock_models import store
from penstock_models.bundle import write_bundle
from penstock_models.manifest import Manifest, TensorSpec, Variant
from penstock_models.store import bare_identity
from penstock_models.versions.offers import FRESH_S, Offers, Stamp
from penstock_models.versions.source import SETTLE_S, ListSource, StoreSource

from . import onnx_files

TENSOR = TensorSpec("x", "float32", (1, 4))
MODEL = onnx_files.autoencoder()
OLD = 0.0  # a wall clock that is behind every file: nothing looks settled by its age


def bundle(folder: Path, name: str, version: int, **more: str) -> Path:
    variant = Variant("model.onnx", "onnx", (TENSOR,), (TENSOR,))
    made = Manifest(name, version, "raw", (variant,), (), provenance=more)
    return write_bundle(made, {"model.onnx": MODEL}, folder)


def unpacked(folder: Path, name: str, version: int) -> Path:
    packed = bundle(folder.parent / ".packing", name, version)
    with tarfile.open(packed) as opened:
        opened.extractall(folder, filter="data")
    shutil.rmtree(packed.parent)
    return folder


def bare(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(MODEL)
    return folder


def offered(found: Offers) -> list[str]:
    return [f"{offer.name}:{offer.version}" for offer in found.offers]


def texts(found: Offers) -> str:
    return "\n".join(problem.text for problem in found.problems)


def test_bundles_and_unpacked_ones_are_offered_at_once(tmp_path: Path) -> None:
    bundle(tmp_path, "a", 2)
    unpacked(tmp_path / "a" / "1", "a", 1)
    found = StoreSource(tmp_path).scan(0.0, OLD)
    assert offered(found) == ["a:1", "a:2"] and not found.problems
    assert all(offer.digest.startswith("sha256:") for offer in found.offers)


def test_a_bare_model_waits_until_nothing_changed_for_five_seconds(tmp_path: Path) -> None:
    folder = bare(tmp_path / "m" / "1")
    source = StoreSource(tmp_path)
    assert "waits until nothing changed for 5 s" in texts(source.scan(0.0, OLD))
    assert not offered(source.scan(SETTLE_S - 0.1, OLD))
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"more")
    assert not offered(source.scan(SETTLE_S, OLD))  # changed: the clock starts anew
    assert not offered(source.scan(2 * SETTLE_S - 0.1, OLD))
    (folder / "labels.txt").write_text("cat")  # another file counts too
    assert not offered(source.scan(2 * SETTLE_S, OLD))
    found = source.scan(3 * SETTLE_S, OLD)
    assert offered(found) == ["m:1"] and not found.problems and found.offers[0].digest == ""


def test_a_bare_model_that_lay_there_long_ago_needs_no_waiting(tmp_path: Path) -> None:
    folder = bare(tmp_path / "m" / "1")
    written = max(path.stat().st_ctime for path in (folder, *folder.iterdir()))
    assert not offered(StoreSource(tmp_path).scan(0.0, written + SETTLE_S - 0.1))
    assert offered(StoreSource(tmp_path).scan(0.0, written + SETTLE_S)) == ["m:1"]


def test_a_copy_that_keeps_old_times_still_waits(tmp_path: Path) -> None:
    folder = bare(tmp_path / "m" / "1")
    os.utime(folder / "model.onnx", (1.0, 1.0))
    os.utime(folder, (1.0, 1.0))
    now = folder.stat().st_ctime
    assert not offered(StoreSource(tmp_path).scan(0.0, now + 1.0))


@pytest.mark.parametrize("part", [0.05, 0.5, 0.99])
def test_a_half_copied_bundle_is_a_problem_until_it_is_whole(tmp_path: Path, part: float) -> None:
    whole = bundle(tmp_path / "elsewhere", "m", 1)
    bundle(tmp_path / "store", "m", 2)
    target = tmp_path / "store" / "m-1.bundle"
    data = whole.read_bytes()
    source = StoreSource(tmp_path / "store")
    target.write_bytes(data[: int(len(data) * part)])
    found = source.scan(0.0, OLD)
    assert offered(found) == ["m:2"]
    assert [(p.name, p.version) for p in found.problems] == [("m", 1)]
    target.write_bytes(data)
    found = source.scan(1.0, OLD)
    assert offered(found) == ["m:1", "m:2"] and not found.problems


def test_a_half_copied_folder_is_a_problem_until_it_is_whole(tmp_path: Path) -> None:
    whole = unpacked(tmp_path / "elsewhere" / "1", "m", 1)
    target = tmp_path / "store" / "m" / "1"
    target.mkdir(parents=True)
    source = StoreSource(tmp_path / "store")
    assert "neither manifest.json nor" in texts(source.scan(0.0, OLD))
    shutil.copy(whole / "manifest.json", target)
    assert "model.onnx is listed in manifest.json but not there" in texts(source.scan(1.0, OLD))
    (target / "model.onnx").write_bytes(MODEL[:10])
    assert "model.onnx has 10 bytes" in texts(source.scan(2.0, OLD))
    shutil.copy(whole / "model.onnx", target)
    assert offered(source.scan(3.0, OLD)) == ["m:1"]


def test_only_what_changed_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in range(1, 6):
        bundle(tmp_path, "m", version)
    opened: list[str] = []

    def counted(place: store.Place) -> store.Version:
        opened.append(place.path.name)
        return store.look(place)

    monkeypatch.setattr("penstock_models.versions.source.look", counted)
    source = StoreSource(tmp_path)
    source.scan(0.0, OLD)
    source.scan(FRESH_S, OLD)  # once more, as they may have changed within a tick of the file's clock
    assert len(opened) == 10
    opened.clear()
    assert len(source.scan(FRESH_S + 1, OLD).offers) == 5 and opened == []
    bundle(tmp_path, "m", 3, note="new")
    assert len(source.scan(FRESH_S + 2, OLD).offers) == 5 and opened == ["m-3.bundle"]


def test_replaced_in_place_is_another_offer(tmp_path: Path) -> None:
    bundle(tmp_path, "m", 1)
    source = StoreSource(tmp_path)
    before = source.scan(0.0, OLD).offers[0]
    bundle(tmp_path, "m", 1, note="other contents")
    after = source.scan(1.0, OLD).offers[0]
    assert (before.version, before.path) == (after.version, after.path)
    assert before.digest != after.digest and before.stamp != after.stamp


def test_twins_with_equal_contents_are_one(tmp_path: Path) -> None:
    first = bundle(tmp_path, "m", 1)
    shutil.copy(first, tmp_path / "z.bundle")
    found = StoreSource(tmp_path).scan(0.0, OLD)
    assert offered(found) == ["m:1"] and found.offers[0].path == first
    assert f"lies in {first} and in {tmp_path / 'z.bundle'}; {first} is used" in texts(found)


def test_of_unequal_twins_the_one_that_was_there_stays(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    bundle(tmp_path, "m", 1).rename(tmp_path / "z.bundle")
    source = StoreSource(tmp_path)
    before = source.scan(0.0, OLD).offers
    bundle(tmp_path, "m", 1, note="twin")
    found = source.scan(1.0, OLD)
    assert found.offers == before and "z.bundle is used" in texts(found)
    anew = StoreSource(tmp_path).scan(0.0, OLD)
    assert not anew.offers and "remove one" in texts(anew)


def test_a_version_in_a_folder_of_another_number_is_named(tmp_path: Path) -> None:
    unpacked(tmp_path / "m" / "1", "m", 1)
    shutil.copytree(tmp_path / "m" / "1", tmp_path / "m" / "2")
    found = StoreSource(tmp_path).scan(0.0, OLD)
    assert offered(found) == ["m:1"] and "the manifest is of m:1, the folder of m:2" in texts(found)


def test_what_vanishes_is_withdrawn(tmp_path: Path) -> None:
    path = bundle(tmp_path, "m", 1)
    bundle(tmp_path, "m", 2)
    source = StoreSource(tmp_path)
    source.scan(0.0, OLD)
    path.unlink()
    found = source.scan(1.0, OLD)
    assert offered(found) == ["m:2"] and not found.problems


def test_what_vanishes_between_listing_and_looking_is_left_out(tmp_path: Path) -> None:
    good = bundle(tmp_path, "m", 1)
    found = ListSource([good, tmp_path / "gone.bundle"]).scan(0.0, OLD)
    assert offered(found) == ["m:1"] and not found.problems


def test_a_file_that_comes_and_goes_beside_a_model_withdraws_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacked(tmp_path / "m" / "1", "m", 1)
    source = StoreSource(tmp_path)
    assert offered(source.scan(0.0, OLD)) == ["m:1"]

    def vanished(path: Path) -> Stamp:
        raise FileNotFoundError(2, "No such file or directory", f"{path}/draft.tmp")

    with monkeypatch.context() as patch:
        patch.setattr("penstock_models.versions.source.stamp", vanished)
        found = source.scan(1.0, OLD)
    assert found.excuses("m", 1) and "No such file or directory" in texts(found)
    assert offered(source.scan(2.0, OLD)) == ["m:1"]


def test_a_store_that_is_gone_withdraws_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    bundle(folder, "m", 1)
    source = StoreSource(folder)
    before = source.scan(0.0, OLD)
    folder.rename(tmp_path / "unmounted")
    found = source.scan(1.0, OLD)
    assert found.offers == before.offers and found.excuses("anything", 7)
    assert "no model store" in texts(found)


AS_NOBODY = """
import os, sys
from pathlib import Path
from penstock_models.versions.source import StoreSource
"".encode("utf-16-be")  # loaded when it is first used, from where nobody may read
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
found = StoreSource(Path(sys.argv[1])).scan(0.0, 0.0)
print(",".join(f"{o.name}:{o.version}" for o in found.offers))
for problem in found.problems:
    print(problem.name, problem.version, problem.text)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become nobody")
def test_what_may_not_be_read_is_named_and_stops_nobody_else() -> None:
    # Under /var/tmp, as a folder of pytest's own is closed to everybody else.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        bundle(folder, "good", 1)
        bundle(folder, "closed", 2).chmod(0o600)
        unpacked(folder / "shut" / "3", "shut", 3)
        (folder / "shut" / "3").chmod(0o700)
        (folder / "whole" / "4").mkdir(parents=True)
        (folder / "whole").chmod(0o700)
        (bare(folder / "part" / "5") / "more").mkdir(mode=0o700)
        ran = subprocess.run([sys.executable, "-c", AS_NOBODY, str(folder)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    offers, *problems = ran.stdout.splitlines()
    assert offers == "good:1"
    assert sorted(line.split(" ")[0] for line in problems) == ["closed", "part", "shut", "whole"]
    assert all("Permission denied" in line for line in problems)


def test_a_list_in_code_is_stated_in_full(tmp_path: Path) -> None:
    source = ListSource([bundle(tmp_path, "a", 1), unpacked(tmp_path / "b" / "2", "b", 2)])
    assert offered(source.scan(0.0, OLD)) == ["a:1", "b:2"]
    source.set([tmp_path / "b" / "2"])
    assert offered(source.scan(1.0, OLD)) == ["b:2"]


@pytest.mark.parametrize("digits", ["²", "٣", "0"])
def test_digits_that_are_no_version_end_no_look(tmp_path: Path, digits: str) -> None:
    (tmp_path / f"bad-{digits}.bundle").write_bytes(b"no tar")
    (tmp_path / "m" / digits).mkdir(parents=True)
    bundle(tmp_path, "good", 1)
    found = StoreSource(tmp_path).scan(0.0, OLD)
    assert offered(found) == ["good:1"] and len(found.problems) == 1
    assert bare_identity(tmp_path / "m" / digits) == (digits, None)


def test_names_that_are_no_text_can_be_said(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"bad-\xff-1.bundle")).write_bytes(b"no tar")
    found = StoreSource(tmp_path).scan(0.0, OLD)
    assert len(found.problems) == 1 and found.problems[0].text.encode()
