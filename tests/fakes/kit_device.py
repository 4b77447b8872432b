"""A device on the kit in a process of its own, to be killed: `python -m tests.fakes.kit_device URL FOLDER COUNT`.

It keeps COUNT windows on its store, says how far it is, then the boot it had, and waits.
"""

import sys

import numpy as np

from penstock_sim.device import Device


def main(url: str, folder: str, count: int) -> None:
    door = Device(url, "door", store=folder)
    for number in range(count):
        door.send("vib", np.full(512, number % 256, np.uint8), kind="data", keep=True)
    print(door.boot, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
