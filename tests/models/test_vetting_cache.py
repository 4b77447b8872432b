"""Verdicts that are kept: for what, how long, how many, and what a file that is not one of ours does (nothing)."""

import asyncio
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock_models.bundle import digest_at, open_bundle
from penstock_models.errors import UsageError
from penstock_models.vetting import attempt, cache
from penstock_models.vetting.cache import SUFFIX, Verdicts, key_of, versions
from penstock_models.vetting.verdict import Limits, Vetted, refused
from tests.models import vetted_files
from tests.models.vetting_children import busy_child

DIGEST = "sha256:" + "a" * 64
OK = Vetted(True, digest=DIGEST, resident_bytes=5)


@dataclass
class Clock:
    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def verdicts(tmp_path: Path, clock: Clock) -> Verdicts:
    return Verdicts(tmp_path / "state" / "verdicts", clock)


def no_child(patch: pytest.MonkeyPatch) -> None:
    """From now on a child cannot do its work; whoever asks one hears `internal`."""
    patch.setattr(attempt, "CHILD", "penstock_models.no_such_module")


async def test_a_version_is_vetted_once(
    tmp_path: Path, verdicts: Verdicts, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = vetted_files.bundle(tmp_path, vetted_files.doubler())
    first = await verdicts.vet(path)
    assert first.ok and first.digest == digest_at(path) == open_bundle(path).digest
    no_child(monkeypatch)
    assert await Verdicts(tmp_path / "state" / "verdicts").vet(path) == first  # as after a restart
    assert await verdicts.vet(path, ("cpu",)) == first  # the same wish, spelled out
    assert (await verdicts.vet(path, (), Limits(cpu_s=7))).reason == "internal"
    assert (await verdicts.vet(path, ("openvino",))).reason == "internal"
    other = vetted_files.bundle(tmp_path, vetted_files.doubler(), golden=2.0, name="other")
    assert (await verdicts.vet(other)).reason == "internal"


async def test_a_refusal_is_kept_for_a_while(
    tmp_path: Path, verdicts: Verdicts, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = vetted_files.bundle(tmp_path, vetted_files.huge())
    first = await verdicts.vet(path)
    assert first.reason == "memory"
    no_child(monkeypatch)
    clock.now += 299
    assert await verdicts.vet(path) == first
    clock.now += 1
    assert (await verdicts.vet(path)).reason == "internal"
    monkeypatch.undo()
    assert (await verdicts.vet(path)).reason == "memory"  # a fault of ours was not kept


async def test_what_was_called_off_is_not_kept(tmp_path: Path, verdicts: Verdicts) -> None:
    path = vetted_files.bundle(tmp_path, vetted_files.endless())
    task = asyncio.create_task(verdicts.vet(path))
    await busy_child()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not (tmp_path / "state").exists()


async def test_a_half_copied_bundle_is_no_word_against_the_whole_one(
    tmp_path: Path, verdicts: Verdicts
) -> None:
    """Its manifest, which comes first, is the same."""
    path = vetted_files.bundle(tmp_path, vetted_files.doubler())
    whole = path.read_bytes()
    data = vetted_files.doubler()
    path.write_bytes(whole.replace(data, bytes(len(data))))  # as a copy that took its room first
    assert (await verdicts.vet(path)).reason == "bundle"
    path.write_bytes(whole)
    assert (await verdicts.vet(path)).ok


async def test_the_loop_looks_at_no_disk(
    tmp_path: Path, verdicts: Verdicts, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = vetted_files.bundle(tmp_path, vetted_files.doubler())
    loop, seen = threading.get_ident(), []

    def watched(name: str, call: Any) -> Any:
        def watch(*given: Any, **named: Any) -> Any:
            if threading.get_ident() == loop:
                seen.append((name, *given))
            return call(*given, **named)

        return watch

    for name in ("stat", "listdir", "scandir"):
        monkeypatch.setattr(os, name, watched(name, getattr(os, name)))
    for _ in range(2):
        await verdicts.vet(path)
    assert seen == []


async def test_what_has_no_digest_is_asked_each_time(
    tmp_path: Path, verdicts: Verdicts, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_child(monkeypatch)
    (tmp_path / "text.bundle").write_text("no bundle")
    assert (await verdicts.vet(tmp_path / "text.bundle")).reason == "internal"
    with pytest.raises(UsageError):
        await verdicts.vet(tmp_path / "none.bundle")


def test_lives(verdicts: Verdicts, clock: Clock) -> None:
    kept = {reason: refused(reason, "m") for reason in ("golden", "external_data", "endless")}
    for reason, verdict in kept.items():
        verdicts.put(reason, verdict)
    for seconds, left in ((0, 3), (299, 3), (300, 2), (3_599, 2), (3_600, 1), (86_399, 1), (86_400, 0)):
        clock.now = 1_000_000 + seconds
        assert sum(verdicts.get(reason, DIGEST) is not None for reason in kept) == left, seconds
    clock.now = 999_999  # the clock was set back: nobody knows how old it is
    assert verdicts.get("external_data", DIGEST) is None
    verdicts.put("ok", OK)
    clock.now += 1e9
    assert verdicts.get("ok", DIGEST) == OK


def test_an_ok_counts_for_its_digest_only(verdicts: Verdicts) -> None:
    verdicts.put("k", OK)
    assert verdicts.get("k", DIGEST) == OK
    assert verdicts.get("k", DIGEST.replace("a", "b")) is None


def test_files_that_are_not_ours_say_nothing(tmp_path: Path, verdicts: Verdicts) -> None:
    verdicts.put("k", OK)
    (place,) = (tmp_path / "state" / "verdicts").iterdir()
    whole = place.read_bytes()
    for data in (
        b"",
        whole[:-1],
        b"\xff\xfe",
        b"[]",
        b'{"a":' + b"[" * 50_000,
        whole.replace(b'"v":1', b'"v":2'),
        whole.replace(b'"key":"k"', b'"key":"l"'),
        b"{" + b" " * cache.MAX_ENTRY_BYTES + whole[1:],
    ):
        place.write_bytes(data)
        assert verdicts.get("k", DIGEST) is None, data
    place.write_bytes(whole)
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    assert verdicts.get("k", DIGEST) is None
    place.unlink()
    os.mkfifo(place)
    assert verdicts.get("k", DIGEST) is None
    place.unlink()
    place.mkdir()
    assert verdicts.get("k", DIGEST) is None
    verdicts.put("k", OK)  # cannot be written, and costs nobody anything
    assert [entry.name for entry in place.parent.iterdir()] == [place.name]


def test_the_oldest_go(tmp_path: Path, verdicts: Verdicts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MAX_ENTRIES", 3)
    folder = tmp_path / "state" / "verdicts"
    for number in range(6):
        verdicts.put(f"k{number}", OK)
        os.utime(folder / f"k{number}{SUFFIX}", (number, number))
    (folder / "README").write_text("somebody else's")
    verdicts.put("k6", OK)
    assert sorted(entry.name for entry in folder.iterdir()) == [
        "README",
        *(f"k{n}{SUFFIX}" for n in (4, 5, 6)),
    ]


def test_a_folder_that_cannot_be_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    verdicts = Verdicts(tmp_path / "file" / "verdicts")
    verdicts.put("k", OK)
    assert verdicts.get("k", DIGEST) is None


def test_everything_that_a_verdict_depends_on_changes_its_key() -> None:
    installed = {"onnxruntime": "1.20", "python": "3.11"}
    keys = [
        key_of(DIGEST, (), Limits(), installed, 1),
        key_of("sha256:b", (), Limits(), installed, 1),
        key_of(DIGEST, ("openvino", "cpu"), Limits(), installed, 1),
        key_of(DIGEST, ("cpu", "openvino"), Limits(), installed, 1),
        key_of(DIGEST, (), Limits(memory_bytes=1), installed, 1),
        key_of(DIGEST, (), Limits(cpu_s=1), installed, 1),
        key_of(DIGEST, (), Limits(wall_s=1), installed, 1),
        key_of(DIGEST, (), Limits(), {**installed, "onnxruntime": "1.21"}, 1),
        key_of(DIGEST, (), Limits(), {**installed, "openvino": "1"}, 1),
        key_of(DIGEST, (), Limits(), installed, 2),
    ]
    assert len(set(keys)) == len(keys)
    assert {"penstock", "onnxruntime", "python"} <= versions().keys()


def test_an_entry_is_small_json(tmp_path: Path, verdicts: Verdicts) -> None:
    verdicts.put("k", OK)
    (place,) = (tmp_path / "state" / "verdicts").iterdir()
    found = msgspec.json.decode(place.read_bytes())
    assert (found["v"], found["key"], found["verdict"]["resident_bytes"]) == (1, "k", 5)
    assert place.stat().st_size < 1_000
