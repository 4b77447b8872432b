"""The gateway's configuration: a strict TOML file and environment overrides become one frozen tree (contracts 8).

`load` is the way in; `sources` tells where each value came from; `warnings` what deserves a line at start. The tree is
in `tree`, the words of its keys in `describe`, what must hold between keys in `rules`.
"""

from __future__ import annotations

from penstock_gateway.config.read import Source, load, sources
from penstock_gateway.config.rules import warnings
from penstock_gateway.config.tree import (
    Config,
    HttpConfig,
    JournalConfig,
    LimitsConfig,
    ModelConfig,
    ModelsConfig,
    MqttConfig,
    Route,
)
from penstock_gateway.config.values import Address, BrokerUrl, ModelRef, SecretFile

__all__ = [
    "Address",
    "BrokerUrl",
    "Config",
    "HttpConfig",
    "JournalConfig",
    "LimitsConfig",
    "ModelConfig",
    "ModelRef",
    "ModelsConfig",
    "MqttConfig",
    "Route",
    "SecretFile",
    "Source",
    "load",
    "sources",
    "warnings",
]
