"""What a supervision asks for, in short words, and one that serves, for the tests of devices."""

from collections.abc import Sequence

from penstock_models.devices.health import Rules
from penstock_models.devices.supervision import Action, Close, Open, Probe, Supervision, Switch

RULES = Rules()


def acts(machine: Supervision, now: float) -> list[str]:
    """What is due, in short words."""
    return [word(action) for action in machine.due(now)]


def word(action: Action) -> str:
    match action:
        case Open(slot, device):
            return f"open {slot} {device}"
        case Probe(slot):
            return f"probe {slot}"
        case Switch(slot):
            return f"switch {slot}"
        case Close(slot):
            return f"close {slot}"


def serving(devices: Sequence[str] = ("npu", "cpu"), now: float = 0.0, **options: object) -> Supervision:
    """One that serves on its first quick device."""
    machine = Supervision(devices, **options)  # type: ignore[arg-type]
    (opening,) = machine.due(now)
    assert isinstance(opening, Open)
    machine.opened("rebuild", now)
    assert acts(machine, now)[0] == "switch rebuild"
    return machine
