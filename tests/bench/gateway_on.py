"""The gateway on another MQTT client: `python -m tests.bench.gateway_on {penstock,paho,awscrt} CONFIG`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from penstock_gateway import logs
from penstock_gateway.config import load
from penstock_gateway.gateway import LinkMaker, run
from penstock_gateway.mqtt.link import MqttLink
from tests.bench.links.crt_link import CrtLink
from tests.bench.links.paho_link import PahoLink

LINKS: dict[str, LinkMaker] = {"penstock": MqttLink, "paho": PahoLink, "awscrt": CrtLink}


async def main(link: str, config: Path) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    logs.setup()
    await run(load(config, os.environ), stop, LINKS[link])


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
