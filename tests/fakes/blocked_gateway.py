"""A gateway whose event loop is blocked for ever, so many seconds after its start: `python -m … SECONDS CONFIG`."""

import asyncio
import sys
import time
from pathlib import Path

from penstock_gateway.config import load
from penstock_gateway.gateway import run


async def main() -> None:
    asyncio.get_running_loop().call_later(float(sys.argv[1]), time.sleep, 3600)
    await run(load(Path(sys.argv[2]), {}), asyncio.Event())


asyncio.run(main())
