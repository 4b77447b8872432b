"""Scenarios: devices in mixes, phases of load, faults on a time line, and what must hold."""

from penstock_sim.scenario.read import read
from penstock_sim.scenario.tree import Devices, Loaded, Scenario, Stream, Target

__all__ = ["Devices", "Loaded", "Scenario", "Stream", "Target", "read"]
