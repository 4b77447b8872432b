"""Opening a bundle: everything is verified, every trick is refused by name, and equal input gives equal bytes."""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_models import archive, canonical, ustar
from penstock_models.bundle import MANIFEST, memory_bundle, open_bundle, outline, seal, write_bundle
from penstock_models.errors import BundleError, PenstockError, UsageError
from penstock_models.manifest import Golden, Manifest, TensorSpec, Variant
from penstock_models.steps import specs

FILES = {"model.onnx": b"weights" * 300, "golden/0.jpg": b"picture"}
TENSOR = TensorSpec("x", "float32", (1, 3))
MANIFEST_OBJECT = Manifest(
    name="demo",
    version=7,
    task="raw",
    variants=(Variant("model.onnx", "onnx", (TENSOR,), (TENSOR,)),),
    files=(),
    golden=(Golden("golden/0.jpg", "image/jpeg", {"outputs": {}}),),
)


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    return write_bundle(MANIFEST_OBJECT, FILES, tmp_path)


def refused(path: Path) -> str:
    with pytest.raises(PenstockError) as caught:
        open_bundle(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def tar_of(tmp_path: Path, members: list[tuple[str | tarfile.TarInfo, bytes]], **options: Any) -> Path:
    """An archive as any tool could write it; the first member is a right manifest unless one is given."""
    path = tmp_path / "made.bundle"
    with tarfile.open(path, "w", **{"format": tarfile.USTAR_FORMAT, **options}) as out:
        for member, data in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            info.size = len(data) if info.isreg() else 0
            out.addfile(info, io.BytesIO(data))
    return path


def whole(extra: list[tuple[str | tarfile.TarInfo, bytes]]) -> list[tuple[str | tarfile.TarInfo, bytes]]:
    return [(MANIFEST, seal(MANIFEST_OBJECT, FILES)), *FILES.items(), *extra]


def test_opens_what_it_wrote(packed: Path) -> None:
    bundle = open_bundle(packed)
    assert packed.name == "demo-7.bundle"
    assert bundle.manifest.name == "demo"
    assert {name: bundle.read(name) for name in FILES} == FILES
    assert bundle.digest == f"sha256:{hashlib.sha256(seal(MANIFEST_OBJECT, FILES)).hexdigest()}"


def test_other_tools_read_it(packed: Path) -> None:
    with tarfile.open(packed) as opened:
        assert [m.name for m in opened] == [MANIFEST, "golden/0.jpg", "model.onnx"]
        assert {(m.mtime, m.uid, m.gid, m.mode) for m in opened} == {(0, 0, 0, 0o644)}


def test_an_archive_of_another_tool_opens(tmp_path: Path) -> None:
    assert open_bundle(tar_of(tmp_path, whole([]))).manifest.version == 7


def test_unpacked_folder_has_the_same_digest(packed: Path, tmp_path: Path) -> None:
    with tarfile.open(packed) as opened:
        opened.extractall(tmp_path / "unpacked", filter="data")
    assert open_bundle(tmp_path / "unpacked").digest == open_bundle(packed).digest


def test_a_folder_with_one_bundle_stands_for_it(packed: Path) -> None:
    assert open_bundle(packed.parent).digest == open_bundle(packed).digest
    write_bundle(MANIFEST_OBJECT, FILES, packed.parent / "second.bundle")
    assert "2 bundles" in refused(packed.parent)


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    one = write_bundle(MANIFEST_OBJECT, FILES, tmp_path / "a" / "x.bundle")
    two = write_bundle(MANIFEST_OBJECT, dict(reversed(FILES.items())), tmp_path / "b" / "y.bundle")
    assert one.read_bytes() == two.read_bytes()


def test_nothing_is_left_where_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("penstock_models.files.os.fsync", full)
    with pytest.raises(UsageError, match="No space left"):
        write_bundle(MANIFEST_OBJECT, FILES, tmp_path / "out" / "x.bundle")
    assert list((tmp_path / "out").iterdir()) == []


def test_what_could_not_be_opened_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"model\.onnx"):
        write_bundle(MANIFEST_OBJECT, {"golden/0.jpg": b""}, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_every_cut_is_refused(packed: Path, tmp_path: Path) -> None:
    data = packed.read_bytes()
    cut = tmp_path / "cut.bundle"
    for length in range(0, len(data), 256):
        cut.write_bytes(data[:length])
        refused(cut)


@given(position=st.integers(0, 10**9), mask=st.integers(1, 255))
def test_a_changed_byte_is_refused_or_means_nothing(position: int, mask: int, tmp_path_factory: Any) -> None:
    """A byte that no digest covers is one of a tar header; then name and content are still the listed ones."""
    path = tmp_path_factory.mktemp("flip") / "flip.bundle"
    path = write_bundle(MANIFEST_OBJECT, FILES, path)
    data = bytearray(path.read_bytes())
    data[position % len(data)] ^= mask
    path.write_bytes(data)
    try:
        bundle = open_bundle(path)
    except BundleError:
        return
    assert {name: bundle.read(name) for name in FILES} == FILES
    assert bundle.manifest.files == memory_bundle(MANIFEST_OBJECT, FILES, path).manifest.files


def test_a_file_changed_after_opening_is_refused_on_read(packed: Path) -> None:
    bundle = open_bundle(packed)
    packed.write_bytes(packed.read_bytes().replace(b"picture", b"pictore"))
    with pytest.raises(BundleError, match="sha256"):
        bundle.read("golden/0.jpg")
    with pytest.raises(BundleError, match="no file"):
        bundle.read("secret")


def member(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = target
    return info


TRICKS: dict[str, tuple[list[tuple[str | tarfile.TarInfo, bytes]], str]] = {
    "parent": ([("../escape", b"")], "`..`"),
    "absolute": ([("/etc/passwd", b"")], "relative"),
    "hidden parent": ([("golden/../../x", b"")], "`..`"),
    "backslash": ([("golden\\..\\x", b"")], "letters"),
    "not ascii": ([("gölden.jpg", b"")], "letters"),
    "control": ([("a\nb", b"")], "letters"),
    "symlink": ([(member("link", tarfile.SYMTYPE, "/etc/passwd"), b"")], "symbolic link"),
    "hard link": ([(member("link", tarfile.LNKTYPE, MANIFEST), b"")], "hard link"),
    "device": ([(member("dev", tarfile.CHRTYPE), b"")], "character device"),
    "block device": ([(member("dev", tarfile.BLKTYPE), b"")], "block device"),
    "fifo": ([(member("pipe", tarfile.FIFOTYPE), b"")], "FIFO"),
    "folder": ([(member("golden", tarfile.DIRTYPE), b"")], "folder"),
    "sparse": ([(member("holes", tarfile.GNUTYPE_SPARSE), b"")], "sparse"),
    "twice": ([("model.onnx", FILES["model.onnx"])], "two files"),
    "case twin": ([("Model.ONNX", b"")], "two files"),
    "unlisted": ([("readme.txt", b"hello")], "not listed"),
    "pickle": ([("extra.pkl", b"")], "code"),
    "torch": ([("model.PT", b"")], "code"),
    "torch checkpoint": ([("model.pth", b"")], "code"),
    "torch export": ([("model.pt2", b"")], "code"),
    "many": ([(f"f{i}", b"") for i in range(300)], "more than 256"),
}


@pytest.mark.parametrize(("extra", "words"), TRICKS.values(), ids=TRICKS)
def test_tricks_of_an_archive_are_refused(tmp_path: Path, extra: list[Any], words: str) -> None:
    assert words in refused(tar_of(tmp_path, whole(extra)))


def test_long_names_are_refused(tmp_path: Path) -> None:
    long: list[Any] = [("d/" * 60 + "x" * 80, b"")]
    assert "long name" in refused(tar_of(tmp_path, whole(long), format=tarfile.GNU_FORMAT))
    assert "extended header" in refused(tar_of(tmp_path, whole(long), format=tarfile.PAX_FORMAT))
    prefixed: list[Any] = [("d" * 60 + "/" + "x" * 80, b"")]
    assert "long name" in refused(tar_of(tmp_path, whole(prefixed)))


def test_bytes_behind_the_end_are_refused(packed: Path) -> None:
    packed.write_bytes(packed.read_bytes() + b"x")
    assert "nothing behind" in refused(packed)
    packed.write_bytes(packed.read_bytes()[:-1] + bytes(21 * 512))
    assert "nothing behind" in refused(packed)


def test_a_claimed_size_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "big.bundle"
    path.write_bytes(ustar.tar_header("model.onnx", 7 * 1024**3) + bytes(1024))
    assert "larger than" in refused(path)


def test_a_sum_of_sizes_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: Path) -> None:
    monkeypatch.setattr(archive, "MAX_TOTAL_BYTES", 1000)
    assert "larger than 1000" in refused(packed)


@pytest.mark.parametrize("content", [b"", b"not a tar", b"\x1f\x8b" + bytes(2000), bytes(1024)])
def test_what_is_no_tar_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.bundle"
    path.write_bytes(content)
    refused(path)


def test_a_missing_path_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no bundle at"):
        open_bundle(tmp_path / "none.bundle")


def test_a_fifo_in_a_files_place_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.bundle")
    assert "regular file" in refused(tmp_path / "pipe.bundle")


def folder_of(tmp_path: Path) -> Path:
    folder = tmp_path / "unpacked"
    for name, data in {**FILES, MANIFEST: seal(MANIFEST_OBJECT, FILES)}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def linked(folder: Path) -> None:
    (folder / "model.onnx").rename(folder.parent / "elsewhere")
    (folder / "model.onnx").symlink_to(folder.parent / "elsewhere")


def linked_folder(folder: Path) -> None:
    (folder / "golden").rename(folder.parent / "elsewhere")
    (folder / "golden").symlink_to(folder.parent / "elsewhere")


FOLDER_TRICKS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "link": (linked, "link"),
    "linked folder": (linked_folder, "link"),
    "fifo": (lambda f: os.mkfifo(f / "pipe"), "device"),
    "unlisted": (lambda f: (f / "readme").write_text("x"), "not listed"),
    "missing": (lambda f: (f / "model.onnx").unlink(), "not there"),
    "changed": (lambda f: (f / "model.onnx").write_bytes(FILES["model.onnx"].swapcase()), "sha256"),
    "grown": (lambda f: (f / "model.onnx").write_bytes(FILES["model.onnx"] + b"x"), "bytes"),
    "no manifest": (lambda f: (f / MANIFEST).unlink(), "no manifest.json"),
    "pickle": (lambda f: (f / "x.pickle").write_bytes(b""), "code"),
}


@pytest.mark.parametrize(("trick", "words"), FOLDER_TRICKS.values(), ids=FOLDER_TRICKS)
def test_tricks_of_a_folder_are_refused(tmp_path: Path, trick: Callable[[Path], Any], words: str) -> None:
    folder = folder_of(tmp_path)
    assert open_bundle(folder).manifest.name == "demo"
    trick(folder)
    assert words in refused(folder)


def manifest_with(tmp_path: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    plain = json.loads(seal(MANIFEST_OBJECT, FILES))
    change(plain)
    return tar_of(tmp_path, [(MANIFEST, canonical.dumps(plain)), *FILES.items()])


MANIFESTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "newer": (lambda m: m.update(v=2), "format v 2"),
    "no v": (lambda m: m.pop("v"), "format version"),
    "text v": (lambda m: m.update(v="1"), "format version"),
    "name": (lambda m: m.update(name="Demo"), "name 'Demo'"),
    "version 0": (lambda m: m.update(version=0), "version 0"),
    "version too high": (lambda m: m.update(version=2**63), "expected 1 to"),
    "task": (lambda m: m.update(task="magic"), "$.task"),
    "type": (lambda m: m.update(labels=3), "$.labels"),
    "no variant": (lambda m: m.update(variants=[]), "1 to 16"),
    "many variants": (lambda m: m.update(variants=m["variants"] * 17), "1 to 16"),
    "many golden": (lambda m: m.update(golden=m["golden"] * 65), "at most 64"),
    "large resize": (
        lambda m: m.update(preprocess=[{"op": "resize", "width": 16000, "height": 16000}]),
        "pixels",
    ),
    "variant file": (lambda m: m["variants"][0].update(file="other.onnx"), "'other.onnx'"),
    "golden file": (lambda m: m["golden"][0].update(file="other.jpg"), "'other.jpg'"),
    "runtime": (lambda m: m["variants"][0].update(runtime="pytorch"), "runtime"),
    "step": (lambda m: m.update(preprocess=[{"op": "exec"}]), "exec"),
    "step key": (lambda m: m.update(preprocess=[{"op": "softmax"}]), "softmax"),
    "huge resize": (
        lambda m: m.update(preprocess=[{"op": "resize", "width": 10**9, "height": 1}]),
        "resize.width",
    ),
    "endless window": (
        lambda m: m.update(preprocess=[{"op": "window", "size": 1, "stride": 0}]),
        "window.stride",
    ),
    "divide by zero": (lambda m: m.update(preprocess=[{"op": "normalize", "std": [0]}]), "zero"),
    "object cast": (lambda m: m.update(preprocess=[{"op": "cast", "dtype": "object"}]), "cast.dtype"),
    "huge state": (
        lambda m: m.update(states=[{"input": "x", "output": "x", "dtype": "int8", "shape": [2**40]}]),
        "state x",
    ),
    "state of nothing": (
        lambda m: m.update(states=[{"input": "h", "output": "x", "dtype": "int8", "shape": [1]}]),
        "'h' is no input",
    ),
    "short constant": (
        lambda m: m.update(constants=[{"input": "x", "dtype": "int8", "shape": [2], "values": [1]}]),
        "constant x",
    ),
    "constant dtype": (
        lambda m: m.update(constants=[{"input": "x", "dtype": "foo", "shape": [1], "values": [1]}]),
        "dtype 'foo'",
    ),
    "state dtype": (
        lambda m: m.update(states=[{"input": "x", "output": "x", "dtype": "object", "shape": [1]}]),
        "dtype 'object'",
    ),
    "golden media type": (
        lambda m: m["golden"][0].update(media_type="video/mp4"),
        "golden/0.jpg: media type 'video/mp4'",
    ),
    "twice": (lambda m: m["files"].append(m["files"][0]), "twice"),
    "negative size": (lambda m: m["files"][0].update(size=-1), "bytes"),
    "path": (lambda m: m["files"][0].update(path="../x"), "not listed"),
    "a list": (lambda m: m.clear(), "format version"),
}


@pytest.mark.parametrize(("change", "words"), MANIFESTS.values(), ids=MANIFESTS)
def test_bad_manifests_are_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], words: str
) -> None:
    assert words in refused(manifest_with(tmp_path, change))


def test_unknown_keys_of_a_manifest_are_skipped(tmp_path: Path) -> None:
    assert open_bundle(manifest_with(tmp_path, lambda m: m.update(later={"a": 1}))).manifest.version == 7


@pytest.mark.parametrize(
    "spoil",
    [
        lambda d: d.replace(b":", b": ", 1),
        lambda d: d + b"\n",
        lambda d: d.replace(b'"name"', b'"\\u006eame"', 1),
        lambda d: d.replace(b'"task":"raw"', b'"task":"raw","task":"raw"', 1),
        lambda d: d[:-2],
        lambda d: b"\xff" + d,
        lambda d: b"[" * 100_000,
        lambda d: b"NaN",
    ],
)
def test_a_manifest_that_is_not_canonical_is_refused(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    members: list[Any] = [(MANIFEST, spoil(seal(MANIFEST_OBJECT, FILES))), *FILES.items()]
    assert "JSON" in refused(tar_of(tmp_path, members))


def test_the_highest_version_keeps_its_digits(tmp_path: Path) -> None:
    path = manifest_with(tmp_path, lambda m: m.update(version=2**63 - 1))
    assert outline(path).manifest.version == 2**63 - 1


def test_numbers_that_json_cannot_hold_are_refused(tmp_path: Path) -> None:
    bad = Golden("golden/0.jpg", "image/jpeg", {"anomaly": {"score": float("nan")}})
    with pytest.raises(BundleError, match="nan"):
        write_bundle(Manifest("demo", 1, "raw", MANIFEST_OBJECT.variants, (), golden=(bad,)), FILES, tmp_path)


def test_steps_survive_the_way_through_a_manifest(tmp_path: Path) -> None:
    steps = (specs.Resize(96, 64, filter="antialias"), specs.Normalize(1 / 255, (0.5,), (0.25,)))
    manifest = Manifest("demo", 1, "raw", MANIFEST_OBJECT.variants, (), preprocess=steps)
    assert open_bundle(write_bundle(manifest, FILES, tmp_path)).manifest.preprocess == steps


# RFC 8785 appendix B, and the example of its section 3.2.3.
@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (5e-324, "5e-324"),
        (-1.7976931348623157e308, "-1.7976931348623157e+308"),
        (9007199254740992.0, "9007199254740992"),
        (295147905179352830000.0, "295147905179352830000"),
        (1e21, "1e+21"),
        (9.999999999999997e22, "9.999999999999997e+22"),
        (333333333.33333329, "333333333.3333333"),
        (0.000001, "0.000001"),
        (1e-7, "1e-7"),
        (-0.0000033333333333333333, "-0.0000033333333333333333"),
        (1424953923781206.2, "1424953923781206.2"),
    ],
)
def test_numbers_are_written_as_ecmascript_does(number: float, text: str) -> None:
    assert canonical.dumps(number).decode() == text


def test_keys_are_sorted_by_utf16() -> None:
    ordered = ["\r", "1", "\x80", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]
    assert list(json.loads(canonical.dumps(dict.fromkeys(sorted(ordered), 0)))) == ordered


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(-(2.0**53), 2.0**53)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("abc€😀", max_size=4), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(JSON_VALUES)
def test_canonical_bytes_mean_the_value_and_are_fixed(value: Any) -> None:
    data = canonical.dumps(value)
    assert json.loads(data) == value
    assert canonical.dumps(json.loads(data)) == data
