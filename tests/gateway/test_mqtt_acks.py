"""PUBACKs go out in order of arrival, once, and only when allowed."""

from hypothesis import given
from hypothesis import strategies as st

from penstock_gateway.mqtt.acks import AckWindow


@given(st.integers(0, 40).flatmap(lambda n: st.permutations(range(n))))
def test_any_order_of_allowing_gives_the_order_of_arrival(order: list[int]) -> None:
    window = AckWindow()
    handles = [window.arrive(packet_id) for packet_id in range(1, len(order) + 1)]
    sent: list[int] = []
    allowed: set[int] = set()
    for turn in order:
        window.allow(handles[turn])
        window.allow(handles[turn])  # a second time does nothing
        allowed.add(turn)
        sent += window.take()
        prefix = next((i for i in range(len(order) + 1) if i not in allowed), 0)
        assert sent == list(range(1, prefix + 1))
        assert len(window) == len(order) - prefix


def test_handles_of_the_last_connection_are_stale() -> None:
    window = AckWindow()
    old = [window.arrive(packet_id) for packet_id in (5, 6, 7)]
    window.allow(old[1])
    window.reset(65_535)
    new = [window.arrive(packet_id) for packet_id in (6, 5)]
    for handle in old:
        window.allow(handle)
    assert window.take() == []
    window.allow(new[0])
    assert window.take() == [6]
    assert not set(old) & set(new)


def test_what_was_allowed_but_not_sent_is_forgotten_with_the_connection() -> None:
    window = AckWindow()
    window.allow(window.arrive(1))
    window.reset(65_535)
    assert window.take() == []


def test_a_handle_that_was_never_given_does_nothing() -> None:
    window = AckWindow()
    first = window.arrive(1)
    for handle in (0, -1, first + 1, first + 100):
        window.allow(handle)
    window.allow(first)
    second = window.arrive(2)
    assert (window.take(), len(window)) == ([1], 1)
    window.allow(second)
    assert window.take() == [2]


def test_overruns_are_counted_per_message_beyond_the_maximum() -> None:
    window = AckWindow()
    window.reset(3)
    handles = [window.arrive(packet_id) for packet_id in range(1, 6)]
    assert window.overruns == 2
    for handle in handles:
        window.allow(handle)
    window.arrive(6)
    assert window.overruns == 2
