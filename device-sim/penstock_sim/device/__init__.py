"""The kit for those who write devices: send frames, keep what matters until its receipt, hear the results."""

from penstock_sim.device.kept import Limits
from penstock_sim.device.kit import Device
from penstock_sim.device.message import Tensor, tensor
from penstock_sim.device.shared import Counters

__all__ = ["Counters", "Device", "Limits", "Tensor", "tensor"]
