"""A Mosquitto of a run's own, which can be killed and started again."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from penstock_gateway.embedded import PROGRAM_PATH, write_config
from penstock_models.errors import PenstockError, UsageError
from penstock_sim.site.child import Child

_START_S = 10.0
_POLL_S = 0.01
_SYS_S = 1
"""How often it says under `$SYS` what it does."""
HOST = "127.0.0.1"


class Broker:
    """On a loopback port, with its files in `folder`; `start` and `kill` it as often as needed."""

    def __init__(self, folder: Path, port: int) -> None:
        program = shutil.which("mosquitto", path=PROGRAM_PATH)
        if program is None:
            raise UsageError(
                "expected Mosquitto on this machine to start a broker from; install it (`apt-get install mosquitto`),"
                " or name a broker in [target] url"
            )
        self.port = port
        config = write_config(HOST, port, folder)
        with config.open("a") as file:
            file.write(f"sys_interval {_SYS_S}\n")
        self.child = Child((program, "-c", str(config)), folder / "mosquitto.log")

    async def start(self) -> None:
        """Start it, and wait until it listens.

        Raises:
            PenstockError: it ended, or does not listen within 10 s.
        """
        await self.child.start()
        try:
            async with asyncio.timeout(_START_S):
                while not await self._listens():  # noqa: ASYNC110, nobody tells
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise PenstockError(
                f"the broker did not listen within {_START_S:g} s; {self.child.ending()}"
            ) from None

    async def _listens(self) -> bool:
        if not self.child.running:
            raise PenstockError(f"the broker ended with {self.child.returncode}; {self.child.ending()}")
        try:
            _, writer = await asyncio.open_connection(HOST, self.port)
        except OSError:
            return False
        writer.close()
        return True
