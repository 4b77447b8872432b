"""What the memory of a box is measured to be: made-up machines, and this one."""

import subprocess
import sys
from pathlib import Path

import pytest

from penstock_models.versions.box import SystemBox

MB = 1024**2


def machine(root: Path, files: dict[str, str]) -> SystemBox:
    for name, text in {"proc/meminfo": "MemTotal: 4096 kB\nMemAvailable: 2048 kB\n", **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return SystemBox(root=root)


def v2(group: str, limit: object, used: int, inactive: int = 0) -> dict[str, str]:
    folder = f"sys/fs/cgroup/{group}".rstrip("/")
    return {
        f"{folder}/memory.max": f"{limit}\n",
        f"{folder}/memory.current": f"{used}\n",
        f"{folder}/memory.stat": f"anon 5\ninactive_file {inactive}\n",
    }


def v1(group: str, limit: int, used: int, inactive: int = 0) -> dict[str, str]:
    folder = f"sys/fs/cgroup/memory/{group}".rstrip("/")
    return {
        f"{folder}/memory.limit_in_bytes": f"{limit}\n",
        f"{folder}/memory.usage_in_bytes": f"{used}\n",
        f"{folder}/memory.stat": f"cache 5\ntotal_inactive_file {inactive}\n",
    }


OWN_V2 = {"proc/self/cgroup": "0::/app/gateway\n"}
OWN_V1 = {"proc/self/cgroup": "7:cpu,cpuacct:/app\n5:memory:/app\n"}
KB = 1024


@pytest.mark.parametrize(
    ("files", "limit", "available"),
    [
        ({}, 4096 * KB, 2048 * KB),
        ({**OWN_V2, **v2("app/gateway", "max", 9000)}, 4096 * KB, 2048 * KB),
        ({**OWN_V2, **v2("app/gateway", 1_000_000, 400_000)}, 1_000_000, 600_000),
        (
            {**OWN_V2, **v2("app/gateway", 1_000_000, 400_000, 300_000)},
            1_000_000,
            900_000,
        ),  # page cache goes first
        ({**OWN_V2, **v2("app/gateway", 1_000_000, 100), **v2("app", 900_000, 800_000)}, 900_000, 100_000),
        ({**OWN_V2, **v2("", 500_000, 100_000)}, 500_000, 400_000),  # in a container the mount is the group
        ({**OWN_V2, **v2("app/gateway", 100_000, 200_000)}, 100_000, 0),
        ({**OWN_V2, **v2("other", 1, 1)}, 4096 * KB, 2048 * KB),
        ({**OWN_V1, **v1("app", 1_000_000, 400_000, 100_000)}, 1_000_000, 700_000),
        ({**OWN_V1, **v1("", 9_223_372_036_854_771_712, 400_000)}, 4096 * KB, 2048 * KB),
        ({"proc/self/cgroup": "nonsense\n"}, 4096 * KB, 2048 * KB),
    ],
)
def test_the_least_of_machine_and_groups(
    tmp_path: Path, files: dict[str, str], limit: int, available: int
) -> None:
    room = machine(tmp_path, files).room()
    assert (room.limit_bytes, room.available_bytes, room.budget_bytes) == (limit, available, None)


def test_this_machine_has_some() -> None:
    room = SystemBox(budget_bytes=7).room()
    assert 16 * MB < room.available_bytes <= room.limit_bytes and room.budget_bytes == 7


CHILD = """
import sys
block = bytearray(64 * 2**20)
for i in range(0, len(block), 4096):
    block[i] = 1
print("ready", flush=True)
sys.stdin.read()
"""


def test_the_footprint_counts_children_and_what_they_free() -> None:
    box = SystemBox()
    before = box.footprint()
    assert before > 10 * MB
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None and child.stdout.readline() == b"ready\n"
        assert box.footprint() - before > 60 * MB
        child.communicate()
    assert abs(box.footprint() - before) < 16 * MB
