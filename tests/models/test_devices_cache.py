"""The folder of optimised models: trust, whole entries or none, one maker at a time, a bounded disk."""

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from penstock_models.devices.cache import HEADER, CacheKey, MadeElsewhere, ModelCache
from tests.models.model_caches import KEY, put, size


def test_what_is_published_while_somebody_looks_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine took minutes: whoever finds none, and then drops what lies there, would throw it away."""
    dropped: list[CacheKey] = []
    monkeypatch.setattr(ModelCache, "drop", lambda cache, key: dropped.append(key))
    cache = ModelCache(tmp_path)
    assert cache.find(KEY) is None and dropped == []
    put(cache, KEY)
    (tmp_path / KEY.name / HEADER).write_text("broken")
    assert cache.find(KEY) is None and dropped == [KEY]


def flip(place: Path) -> None:
    (place / "engine.bin").write_bytes(b"engyne")


def cut(place: Path) -> None:
    (place / "engine.bin").write_bytes(b"eng")


def remove(place: Path) -> None:
    (place / "engine.bin").unlink()


def no_header(place: Path) -> None:
    (place / HEADER).unlink()


def torn_header(place: Path) -> None:
    header = (place / HEADER).read_bytes()
    (place / HEADER).write_bytes(header[: len(header) // 2])


def newer_header(place: Path) -> None:
    header = msgspec.json.decode((place / HEADER).read_bytes())
    (place / HEADER).write_bytes(msgspec.json.encode({**header, "v": 2}))


def foreign_key(place: Path) -> None:
    header = msgspec.json.decode((place / HEADER).read_bytes())
    header["key"]["driver"] = "another machine"
    (place / HEADER).write_bytes(msgspec.json.encode(header))


@pytest.mark.parametrize("harm", [flip, cut, remove, no_header, torn_header, newer_header, foreign_key])
def test_broken_entry_is_dropped_and_can_be_made_again(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    cache = ModelCache(tmp_path)
    place = put(cache, KEY)
    harm(place)
    assert cache.find(KEY) is None
    assert not place.exists()
    put(cache, KEY, b"again")
    found = cache.find(KEY)
    assert found is not None and (found.folder / "engine.bin").read_bytes() == b"again"


def test_file_that_its_provider_added_later_is_no_fault(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path)
    (put(cache, KEY) / "profile.bin").write_bytes(b"later")
    assert cache.find(KEY) is not None


def test_failed_making_leaves_nothing(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path)
    with pytest.raises(RuntimeError), cache.making(KEY) as folder:
        (folder / "half").write_bytes(b"x" * 100)
        assert size(cache) == cache.making_bytes() == 100
        raise RuntimeError
    assert cache.find(KEY) is None and size(cache) == 0 and list(tmp_path.iterdir()) == []


def test_nobody_makes_twice_at_once(tmp_path: Path) -> None:
    one, other = ModelCache(tmp_path), ModelCache(tmp_path)
    with one.making(KEY) as folder:
        with pytest.raises(MadeElsewhere, match="cpu"), other.making(KEY):
            raise AssertionError
        with other.making(msgspec.structs.replace(KEY, device="openvino")):
            pass
        (folder / "engine.bin").write_bytes(b"1")
        one.publish(KEY, {})
        begun = other.making(KEY)  # published: who comes now makes it anew
        again = begun.__enter__()
        assert list(again.iterdir()) == []
    assert again.is_dir(), "what another began is not ours to remove"
    begun.__exit__(None, None, None)
    assert not again.exists() and one.find(KEY) is not None


def test_folder_that_is_published_while_one_waits_at_its_door(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening the folder and locking it, another publishes it: the lock would be the entry's."""
    cache = ModelCache(tmp_path)
    lock, moved = fcntl.flock, tmp_path / "published"

    def late(number: int, how: int) -> None:
        if not moved.exists():
            (tmp_path / f".making-{KEY.name}").rename(moved)
        lock(number, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with cache.making(KEY) as folder:
        assert folder.is_dir() and folder != moved
        with pytest.raises(MadeElsewhere), ModelCache(tmp_path).making(KEY):
            raise AssertionError


def test_what_a_killed_maker_left_is_not_part_of_the_entry(tmp_path: Path) -> None:
    left = tmp_path / f".making-{KEY.name}"
    (left / "deep").mkdir(parents=True)
    (left / "half").write_bytes(b"x")
    cache = ModelCache(tmp_path)
    assert [path.name for path in put(cache, KEY).iterdir() if path.name != HEADER] == ["engine.bin"]


def test_newest_stays_although_the_clock_went_back(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path, limit_bytes=2000)
    old = msgspec.structs.replace(KEY, model="0" * 64)
    os.utime(put(cache, old, b"x" * 1000) / HEADER, (4e9, 4e9))
    put(cache, KEY, b"x" * 1000)
    assert cache.find(KEY) is not None and cache.find(old) is None


def test_size_is_told_of_folders_that_go_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = ModelCache(tmp_path)
    put(cache, KEY)
    monkeypatch.setattr(cache, "_places", lambda *, hidden=False: [tmp_path / "gone"])
    assert cache.making_bytes() == 0


MAKER = """
import sys, time
from pathlib import Path
from penstock_models.devices.cache import CacheKey, ModelCache
key = CacheKey(**__import__("json").loads(sys.argv[2]))
with ModelCache(Path(sys.argv[1])).making(key) as folder:
    (folder / "half").write_bytes(b"x" * 1000)
    print("making", flush=True)
    sys.stdin.read()
"""


def test_killed_maker_leaves_no_lock_and_no_half_entry(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path)
    arguments = [sys.executable, "-c", MAKER, str(tmp_path), msgspec.json.encode(KEY).decode()]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as maker:
        assert maker.stdout is not None and maker.stdout.readline() == b"making\n"
        with pytest.raises(MadeElsewhere), cache.making(KEY):
            raise AssertionError
        put(cache, msgspec.structs.replace(KEY, device="openvino"))  # sweeps, but not what is being made
        assert size(cache) > 1000
        maker.send_signal(signal.SIGKILL)
        maker.wait()
    assert cache.find(KEY) is None
    put(cache, msgspec.structs.replace(KEY, device="cuda"))
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    with cache.making(KEY) as folder:
        assert list(folder.iterdir()) == []


def test_least_recently_used_go_first(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path, limit_bytes=4500)
    keys = [msgspec.structs.replace(KEY, model=f"{number:064}") for number in range(3)]
    for age, key in enumerate(keys):
        header = put(cache, key, b"x" * 1000) / HEADER
        os.utime(header, (1000 + age, 1000 + age))
    assert cache.find(keys[0]) is not None  # used: now it is the newest
    newest = msgspec.structs.replace(KEY, model="9" * 64)
    put(cache, newest, b"x" * 1000)
    assert [cache.find(key) is not None for key in [*keys, newest]] == [True, False, True, True]
    assert size(cache) <= 4500


def test_entry_beyond_the_limit_is_not_kept(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path, limit_bytes=1000)
    with pytest.raises(OSError, match="1001 bytes"):
        put(cache, KEY, b"x" * 1001)
    assert cache.find(KEY) is None and size(cache) == 0
