"""A scenario in which the accelerator is lost: OpenVINO's plugin goes away under load, and the gateway answers on the CPU."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from penstock_models.bundle import write_bundle
from penstock_sim.run.local import LocalSite, local_site
from penstock_sim.run.records import Row, Writer
from penstock_sim.run.run import Run
from tests.fakes.sim_runs import Watcher, scenario
from tests.models.loaded import bundle, scaler

PLUGIN = "libopenvino_intel_cpu_plugin.so"

GATEWAY = """
site = "home"
gateway = "gw1"
[mqtt]
url = "embedded"
[models]
path = "store"
[[model]]
name = "made"
devices = ["openvino", "cpu"]
isolation = "process"
[[route]]
topic = "penstock/v1/home/dev/{device}/{stream}/data"
model = "made"
mode = "every"
deadline_ms = 20000
"""

SCENARIO = """
name = "accelerator-loss"
objectives = ["lost == 0", "answered_share > 90%", "unreceipted == 0"]
[target]
gateway = "gateway.toml"
[[device]]
name = "t"
count = 2
qos = 1
store = 1000
[[device.stream]]
source = {{ kind = "temperature", size = 2 }}
rate_hz = 10
[[phase]]
kind = "steady"
seconds = 8
[[fault]]
kind = "accelerator_loss"
at_s = 3
for_s = 4
library = "{library}"
"""


def written(folder: Path) -> None:
    made = bundle(scaler())
    files = {entry.path: made.read(entry.path) for entry in made.manifest.files}
    (folder / "store").mkdir()
    write_bundle(made.manifest, files, folder / "store")
    (folder / "gateway.toml").write_text(GATEWAY)


async def model_of(site: LocalSite) -> dict[str, Any]:
    (model,) = (await site.gateway.pages.status())["models"]
    return dict(model)


class Looks(Watcher):
    """Asks the gateway where its model runs, in the middle of the loss."""

    def __init__(self, site: LocalSite) -> None:
        super().__init__()
        self._site = site
        self.during: asyncio.Future[dict[str, Any]] | None = None

    def row(self, row: Row, of_s: float) -> None:
        super().row(row, of_s)
        if row.second == 5:
            self.during = asyncio.ensure_future(model_of(self._site))


@pytest.mark.timeout(90)
async def test_an_accelerator_that_is_lost_costs_no_frame(tmp_path: Path, packages: Path) -> None:
    written(tmp_path)
    library = packages / "onnxruntime" / "capi" / PLUGIN
    loaded = scenario(tmp_path, SCENARIO.format(library=library))
    async with local_site(tmp_path / "site", tmp_path / "gateway.toml", 2) as site:
        before = await model_of(site)
        view = Looks(site)
        summary = await Run(loaded, Writer(tmp_path / "run", loaded.text), view, site).go()
        assert view.during is not None
        during = await view.during
    assert (before["placement"], during["placement"]) == ("onnxruntime:openvino", "onnxruntime:cpu")
    assert [str(one) for one in summary.differences] == []
    assert [verdict.text for verdict in summary.objectives if not verdict.met] == []
    assert library.exists()
