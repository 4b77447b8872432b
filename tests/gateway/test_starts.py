"""The books of a start close, whatever happened before its end."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_gateway.ledger import DUPLICATE, OK, Counts, Fate
from penstock_gateway.starts import Books, How, StartRecord, Totals, close_start, off_by

DECODE: Fate = ("rejected", "decode")


def counts(received: int, **fates: int) -> Counts:
    made = Counts()
    made.received = received
    made.fates = {(bucket, ""): n for bucket, n in fates.items()}
    return made


@pytest.mark.parametrize(
    ("books", "rows", "received", "unknown"),
    [
        (Books.opened(0), 0, 0, 0),
        (Books.opened(3), 3, 3, 0),
        (Books.opened(3).after(2, {OK: 4}, {}, 0, None), 1, 5, 0),
        (Books.opened(0).after(2, {}, {DUPLICATE: 2}, 0, None), 2, 4, 0),
        (Books.opened(0).after(0, {}, {}, 0, Totals.of(counts(9, answered=7))), 0, 9, 2),
        (Books.opened(1).after(2, {OK: 1}, {}, 0, Totals.of(counts(9, answered=7))), 2, 12, 2),
    ],
)
def test_a_closed_start_has_received_what_its_fates_rows_and_unknown_say(
    books: Books, rows: int, received: int, unknown: int
) -> None:
    closed = close_start("s", 1, 2, "killed", books, rows)
    assert (closed.ledger.received, closed.carried_out, closed.unknown) == (received, rows, unknown)
    assert received == closed.ledger.settled + rows + unknown
    assert off_by(books, rows) == 0


def test_a_checkpoint_replaces_the_one_before_and_leaves_the_journalled_books() -> None:
    books = Books.opened(0).after(1, {}, {DUPLICATE: 1}, 5, Totals.of(counts(3, answered=3)))
    books = books.after(0, {OK: 1}, {}, -1, Totals.of(counts(4, answered=3)))
    ledger = close_start("s", 1, 2, "killed", books, 0).ledger
    assert ledger.fates == {"duplicate:duplicate": 1, "answered:": 4}
    assert ledger.missing_upstream == 4


def test_rows_that_nobody_counted_show() -> None:
    assert off_by(Books.opened(2), 3) == 1
    assert off_by(Books.opened(2), 1) == -1


def test_totals_are_a_ledger_s_counts_and_back() -> None:
    made = counts(3, answered=1, failed=1)
    made.late, made.carried, made.missing_upstream = 1, 2, 3
    back = Totals.of(made).counts()
    assert (back.received, back.fates, back.late) == (made.received, made.fates, made.late)
    assert (back.carried, back.missing_upstream, back.in_flight) == (2, 3, 1)


@pytest.mark.parametrize("how", ["running", "clean", "killed"])
def test_a_record_is_stored_as_json(how: How) -> None:
    record = StartRecord("s", 1, None, how, Totals(3, {"rejected:decode": 1}), 1, 1)
    assert msgspec.json.decode(msgspec.json.encode(record), type=StartRecord) == record


@given(
    carried=st.integers(0, 5),
    steps=st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 3), st.integers(0, 9)), max_size=30
    ),
)
def test_the_invariant_holds_after_every_transaction(
    carried: int, steps: list[tuple[int, int, int, int]]
) -> None:
    books, rows = Books.opened(carried), carried
    for appended, settled, counted, other in steps:
        settled = min(settled, rows + appended)
        rows += appended - settled
        books = books.after(
            appended, {OK: settled}, {DECODE: counted}, 0, Totals(other, {"answered:": other // 2})
        )
        assert off_by(books, rows) == 0
        closed = close_start("s", 1, 2, "killed", books, rows)
        assert closed.ledger.received == closed.ledger.settled + closed.carried_out + closed.unknown
