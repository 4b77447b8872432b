"""The site that a run starts for itself: a Mosquitto and a gateway on free loopback ports, in the run's folder."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from penstock_models.errors import UsageError
from penstock_sim.site.broker import HOST, Broker
from penstock_sim.site.gateway import Gateway, free_port, prepare


class LocalSite:
    def __init__(self, broker: Broker, gateway: Gateway) -> None:
        self.broker, self.gateway = broker, gateway


@asynccontextmanager
async def local_site(folder: Path, config: Path | None, streams: int) -> AsyncIterator[LocalSite]:
    """Start both and wait until they serve; end them in order.

    Args:
        config: a gateway.toml whose broker, HTTP address and state are replaced; None takes the demo's models.
        streams: how many the gateway must know at once.

    Raises:
        UsageError: no Mosquitto here, no such file.
        PenstockError: one of them did not start; with the end of its log.
    """
    config = await asyncio.to_thread(_config, folder, config)
    broker = Broker(folder / "broker", free_port())
    gateway = Gateway(
        config,
        folder / "gateway.log",
        {
            "PENSTOCK_MQTT__URL": f"mqtt://{HOST}:{broker.port}",
            "PENSTOCK_STATE": str(folder / "state"),
            "PENSTOCK_LIMITS__MAX_STREAMS": str(max(2000, 2 * streams)),
        },
        free_port(),
        f"mqtt://{HOST}:{broker.port}",
    )
    try:
        await broker.start()
        await gateway.child.start()
        await gateway.ready()
        yield LocalSite(broker, gateway)
    finally:
        await asyncio.shield(_stop(gateway, broker))


def _config(folder: Path, config: Path | None) -> Path:
    if config is None:
        (folder / "site").mkdir(parents=True)
        return prepare(folder / "site")
    if not config.is_file():
        raise UsageError(f"expected a gateway's configuration at {config}, found none")
    return config


async def _stop(gateway: Gateway, broker: Broker) -> None:
    await gateway.child.stop()
    await broker.child.stop()
