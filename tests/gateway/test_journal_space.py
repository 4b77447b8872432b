"""How the journal divides its room, and what a row takes of it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_gateway.journal_space import PAGE, Usage, divide, footprint, growth

MB = 1 << 20


@given(
    max_bytes=st.integers(256 << 10, 1 << 36),
    entry=st.integers(1, 256 * MB),
    free=st.integers(1 * MB, 1 << 37),
)
def test_the_parts_fit_into_the_whole(max_bytes: int, entry: int, free: int) -> None:
    space = divide(max_bytes, entry, free, 0, "/state")
    total = min(max_bytes, free)
    assert space.ballast + space.log + space.pages * PAGE <= max(total, 600 << 10)
    assert 0 < space.capacity < space.pages * PAGE
    assert space.max_entry + space.checkpoint_pages * PAGE <= space.log
    assert (space.warning is None) == (max_bytes <= free)


def test_a_disk_with_less_than_was_asked_for_is_named() -> None:
    space = divide(1 << 30, 8 * MB, 7 * MB, 1 * MB, "/state")
    assert space.warning is not None
    assert "journal_space" in space.warning and "/state has 7340032 bytes free" in space.warning
    assert divide(8 * MB, 8 * MB, 7 * MB, 1 * MB, "/state").warning is None


@pytest.mark.parametrize("nbytes", [1, 100, 640, 1300, 2100, 4000, 4061, 4062, 5000, 8700, 50_000, 1_000_000])
def test_a_row_takes_what_sqlite_gives_it(nbytes: int, tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "t.db", isolation_level=None)
    db.execute(f"PRAGMA page_size = {PAGE}")
    db.execute("CREATE TABLE rows (row INTEGER PRIMARY KEY, payload BLOB NOT NULL) STRICT")
    n = 10 + 100_000 // (nbytes + 10)
    db.execute("BEGIN")
    db.executemany("INSERT INTO rows VALUES (?, ?)", ((i, bytes(nbytes)) for i in range(n)))
    db.execute("COMMIT")
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    db.close()
    taken = (pages - 2) * PAGE / n
    assert taken * 0.97 - PAGE / n <= footprint(nbytes + 10) <= taken * 1.25 + PAGE


def test_rows_need_room_in_log_and_database_less_what_is_free_there() -> None:
    space = divide(64 * MB, 1 * MB, 1 << 40, 0, "/state")
    nothing = Usage(pages=10, free_pages=0, log=0)
    assert (growth(space, nothing, 100_000, 0) or 0) > 2 * 100_000
    assert (
        growth(space, Usage(pages=1000, free_pages=500, log=space.log), 100_000, space.checkpoint_pages) == 0
    )
    assert growth(space, Usage(pages=space.pages, free_pages=0, log=space.log), PAGE, 0) is None
