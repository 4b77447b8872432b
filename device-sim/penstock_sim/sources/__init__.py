"""Where a virtual device's payloads come from: scenes, signals, files."""

from penstock_sim.sources.source import Box, Payload, Ring, Source, Truth

__all__ = ["Box", "Payload", "Ring", "Source", "Truth"]
