"""The devices of a run: the same whoever shares the work, equal for equal seeds, and as the scenario says."""

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock_models.errors import UsageError
from penstock_sim.load.lane import Sending
from penstock_sim.load.schedule import Periodic, Poisson, Some, merge
from penstock_sim.run.build import VARIETY, Built, Part, build
from penstock_sim.scenario import Loaded, Target, read

TEXT = """
name = "mixed"
seed = {seed}

[[device]]
name = "cam"
count = 11
clock = {{ skew_ms = 100, spread_ms = 50 }}
[[device.stream]]
source = {{ kind = "bytes", size = 8, frames = 5 }}
rate_hz = 7
jitter_ms = 100
deadline_ms = 250
[[device.stream]]
name = "plain"
source = {{ kind = "bytes", size = 8 }}
rate_hz = 3

[[device]]
name = "vib"
count = 5
qos = 1
store = 10
protocol = "3.1.1"
[[device.stream]]
name = "vib"
source = {{ kind = "vibration", encoding = "json", windows = 3 }}
rate_hz = 9
arrivals = "poisson"

[[phase]]
kind = "ramp"
seconds = 4

[[fault]]
kind = "malformed"
at_s = 1
for_s = 2
share = 0.5

[[fault]]
kind = "payload_change"
devices = "vib"
at_s = 1
encoding = "cbor"

[[fault]]
kind = "clock_jump"
devices = "cam"
at_s = 2
by_ms = 5000
"""
TARGET = Target(url="mqtt://127.0.0.1:1883")

Frames = list[tuple[float, int, bytes]]
"""Intended time (s), capture time (ms) and body of the frames of one stream."""


def loaded(folder: Path, seed: int = 3) -> Loaded:
    (folder / "mixed.toml").write_text(TEXT.format(seed=seed))
    return read(folder / "mixed.toml")


def made(scenario: Loaded, part: Part) -> Built:
    return build(scenario, part, TARGET, "run", Sending())


def frames(scenario: Loaded, parts: int) -> dict[tuple[str, str], Frames]:
    """What every stream would send, with so many processes."""
    found: dict[tuple[str, str], Frames] = {}
    for number in range(parts):
        built = made(scenario, Part(number, parts))
        times, owners = merge(built.schedules, scenario.load.seconds)
        for stream, _ in built.sends:
            assert found.setdefault((stream.stream.device, stream.stream.stream), []) == []
        for time, owner in zip(times.tolist(), owners.tolist()):
            stream = built.sends[owner][0]
            frame = stream.take(time, time, int(time * 1000))
            assert frame is not None
            key = stream.stream.device, stream.stream.stream
            found[key].append((time, frame.ts, frame.payload.data))
    return found


@pytest.mark.parametrize("parts", [2, 3, 7])
def test_the_union_of_the_parts_is_the_whole(tmp_path: Path, parts: int) -> None:
    scenario = loaded(tmp_path)
    whole = frames(scenario, 1)
    assert len(whole) == 2 * 11 + 5 and sum(map(len, whole.values())) > 200
    assert frames(scenario, parts) == whole


def test_equal_seeds_make_equal_runs_and_others_other_ones(tmp_path: Path) -> None:
    one, again, other = (frames(loaded(tmp_path, seed), 1) for seed in (3, 3, 4))
    assert one == again
    for key in one.keys() & other.keys():
        assert [t for t, _, _ in one[key]] != [t for t, _, _ in other[key]], key


def test_some_streams_of_a_schedule_send_when_they_would_among_all() -> None:
    for make in (
        lambda: Poisson(20.0, 6, seed=1),
        lambda: Periodic(20.0, *[0.01] * 6, jitter_s=0.03, seed=1),
    ):
        times, owners = make().until(10.0)
        some = Some(make(), range(1, 6, 2))
        first, second = some.until(4.0), some.until(10.0)
        mine = np.isin(owners, (1, 3, 5))
        assert np.array_equal(np.concatenate([first[0], second[0]]), times[mine])
        assert np.array_equal(np.concatenate([first[1], second[1]]), owners[mine] // 2)
        assert (some.streams, some.rate_hz) == (3, 20.0)


def test_devices_are_as_the_scenario_says(tmp_path: Path) -> None:
    built = made(loaded(tmp_path), Part())
    by_name = {device.streams[0].stream.device: device for device in built.devices}
    cam, vib = by_name["cam-0010"], by_name["vib-0004"]
    assert (cam.mix, cam.protocol, cam.options.client_id) == ("cam", 5, "sim-run-cam-0010")
    assert cam.filters == [("penstock/v1/home/dev/cam-0010/+/result", 0)]
    assert [stream.stream.topic.split("/")[-2:] for stream in cam.streams] == [
        ["cam", "data"],
        ["plain", "data"],
    ]
    assert cam.streams[0].stream.deadline_ms == 250 and cam.streams[0].store is None
    assert 50 <= cam.streams[0].clock.error_ms(0) <= 150
    assert cam.streams[0].clock.error_ms(2) == cam.streams[0].clock.error_ms(1) + 5000
    assert (vib.protocol, vib.streams[0].qos, vib.streams[0].boot) == (4, 1, "run-0")
    assert [topic.rpartition("/")[2] for topic, _ in vib.filters] == ["result", "receipt"]
    assert vib.streams[0].store is not None and vib.streams[0].clock.error_ms(3) == 0
    assert len({device.options.client_id for device in built.devices}) == 16
    assert set(built.others) == {(f"vib-{n:04d}", "vib") for n in range(5)}
    assert {ring.media_type for ring in built.others.values()} == {"application/cbor"}


def test_devices_beyond_the_variety_share_a_source_from_another_payload_on(tmp_path: Path) -> None:
    sources = {s.stream.device: s.stream.source for s, _ in made(loaded(tmp_path), Part()).sends}
    bodies = {n: [p.data for p in islice(sources[f"cam-{n:04d}"].payloads(), 8)] for n in (0, 1, VARIETY)}
    assert bodies[VARIETY][:7] == bodies[0][1:] != bodies[0][:7]
    assert not set(bodies[0]) & set(bodies[1])


@pytest.mark.parametrize(
    ("target", "files", "login", "said"),
    [
        ({}, {}, (None, None), ""),
        ({"username": "sim", "password_file": "p"}, {"p": "secret\r\n"}, ("sim", "secret"), ""),
        ({"credentials": "c"}, {"c": "solo-0000  a b \n\nx y\n"}, ("solo-0000", "a b"), ""),
        (
            {"credentials": "c"},
            {"c": "x y\n"},
            None,
            r"expected a line `solo-0000 PASSWORD` in c, found none",
        ),
        ({"credentials": "c"}, {"c": "solo-0000 a\nword\n"}, None, r"c:2: expected `DEVICE PASSWORD`"),
        ({"credentials": "c"}, {}, None, r"expected a readable file of passwords at .*c"),
        (
            {"username": "sim", "password_file": "p"},
            {},
            None,
            r"expected a readable file of passwords at .*p",
        ),
    ],
)
def test_devices_log_in_as_the_target_says(
    tmp_path: Path, target: dict[str, Any], files: dict[str, str], login: Any, said: str
) -> None:
    (tmp_path / "solo.toml").write_text(
        'name = "solo"\n[[device]]\nname = "solo"\n[[device.stream]]\nrate_hz = 1\n'
        'source = { kind = "bytes", size = 1 }\n[[phase]]\nkind = "steady"\nseconds = 1\n'
    )
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    scenario = read(tmp_path / "solo.toml")
    where = Target(url="mqtt://127.0.0.1:1883", **target)
    if said:
        with pytest.raises(UsageError, match=said):
            build(scenario, Part(), where, "run", Sending())
    else:
        options = build(scenario, Part(), where, "run", Sending()).devices[0].options
        assert (options.username, options.password) == login
