"""The process in which a foreign model is first loaded: `python -m penstock_models.vetting.child REQUEST DESCRIPTOR`.

Owns the order: first everything is given up that the work does not need, then the model is touched. It writes a JSON line
for each step and one for the verdict to DESCRIPTOR; where that is missing, how the process ended is the verdict.
"""

from __future__ import annotations

import os
import sys

import msgspec

from penstock_models.background import stand_last
from penstock_models.children import end_with
from penstock_models.vetting import confine
from penstock_models.vetting.verdict import Request, Said


def main(words: list[str]) -> None:
    """Work on one request and leave."""
    request = msgspec.json.decode(words[0], type=Request)
    out = int(words[1])

    def say(said: Said) -> None:
        os.write(out, msgspec.json.encode(said) + b"\n")

    end_with(request.parent)
    confine.step_back()
    network = confine.cut_off()
    # Not before: what these import starts threads, and the filter holds for those that come after it.
    from penstock_models.vetting.examine import examine

    say(msgspec.structs.replace(examine(request, say), network=network))
    stand_last()
    os._exit(0)  # what the model left behind need not be tidied up


if __name__ == "__main__":
    main(sys.argv[1:])
