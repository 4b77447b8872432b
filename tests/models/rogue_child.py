"""A vetting child that a model took over: does what the first device of its request is called."""

import os
import sys
import time
from collections.abc import Callable

import msgspec

from penstock_models.vetting.verdict import Report, Request, Vetted


def _say(out: int, verdict: Vetted) -> None:
    os.write(out, msgspec.json.encode(Report(verdict)) + b"\n")


def talk(out: int) -> None:
    while True:
        os.write(out, b"x" * 4096)


def complain(out: int) -> None:
    while True:
        os.write(2, b"x\n" * 2048)


def stay(out: int) -> None:
    _say(out, Vetted(True, digest="mine"))
    os.close(out)
    os.close(2)
    time.sleep(60)


def paint(out: int) -> None:
    _say(out, Vetted(False, "golden", "\x1b[2Jall\nis \x00well" + "!" * 9999, ("a\rb",) * 99))


def babble(out: int) -> None:
    os.write(out, b'no json\n{"said": {"type": "vetted", "ok": true, "reason": "because"}}\n')
    os._exit(3)


if __name__ == "__main__":
    request = msgspec.json.decode(sys.argv[1], type=Request)
    acts: dict[str, Callable[[int], None]] = {
        act.__name__: act for act in (talk, complain, stay, paint, babble)
    }
    acts[request.devices[0]](int(sys.argv[2]))
