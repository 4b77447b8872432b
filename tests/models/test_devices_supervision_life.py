"""Which device a version should run on: a state machine of everything that may happen."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from penstock_models.devices.health import SPREAD
from penstock_models.devices.supervision import Close, Open, Probe, Slot, Supervision, Switch
from tests.models.supervision_words import RULES


class Life(RuleBasedStateMachine):
    """Two quick devices and one that builds; hosts open, fail, are lost, answer wrongly, as the machine asked for them."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.machine = Supervision(["trt", "npu", "cpu"], slow=["trt"])
        self.opening: dict[Slot, str] = {}
        self.open: dict[Slot, str] = {}
        self.probing: set[Slot] = set()
        self.well = {"trt": True, "npu": True, "cpu": True}
        self.switches: list[float] = []
        self.act()

    def act(self) -> None:
        for action in self.machine.due(self.now):
            match action:
                case Open(slot, device):
                    assert slot not in self.opening and slot not in self.open, "two at once"
                    assert device not in self.opening.values(), "the same device twice at once"
                    self.opening[slot] = device
                case Probe(slot):
                    assert slot in self.open and slot not in self.probing
                    self.probing.add(slot)
                case Switch(slot):
                    self.open["serving"] = self.open.pop(slot)
                    self.probing -= {slot, "serving"}
                    self.switches.append(self.now)
                case Close(slot):
                    del self.open[slot]
                    self.probing.discard(slot)
        assert self.machine.due(self.now) == [], "everything that is due is said at once"

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0, 60.0, 4000.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.act()

    @precondition(lambda self: self.opening)
    @rule(data=st.data())
    def host_opens_or_fails(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(sorted(self.opening)))
        device = self.opening.pop(slot)
        if self.well[device]:
            self.open[slot] = device
            self.machine.opened(slot, self.now)
        else:
            self.machine.failed(slot, "no", self.now)
        self.act()

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def host_is_lost(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(sorted(self.open)))
        del self.open[slot]
        self.probing.discard(slot)
        self.machine.lost(slot, "lost", self.now)
        self.act()

    @precondition(lambda self: self.probing)
    @rule(data=st.data(), good=st.booleans())
    def probe_ends(self, data: st.DataObject, good: bool) -> None:
        slot = data.draw(st.sampled_from(sorted(self.probing)))
        self.probing.discard(slot)
        self.machine.probed(slot, good, self.now)
        self.act()

    @precondition(lambda self: "serving" in self.open)
    @rule(how=st.sampled_from(["good", "error", "hang"]), times=st.integers(1, 6))
    def batches_end(self, how: str, times: int) -> None:
        for _ in range(times):
            self.machine.ran(how, self.now)  # type: ignore[arg-type]
            self.act()

    @rule(device=st.sampled_from(["trt", "npu", "cpu"]))
    def device_breaks_or_recovers(self, device: str) -> None:
        self.well[device] = not self.well[device]

    @invariant()
    def serves_or_will_at_a_finite_time(self) -> None:
        assert self.machine.serving == self.open.get("serving")
        if "serving" in self.open or "rebuild" in self.opening:
            return
        at = self.machine.wake_at()
        assert at is not None and at <= self.now + RULES.rebuild_max_s * (1 + SPREAD)

    @invariant()
    def degraded_is_said_and_only_then(self) -> None:
        assert bool(self.machine.degraded("m", 0)) == (self.open.get("serving") != "trt")

    @invariant()
    def beside_the_serving_host_at_most_two(self) -> None:
        assert len(self.open) + len(self.opening) <= 3

    def teardown(self) -> None:
        """Once all devices are well, it comes back to the best one, by a bounded number of switches."""
        self.well = dict.fromkeys(self.well, True)
        for slot in list(self.probing):
            self.probing.discard(slot)
            self.machine.probed(slot, True, self.now)
        self.act()
        self.switches.clear()
        for _ in range(40):
            if self.open.get("serving") == "trt" and not self.opening:
                break
            self.settle()
        assert self.open.get("serving") == "trt" and len(self.switches) <= 4

    def settle(self) -> None:
        """What is asked for succeeds; then time passes until something is due."""
        for slot, device in list(self.opening.items()):
            del self.opening[slot]
            self.open[slot] = device
            self.machine.opened(slot, self.now)
            self.act()
        for slot in list(self.probing):
            self.probing.discard(slot)
            self.machine.probed(slot, True, self.now)
            self.act()
        at = self.machine.wake_at()
        self.now = max(self.now, at) if at is not None else self.now
        self.act()


TestLife = Life.TestCase

TestLife.settings = settings(max_examples=60, stateful_step_count=40)
