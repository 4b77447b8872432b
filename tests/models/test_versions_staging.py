"""The staging folder, on real disks: kills at any point, files that change under the copy, full disks."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from onnx import helper

from penstock_models.bundle import open_bundle, write_bundle
from penstock_models.errors import BundleError, ModelRefused, TemporaryError, UsageError
from penstock_models.manifest import Manifest, TensorSpec, Variant
from penstock_models.versions import staging
from penstock_models.versions.offers import Offer, stamp
from penstock_models.versions.retry import classify
from penstock_models.versions.source import ListSource
from penstock_models.versions.staging import Staging

from . import onnx_files
from .hosted import children, until
from .test_versions_source import bare, bundle, unpacked

WALL = 4e9  # everything lies there since long ago


def offer(path: Path) -> Offer:
    found = ListSource([path]).scan(0.0, WALL)
    assert len(found.offers) == 1, found.problems
    return found.offers[0]


def large(folder: Path, fill: bytes, megabytes: int = 24) -> Path:
    """A bundle that takes a while to copy."""
    variant = Variant("model.onnx", "onnx", (TensorSpec("x", "float32", (1,)),), ())
    return write_bundle(
        Manifest("large", 1, "raw", (variant,), ()), {"model.onnx": fill * (megabytes * 2**20)}, folder
    )


@pytest.fixture
def area(tmp_path: Path) -> Staging:
    made = Staging(tmp_path / "staging")
    made.start()
    return made


def names(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "staging").iterdir())


async def test_every_kind_becomes_one_verified_bundle(tmp_path: Path, area: Staging) -> None:
    packed = offer(bundle(tmp_path, "a", 1))
    folder = offer(unpacked(tmp_path / "b" / "2", "b", 2))
    for wanted in (packed, folder):
        staged = await area.stage(wanted)
        assert staged.digest == wanted.digest == open_bundle(staged.path).digest
        assert (staged.name, staged.version, staged.stamp) == (wanted.name, wanted.version, wanted.stamp)
        assert staged.path.name == f"{staged.digest[7:]}.bundle"
    plain = await area.stage(offer(bare(tmp_path / "c" / "3")))
    assert (plain.name, plain.version) == ("c", 3)
    assert open_bundle(plain.path).manifest == plain.manifest
    assert len(names(tmp_path)) == 3


async def test_what_is_staged_already_is_not_copied_again(tmp_path: Path, area: Staging) -> None:
    wanted = offer(bundle(tmp_path, "a", 1))
    first = await area.stage(wanted)
    before = first.path.stat()
    again = await area.stage(wanted)
    assert again == first and again.path.stat().st_ino == before.st_ino


async def test_a_damaged_copy_is_made_anew(tmp_path: Path, area: Staging) -> None:
    wanted = offer(bundle(tmp_path, "a", 1))
    staged = await area.stage(wanted)
    data = bytearray(staged.path.read_bytes())
    data[len(data) // 2] ^= 1
    staged.path.write_bytes(data)
    assert area.find(staged.digest, "") is None
    assert open_bundle((await area.stage(wanted)).path).digest == staged.digest


async def test_a_flipped_byte_is_refused_for_good_once_the_file_is_at_rest(
    tmp_path: Path, area: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = large(tmp_path, b"\1", 1)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(TemporaryError, match=r"copied again later \(.* has sha256") as fresh:
        await area.stage(offer(path))
    assert not classify(fresh.value).final
    monkeypatch.setattr(staging, "FRESH_S", 0.0)
    with pytest.raises(BundleError, match="sha256") as caught:
        await area.stage(offer(path))
    assert classify(caught.value).final
    assert names(tmp_path) == []


async def test_a_store_that_changes_meanwhile_is_copied_later(tmp_path: Path, area: Staging) -> None:
    path = bundle(tmp_path, "a", 1)
    stale = offer(path)
    bundle(tmp_path, "a", 1, note="other contents")
    with pytest.raises(TemporaryError, match=r"changed: .* changed while it was copied"):
        await area.stage(stale)
    path.unlink()
    with pytest.raises(TemporaryError, match="changed"):
        await area.stage(stale)
    assert names(tmp_path) == []


async def test_replaced_in_place_by_another_thread_is_never_trusted(tmp_path: Path, area: Staging) -> None:
    """A writer overwrites the very file again and again; each copy is of one version, whole, or refused."""
    contents = [large(tmp_path / str(i), bytes([i]), 4).read_bytes() for i in (1, 2)]
    digests = {open_bundle(tmp_path / str(i) / "large-1.bundle").digest for i in (1, 2)}
    path = tmp_path / "large-1.bundle"
    path.write_bytes(contents[0])
    over = threading.Event()

    def overwrite() -> None:
        turn = 0
        while not over.is_set():
            turn += 1
            with path.open("r+b") as file:  # in place, in pieces: what a careless copy does
                for start in range(0, len(contents[0]), 2**18):
                    file.write(contents[turn % 2][start : start + 2**18])

    writer = threading.Thread(target=overwrite)
    writer.start()
    refused = trusted = 0
    try:
        for _ in range(12):
            found = ListSource([path]).scan(0.0, WALL)
            for wanted in found.offers:
                try:
                    staged = await area.stage(wanted)
                except TemporaryError:
                    refused += 1
                else:
                    trusted += 1
                    assert staged.digest in digests and open_bundle(staged.path).digest == staged.digest
    finally:
        over.set()
        writer.join()
    assert refused + trusted > 0
    path.write_bytes(contents[0])
    settled = ListSource([path]).scan(0.0, WALL).offers[0]
    assert (await area.stage(settled)).digest in digests


async def test_a_cancelled_copy_stops_and_leaves_nothing(tmp_path: Path, area: Staging) -> None:
    wanted = offer(large(tmp_path, b"\1"))
    task = asyncio.create_task(area.stage(wanted))
    await until(lambda: any(name.startswith("..making-") for name in names(tmp_path)))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert names(tmp_path) == []
    assert (await area.stage(wanted)).digest == wanted.digest


async def test_the_folder_is_bounded_and_swept(tmp_path: Path) -> None:
    small = Staging(tmp_path / "staging", max_bytes=3 * 2**20)
    small.start()
    first = await small.stage(offer(large(tmp_path / "1", b"\1", 2)))
    second = offer(large(tmp_path / "2", b"\2", 2))
    with pytest.raises(TemporaryError, match=r"disk: .* holds \d+ of at most 3145728"):
        await small.stage(second)
    small.clean([first.digest])
    assert names(tmp_path) == [first.path.name]
    small.clean([])
    assert names(tmp_path) == []
    assert (await small.stage(second)).digest == second.digest


@pytest.mark.parametrize(
    "digest", ["", "sha256:", "sha256:" + "a" * 300, "sha256:../../x", "sha256:\0", "sha256:\udcff"]
)
def test_a_digest_that_is_none_finds_nothing(area: Staging, digest: str) -> None:
    """A record that somebody wrote in says what it likes."""
    assert area.find(digest, "") is None


async def test_a_disk_that_says_no_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "staging").write_text("a file where the folder should be")
    with pytest.raises((UsageError, OSError)) as caught:
        await Staging(tmp_path / "staging").stage(offer(bundle(tmp_path, "a", 1)))
    assert not classify(caught.value).final


WRITER = """
import asyncio, sys
from pathlib import Path
from penstock_models.versions.source import ListSource
from penstock_models.versions.staging import Staging
area = Staging(Path(sys.argv[2]))
area.start()
offer = ListSource([Path(sys.argv[1])]).scan(0.0, 4e9).offers[0]
print("ready", flush=True)
asyncio.run(area.stage(offer))
print("done", flush=True)
"""


def test_a_writer_killed_at_any_point_leaves_no_half_copy(tmp_path: Path) -> None:
    wanted = offer(large(tmp_path, b"\3", 48))
    folder = tmp_path / "staging"
    whole = halves = 0
    for sooner in (0, 1, 4, 16, 40):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(wanted.path), str(folder)], stdout=subprocess.PIPE
        )
        assert writer.stdout is not None and writer.stdout.readline() == b"ready\n"
        while writer.poll() is None:
            size = max((p.stat().st_size for p in folder.iterdir()), default=0) if folder.exists() else 0
            if size >= sooner * 2**20:
                break
        writer.kill()
        writer.wait()
        writer.stdout.close()
        halves += any(not staging._COPY.fullmatch(path.name) for path in folder.iterdir())
        area = Staging(folder)
        area.start()
        left = list(folder.iterdir())
        assert all(open_bundle(path).digest == wanted.digest for path in left)
        assert (area.find(wanted.digest, "") is not None) == bool(left)
        whole += bool(left)
        area.clean([])
    assert halves > 0


# --- bare models -----------------------------------------------------------------------------------------------------------


async def test_a_refused_bare_model_keeps_its_reason(
    tmp_path: Path, area: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "FRESH_S", 0.0)
    folder = bare(tmp_path / "m" / "1")
    nodes = [helper.make_node("Strange", ["x"], ["y"], domain="acme")]
    made = onnx_files.model(nodes, [onnx_files.tensor("x", [1])], [onnx_files.tensor("y", [1])])
    made.opset_import.append(helper.make_opsetid("acme", 1))
    (folder / "model.onnx").write_bytes(made.SerializeToString())
    with pytest.raises(ModelRefused, match=r"custom_op: .* operator acme:Strange") as caught:
        await area.stage(offer(folder))
    assert caught.value.reason == "custom_op"
    assert names(tmp_path) == []


async def test_a_wrong_model_toml_is_said_in_one_line(
    tmp_path: Path, area: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "FRESH_S", 0.0)
    folder = bare(tmp_path / "m" / "1")
    (folder / "model.toml").write_text('file = "model.onnx"\nunknown = 1\n')
    with pytest.raises(UsageError, match=r"model\.toml:2: unknown: unknown key"):
        await area.stage(offer(folder))


async def test_a_cancelled_packing_leaves_no_process(tmp_path: Path, area: Staging) -> None:
    wanted = offer(bare(tmp_path / "m" / "1"))
    before = children()
    task = asyncio.create_task(area.stage(wanted))
    await until(lambda: bool(children() - before))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert children() <= before and names(tmp_path) == []


async def test_a_packing_that_dies_is_tried_again(
    tmp_path: Path, area: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = offer(bare(tmp_path / "m" / "1"))
    before = children()
    monkeypatch.setattr(staging, "FRESH_S", 0.0)

    async def kill() -> None:
        await until(lambda: bool(children() - before))
        for child in children() - before:
            os.kill(child, signal.SIGKILL)

    killer = asyncio.create_task(kill())
    with pytest.raises(ModelRefused, match=r"memory: .* was killed while") as caught:
        await area.stage(wanted)
    await killer
    assert not classify(caught.value).final
    assert children() <= before and names(tmp_path) == []
    assert (await area.stage(wanted)).version == 1


# --- stamps ----------------------------------------------------------------------------------------------------------------


def test_a_stamp_changes_with_every_way_to_change_a_file(tmp_path: Path) -> None:
    folder = bare(tmp_path / "m" / "1")
    model = folder / "model.onnx"
    data = model.read_bytes()
    seen = {stamp(folder).text}

    def changed() -> bool:
        text = stamp(folder).text
        new = text not in seen
        seen.add(text)
        return new

    assert not changed()
    model.write_bytes(data + b"x")
    assert changed()
    (folder / "new").write_text("")
    assert changed()
    (folder / "new").unlink()
    assert changed()
    times = model.stat()
    (folder / "moved").write_bytes(data + b"x")
    os.utime(folder / "moved", ns=(times.st_atime_ns, times.st_mtime_ns))
    (folder / "moved").replace(model)  # same name, size and time, another file
    assert changed()
    model.chmod(0o600)
    assert changed()
