"""A vetting child that a model took over: does what the first device of its request is called."""

import os
import subprocess
import sys
import time
from collections.abc import Callable

import msgspec

from penstock_models.vetting.verdict import Request, Vetted


def _say(out: int, verdict: Vetted) -> None:
    os.write(out, msgspec.json.encode(verdict) + b"\n")


def talk(out: int) -> None:
    while True:
        os.write(out, b"x" * 4096)


def complain(out: int) -> None:
    while True:
        os.write(2, b"x\n" * 2048)


def stay(out: int) -> None:
    """In its parent's process group."""
    os.setpgid(0, os.getpgid(os.getppid()))
    _say(out, Vetted(True, digest="mine"))
    os.close(out)
    os.close(2)
    time.sleep(60)


def leave(out: int) -> None:
    """A process of its own behind."""
    left = subprocess.Popen(["sleep", "60"], stderr=subprocess.DEVNULL)
    _say(out, Vetted(True, digest=str(left.pid)))
    os._exit(0)


def paint(out: int) -> None:
    text = "\x1b[2Jall\nis \x00well" + "!" * 9999
    _say(out, Vetted(False, "golden", text, ("a\rb",) * 99, digest=text, placement=text))


def babble(out: int) -> None:
    os.write(out, b'no json\n{"type": "vetted", "ok": true, "reason": "because"}\n')
    os.write(out, b'{"type": "progress", "stage": "nesting", "more": ' + b"[" * 50_000 + b"\n")
    os._exit(3)


if __name__ == "__main__":
    request = msgspec.json.decode(sys.argv[1], type=Request)
    acts: dict[str, Callable[[int], None]] = {
        act.__name__: act for act in (talk, complain, stay, leave, paint, babble)
    }
    acts[request.devices[0]](int(sys.argv[2]))
