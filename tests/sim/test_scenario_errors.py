"""What is wrong with a scenario is said in one line: the file, the line, what was expected, what came."""

from pathlib import Path

import pytest

from penstock_models.errors import UsageError
from penstock_sim.scenario import read

GOOD = """\
name = "good"
objectives = ["lost == 0"]

[[device]]
name = "cam"
count = 2
[[device.stream]]
source = { kind = "bytes", size = 10 }
rate_hz = 5

[[phase]]
kind = "steady"
seconds = 10

[[fault]]
kind = "link_cut"
at_s = 3
for_s = 2
"""

BURST = 'kind = "burst"\nseconds = 10\npeak = 2\nevery_s = {}\nfor_s = {}'
SECOND = '[[device]]\nname = "cam"\n[[device.stream]]\nsource = { kind = "scene" }\nrate_hz = 1\n\n[[phase]]'
FAULT = '[[fault]]\nkind = "{}"\nat_s = 3\n'


def told(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        read(path)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600
    return message


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        # No TOML, and tables that are none
        ("count = 2", "count = = 2", 6, "expected TOML: Invalid value"),
        ('name = "good"', 'name = "good', 1, "expected TOML"),
        ("rate_hz = 5", "rate_hz = 5\nrate_hz = 6", 10, "expected TOML: Cannot overwrite a value"),
        ("[[phase]]", "[phase]", 11, "phase: expected a list, came a table"),
        ('source = { kind = "bytes", size = 10 }', "source = 3", 8, "expected a table, came a whole number"),
        # Unknown keys, at every level
        ("objectives =", "objektives =", 2, "objektives: unknown key; did you mean objectives?"),
        ("count = 2", "cuont = 2", 6, "device[0].cuont: unknown key; did you mean count?"),
        ("rate_hz = 5", "rate_hz = 5\nburst = 1", 10, "device[0].stream[0].burst: unknown key; known are name"),
        ("size = 10 }", "size = 10, sise = 3 }", 8, "device[0].stream[0].source.sise: unknown key; did you mean size?"),
        ("seconds = 10", "seconds = 10\nhigh = 2", 14, "phase[0].high: unknown key; known are kind, seconds, load"),
        ("for_s = 2", "for_s = 2\ndelay_ms = 5", 19, "fault[0].delay_ms: unknown key; known are kind, at_s"),
        ("count = 2", "count = 2\nclock = { skew = 5 }", 7, "device[0].clock.skew: unknown key; did you mean skew_ms?"),
        ("[[device]]", '[target]\nurl_ = "x"\n[[device]]', 5, "target.url_: unknown key; did you mean url?"),
        ("rate_hz = 5", 'rate_hz = 5\n"a\\nb`" = 1', 10, "unknown key"),
        # Keys that are missing
        ('name = "good"\n', "", 1, "expected the key `name`, found none"),
        ("rate_hz = 5\n", "", 7, "device[0].stream[0]: expected the key `rate_hz`, found none"),
        ('kind = "steady"\n', "", 11, "phase[0]: expected the key `kind`, found none"),
        ("at_s = 3\n", "", 15, "fault[0]: expected the key `at_s`, found none"),
        # Wrong kinds
        ("count = 2", 'count = "two"', 6, "device[0].count: expected a whole number, came text"),
        ("count = 2", "count = 2.5", 6, "device[0].count: expected a whole number, came a number"),
        ("rate_hz = 5", "rate_hz = true", 9, "expected a number, came bool"),
        ('name = "good"', "name = 2020-01-01", 1, "name: expected text, came date"),
        ('["lost == 0"]', '"lost == 0"', 2, "objectives: expected a list, came text"),
        # Out of bounds
        ("count = 2", "count = 0", 6, "device[0].count: expected `int` >= 1, came 0"),
        ("count = 2", f"count = {10**30}", 6, "expected `int` <= 100000, came 1000000"),
        ("rate_hz = 5", "rate_hz = 0", 9, "expected `float` > 0.0, came 0"),
        ("rate_hz = 5", "rate_hz = nan", 9, "came nan"),
        ("seconds = 10", "seconds = inf", 13, "phase[0].seconds: expected `float` <= 604800.0, came inf"),
        ("for_s = 2", "for_s = -2", 18, "fault[0].for_s: expected `float` > 0.0, came -2"),
        ('name = "cam"', 'name = "a cam/era"', 5, "device[0].name: expected `str` matching"),
        ('name = "good"', 'name = "good"\nv = 2', 2, "v: expected one of 1, came 2"),
        ("size = 10 }", "size = -1 }", 8, "device[0].stream[0].source.size: expected `int` >= 0, came -1"),
        # Words that are no choice
        ('"steady"', '"wavy"', 12, "phase[0].kind: expected one of steady, ramp, burst, diurnal, replay, came 'wavy'"),
        ('"link_cut"', '"earthquake"', 16, "fault[0].kind: expected one of link_cut, latency"),
        ("count = 2", "count = 2\nqos = 2", 7, "device[0].qos: expected one of 0, 1, came 2"),
        ("rate_hz = 5", 'rate_hz = 5\narrivals = "late"', 10, "expected one of periodic, poisson, came 'late'"),
        ('kind = "bytes", size = 10', 'kind = "radar"', 8, "source.kind: expected one of scene, video"),
        # What no single key shows
        ("[[phase]]", SECOND, 12, "device[1].name: expected a name of its own, came 'cam' again"),
        ("[[phase]]", '[[device.stream]]\nsource = { kind = "scene" }\nrate_hz = 1\n\n[[phase]]', 11,
         "device[0].stream[1]: expected a name of its own, came 'cam' again"),
        ("rate_hz = 5", "rate_hz = 5\njitter_ms = 201", 10, "expected at most one period, 200 ms, came 201"),
        ("rate_hz = 5", 'rate_hz = 5\njitter_ms = 1\narrivals = "poisson"', 10, "expected no jitter of poisson"),
        ("seconds = 10", "seconds = 10\nload = 0", 11, "phase: expected a load above 0 somewhere"),
        ('kind = "steady"\nseconds = 10', BURST.format(4, 5), 11, "phase[0]: expected bursts shorter than every_s"),
        ('kind = "steady"\nseconds = 10', BURST.format(2e-5, 1e-5), 11, "phase[0]: expected at most 250000 bursts"),
        ("at_s = 3", "at_s = 10", 17, "fault[0].at_s: expected a fault within the run, which ends at 10 s, came 10"),
        ("[[fault]]", FAULT.format("malformed") + 'for_s = 1\ndevices = "door"\n[[fault]]', 19,
         "fault[0].devices: expected one of cam, came 'door'"),
        ("[[fault]]", FAULT.format("flapping") + "for_s = 1\ndown_s = 1\nup_s = 1\n[[fault]]", 23,
         "fault[1].at_s: expected one at a time, came one within the flapping from 3 to 4 s"),
        ("[[fault]]", FAULT.format("hostile") + "for_s = 1\npayloads = []\n[[fault]]", 19,
         "fault[0].payloads: expected `array` of length >= 1, came 0 of them"),
        ("[[fault]]", 2 * FAULT.format("payload_change") + "[[fault]]", 18, "expected one payload_change for a mix"),
        ("[[phase]]", '[target]\nurl = "mqtt://box"\n[[fault]]\nkind = "gateway_kill"\nat_s = 1\n[[phase]]', 13,
         "fault[0]: gateway_kill needs a gateway that the run starts itself"),
        # Objectives
        ("lost == 0", "lost = 0", 2, "objectives[0]: expected an objective such as"),
        ("lost == 0", "p99 < 200", 2, "did you mean p99_ms"),
        ('["lost == 0"]', '[\n  "lost == 0",\n  "late = 0",\n]', 4, "objectives[1]: expected an objective such as"),
        ("lost == 0", "door.lost == 0", 2, "expected a mix of cam, came 'door' in 'door.lost == 0'"),
        ("lost == 0", "cam.lag_p99_ms < 10", 2, "expected lag_p99_ms without a mix"),
        ("lost == 0", "lost < 1%", 2, "expected per cent of answered_share"),
        ('["lost == 0"]', "[3]", 2, "objectives[0]: expected text, came a whole number"),
    ],
)  # fmt: skip
def test_a_wrong_scenario_is_refused_with_its_line(
    tmp_path: Path, old: str, new: str, line: int, said: str
) -> None:
    file = tmp_path / "wrong.toml"
    assert old in GOOD
    file.write_text(GOOD.replace(old, new, 1))
    message = told(file)
    assert message.startswith(f"{file}:{line}: ")
    assert said in message


def test_without_the_mistakes_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "good.toml").write_text(GOOD)
    loaded = read(tmp_path / "good.toml")
    assert (loaded.scenario.name, loaded.devices, loaded.rate_hz, loaded.load.seconds) == (
        "good",
        2,
        10.0,
        10.0,
    )
    assert (loaded.text, loaded.folder) == (GOOD, tmp_path)


@pytest.mark.parametrize(
    "more",
    [
        'kind = "flapping"\nat_s = 5\nfor_s = 1\nup_s = 1\ndown_s = 1',  # the cut ends as it begins
        'kind = "link_cut"\nat_s = 2\nfor_s = 1',
        'kind = "latency"\nat_s = 3\nfor_s = 2\ndelay_ms = 5',  # another thing of the link
        'kind = "link_cut"\nat_s = 9.99\nfor_s = 100',  # it ends after the load
    ],
)
def test_faults_may_touch_each_other_and_last_beyond_the_end(tmp_path: Path, more: str) -> None:
    (tmp_path / "good.toml").write_text(f"{GOOD}\n[[fault]]\n{more}\n")
    assert len(read(tmp_path / "good.toml").scenario.fault) == 2


@pytest.mark.parametrize(
    ("trace", "said"),
    [
        (None, "phase[0]: expected a readable trace {}: No such file or directory"),
        (b"", "came 0"),
        (b"seconds,load\n", "expected a trace of 2 to 1000000 rows in {}, came 0"),
        (b"seconds,load\n0,1\n", "came 1"),
        (b"time,load\n0,1\n1,1\n", "{}:2: expected numbers in the columns seconds and load"),
        (b"seconds,load\n0,1\n1\n", "{}:3: expected numbers"),
        (b"seconds,load\n0,1\n1,much\n", "{}:3: expected numbers"),
        (b"seconds,load\n0,1\n5,1\n4,1\n", "{}:4: expected seconds that ascend, came 4"),
        (b"seconds,load\n0,1\nnan,1\n", "{}:3: expected seconds that ascend, came nan"),
        (b"seconds,load\n0,1\n1,-1\n", "{}:3: expected a load of 0 to 1000, came -1"),
        (b"seconds,load\n0,1\n1,nan\n", "{}:3: expected a load of 0 to 1000, came nan"),
        (b"seconds,load\n0,1\n1,1e9\n", "{}:3: expected a load of 0 to 1000"),
        (b"seconds,load\n0,1\n9e9,1\n", "phase: expected a run of at most 604800 s, came 9e+09"),
        (b"seconds,load\n0,0\n9,0\n", "phase: expected a load above 0 somewhere"),
        (b"seconds,load\n0,\xff\n", "expected a trace in CSV and UTF-8 in {}"),
        (
            b"seconds,load\n0," + b"1" * 200_000 + b"\n",
            "expected a trace in CSV and UTF-8 in {}: field larger",
        ),
    ],
)
def test_a_wrong_trace_is_refused_with_the_phase_that_names_it(
    tmp_path: Path, trace: bytes | None, said: str
) -> None:
    file, recorded = tmp_path / "replay.toml", tmp_path / "trace.csv"
    file.write_text(GOOD.replace('kind = "steady"\nseconds = 10', 'kind = "replay"\nfile = "trace.csv"'))
    if trace is not None:
        recorded.write_bytes(trace)
    message = told(file)
    assert message.startswith(f"{file}:11: phase")
    assert said.format(recorded) in message


@pytest.mark.parametrize(
    ("content", "line", "said"),
    [
        (GOOD.encode() + b"\n# caf\xe9\n", 20, "expected UTF-8 text, came the byte 0xe9"),
        (b"a = " + b"[" * 100_000, None, "expected values that are nested less deep"),
        (b"# " + b"x" * (1 << 20), None, "expected a configuration of at most 1048576 bytes"),
    ],
)
def test_a_file_that_is_none_of_ours_is_refused(
    tmp_path: Path, content: bytes, line: int | None, said: str
) -> None:
    file = tmp_path / "file.toml"
    file.write_bytes(content)
    message = told(file)
    assert message.startswith(f"{file}:{line}: " if line else f"{file}: ") and said in message


def test_a_folder_or_nothing_is_no_scenario(tmp_path: Path) -> None:
    assert "Is a directory" in told(tmp_path)
    assert "No such file" in told(tmp_path / "none.toml")
