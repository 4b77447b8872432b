"""Exact hits only, bounded in bytes, of one version, and never in a proof."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from penstock_models.answer_cache import ENTRY_BYTES, AnswerCache
from penstock_models.items import Anomaly, Answer
from penstock_models.servable import Servable
from tests.models.loaded import bundle, floats, output, picker, scaler, summer
from tests.models.test_proof import with_golden


def cached(answers: list[object]) -> list[bool]:
    return [isinstance(answer, Answer) and answer.cached for answer in answers]


def test_the_same_input_is_answered_from_the_cache_and_says_so() -> None:
    made = Servable.open_checked(bundle(scaler()), cache_bytes=10_000)
    first = made.run([floats(1, 2), floats(3, 4)])
    again = made.run([floats(3, 4), floats(5, 6), floats(1, 2)])
    assert cached([*first]) == [False, False] and cached([*again]) == [True, False, True]
    assert [output(answer) for answer in again] == [[6, 8], [10, 12], [2, 4]]
    assert all(isinstance(a, Answer) and a.infer_ms == 0 for a in (again[0], again[2]))


def test_another_version_misses_and_without_a_size_nothing_is_kept() -> None:
    for made in (
        Servable.open_checked(bundle(scaler()), cache_bytes=10_000),
        Servable.open(bundle(scaler())),
    ):
        assert cached([*made.run([floats(1, 2)])]) == [False]
    assert cached([*made.run([floats(1, 2)])]) == [False]


def test_a_refusal_is_not_kept_and_a_stateful_version_has_no_cache() -> None:
    picky = Servable.open_checked(bundle(picker()), cache_bytes=10_000)
    assert picky._cache and not Servable.open_checked(summer(), cache_bytes=10_000)._cache
    assert picky._cache.nbytes == 0


def test_a_proof_runs_the_model_whatever_is_in_the_cache() -> None:
    made = Servable.open_checked(with_golden(bundle(scaler()), ([1, 2], [2, 4])), cache_bytes=10_000)
    assert cached([*made.run([floats(1, 2)])]) == [False] and made.probe()
    made._session.close()
    assert cached([*made.run([floats(1, 2)])]) == [True] and not made.probe()


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 40)), max_size=60), st.integers(0, 3000))
def test_it_is_bounded_and_keeps_what_was_asked_for_last(uses: list[tuple[int, int]], size: int) -> None:
    cache = AnswerCache(size)
    order: dict[int, int] = {}
    for key, score in uses:
        answer = Answer(anomaly=Anomaly(float(score)))
        nbytes = ENTRY_BYTES + len(msgspec.msgpack.encode(answer))
        if (hit := cache.get(bytes([key]), 0.5)) is not None:
            assert key in order and hit.cached and hit.decode_ms == 0.5
            order[key] = order.pop(key)
            continue
        assert key not in order
        cache.put(bytes([key]), answer)
        if nbytes <= size:
            order[key] = nbytes
            while sum(order.values()) > size:
                del order[next(iter(order))]
        assert cache.nbytes == sum(order.values()) <= size
