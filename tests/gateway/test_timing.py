"""When a frame must be answered and whether it is fresh, as a table."""

import pytest

from penstock_gateway.timing import EARLIEST_TS, FUTURE_MS, Timing, judge
from penstock_models.scheduling.request import NO_DEADLINE

NOW_MS = 1_790_000_000_000


def timing(mode: str = "latest", /, **given: int | None) -> Timing:
    values = {"ts": None, "dl": None, "expiry_s": None, **given}
    return judge(mode=mode, deadline_ms=1000, max_age_ms=60_000, arrived=10.0, arrived_ms=NOW_MS, **values)


@pytest.mark.parametrize(
    ("given", "deadline"),
    [
        ({}, 11.0),
        ({"dl": 200}, 10.2),
        ({"dl": 5000}, 11.0),
        ({"expiry_s": 0}, 10.0),
        ({"dl": 700, "expiry_s": 1}, 10.7),
        ({"dl": 3000, "expiry_s": 2}, 11.0),
    ],
)
def test_the_deadline_is_the_least_of_route_frame_and_expiry(given: dict[str, int], deadline: float) -> None:
    assert timing(**given).deadline == pytest.approx(deadline)


@pytest.mark.parametrize(
    ("mode", "ts", "expired", "historical", "suspect"),
    [
        ("latest", NOW_MS, False, False, False),
        ("latest", NOW_MS - 60_000, False, False, False),
        ("latest", NOW_MS - 60_001, True, False, False),
        ("every", NOW_MS - 60_001, False, True, False),
        ("latest", NOW_MS + FUTURE_MS, False, False, False),
        ("latest", NOW_MS + FUTURE_MS + 1, False, False, True),
        ("every", NOW_MS + FUTURE_MS + 1, False, False, True),
        ("latest", 0, False, False, True),
        ("every", EARLIEST_TS - 1, False, False, True),
    ],
)
def test_age(mode: str, ts: int, expired: bool, historical: bool, suspect: bool) -> None:
    got = timing(mode, ts=ts)
    assert (got.expired, got.historical, got.ts_suspect) == (expired, historical, suspect)
    assert (got.deadline == NO_DEADLINE) == historical
