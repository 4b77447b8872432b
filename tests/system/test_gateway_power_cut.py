"""A power cut of the box: every window that a receipt covered is answered, before the cut or by the next start.

The state folder lies on a disk whose power can be cut. The gateway is frozen at a random moment, the disk copied as
the cut would leave it, and a second gateway started on the copy, with a broker of its own: nobody can deliver again
what the first one had acknowledged, so what the receipts promised must be in the state folder.
"""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes.broker import Broker, mosquitto
from tests.fakes.flow import Flow, Key, Receipts, Results
from tests.fakes.gateway import Gateway, gateway
from tests.fakes.powercut import PowerCutDisk
from tests.system.test_kill import BUNDLE, CONFIG, WINDOW

CUTS = 20 if os.environ.get("PENSTOCK_SOAK") == "1" else 3
QUEUE = "max_queued_messages 100000\nmax_inflight_messages 1000"

pytestmark = [pytest.mark.system, pytest.mark.soak, pytest.mark.timeout(60 + 15 * CUTS)]


def a_gateway(folder: Path, broker: Broker, state: Path) -> Gateway:
    (folder / "bundles").mkdir(parents=True)
    shutil.copy(BUNDLE, folder / "bundles")
    config = f'state = "{state}"\n' + CONFIG.format(url=broker.url, login="", gap_s=30.0)
    return gateway(config, folder)


def answered_after(folder: Path, state: Path) -> set[Key]:
    """Start on what a cut left; which windows it answers."""
    with mosquitto(QUEUE) as broker:
        results = Results(broker.port)
        with a_gateway(folder, broker, state) as gw:
            gw.wait_ready()
            carried = gw.ledger()["carried"]
            gw.wait_settled(carried)
            results.wait_for(carried)
            page = gw.status()
            assert page["starts"][-1]["how"] == "killed"
            assert page["starts"][-1]["carried_out"] == carried
            assert gw.stop() == 0
        results.close()
    return set(results.seen)


def test_no_receipted_window_is_lost_in_a_power_cut(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    seed = random.randrange(1 << 32)
    moments = random.Random(seed)
    with (
        PowerCutDisk(48) as disk,
        mosquitto(QUEUE) as broker,
        a_gateway(tmp_path / "first", broker, disk.path / "state") as gw,
    ):
        gw.wait_ready()
        results, receipts = Results(broker.port), Receipts(broker.port)
        flow = Flow(broker.port, "door", WINDOW, rate=1000)
        for cut in range(CUTS):
            time.sleep(moments.uniform(0.3, 1.5))  # the moment of the cut: nothing is waited for
            os.kill(gw.pid, signal.SIGSTOP)
            try:
                covered = receipts.covered("door")
                results.catch_up()
                before = set(results.seen)
                with disk.cut() as found:
                    after = answered_after(tmp_path / f"cut-{cut}", found / "state")
            finally:
                os.kill(gw.pid, signal.SIGCONT)
            lost = covered - before - after
            assert not lost, (
                f"seed {seed}, cut {cut}: {len(lost)} receipted windows are gone: {sorted(lost)[:5]}"
            )
        assert receipts.covered("door"), "no receipt came: the test proves nothing"
        record_property("cuts", CUTS)
        record_property("receipted", len(receipts.covered("door")))
        sent = flow.stop()
        results.wait_for(len(sent))
        receipts.close()
        results.close()
