"""The ledger closes: received is what has a fate plus what is in flight, whatever happens in which order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_gateway.ledger import BUCKETS, FATES, OK, Counts, Ledger


def test_the_lists_of_reasons_are_those_of_the_contract() -> None:
    assert list(BUCKETS) == [
        "answered", "unchanged", "superseded", "duplicate", "expired", "rejected", "failed", "dropped",
    ]  # fmt: skip
    assert len(FATES) == sum(len(reasons) for reasons in BUCKETS.values()) == 33


def test_an_unknown_fate_is_a_bug() -> None:
    with pytest.raises(KeyError):
        Counts().settle(("rejected", "because"))


@given(st.lists(st.tuples(st.sampled_from(["a/1", "b/2", None]), st.sampled_from(sorted(FATES)))))
def test_totals_are_the_sums_over_streams(frames: list[tuple[str | None, tuple[str, str]]]) -> None:
    ledger = Ledger()
    for stream, fate in frames:
        counts = ledger.stream(stream) if stream else ledger.unattributed
        counts.received += 1
        counts.settle(fate)
    total = ledger.total()
    assert total.received == total.settled == len(frames)
    assert total.in_flight == 0
    for fate in FATES:
        assert total.fates.get(fate, 0) == sum(f == fate for _, f in frames)


def test_minus_takes_one_ledger_out_of_another() -> None:
    whole, part = Counts(), Counts()
    for counts, n in ((whole, 5), (part, 2)):
        for _ in range(n):
            counts.received += 1
            counts.settle(OK)
    rest = whole.minus(part)
    assert (rest.received, rest.fates[OK], rest.in_flight) == (3, 3, 0)
