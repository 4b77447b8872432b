"""Bad versions are dropped into the store of a running gateway: each is named with its reason, the old version serves on,
and another model's answers come all the while."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from onnx import helper

from penstock_models.bundle import write_bundle
from penstock_models.manifest import Golden, Manifest, TensorSpec, Variant
from tests.fakes.gateway import Gateway
from tests.fakes.gateway_site import Site, device_route, site
from tests.models.onnx_files import model, tensor, weight
from tests.models.test_serving import put
from tests.models.vetted_files import endless

pytestmark = pytest.mark.system

IMPATIENT = """
import sys
from functools import partialmethod
from penstock_models.main import main
from penstock_models.vetting.cache import Verdicts
from penstock_models.vetting.verdict import Limits

Verdicts.vet = partialmethod(Verdicts.vet, limits=Limits(cpu_s=1))
sys.exit(main())
"""
"""A gateway that tries a version for a second of processor time instead of sixty."""


def times(factor: float, width: int = 2) -> bytes:
    """y = factor · x, with so many values a row; those beyond two are zeros."""
    nodes = [
        helper.make_node("Mul", ["x", "factor"], ["both"]),
        helper.make_node("Pad", ["both", "pads"], ["y"]),
    ]
    ends = [tensor("x", ["n", 2])], [tensor("y", ["n", width])]
    weights = [weight("factor", factor), weight("pads", [0, 0, 0, width - 2], "int64")]
    return bytes(model(nodes, *ends, weights).SerializeToString())


def publish(store: Path, version: int, data: bytes, *, output: str = "y", width: int = 2) -> Path:
    """A version of `m` with any model: its manifest promises what the first one's does, unless told otherwise."""
    ends = (TensorSpec("x", "float32", (None, 2)),), (TensorSpec(output, "float32", (None, width)),)
    said = {"outputs": {output: {"dtype": "float32", "shape": [width], "values": {"0": 3.0, "1": 6.0}}}}
    files = {"model.onnx": data, "golden.json": b"[1, 2]"}
    samples = (Golden("golden.json", "application/json", said),)
    manifest = Manifest("m", version, "raw", (Variant("model.onnx", "onnx", *ends),), (), golden=samples)
    return write_bundle(manifest, files, store)


def half(store: Path) -> None:
    whole = publish(store.parent, 5, times(3.0)).read_bytes()
    (store / "m-5.bundle").write_bytes(whole[: len(whole) // 2])


def other_bytes(store: Path) -> None:
    whole = publish(store.parent, 9, times(3.0)).read_bytes()
    (store / "m-9.bundle").write_bytes(whole.replace(b"factor", b"FACTOR"))


def same_digest(store: Path) -> None:
    folder = store / "m" / "6"
    folder.mkdir(parents=True)
    (folder / "m.bundle").write_bytes((store / "m-1.bundle").read_bytes())


def unreadable(store: Path) -> None:
    publish(store, 10, times(3.0)).chmod(0)


class Bad(NamedTuple):
    """How it gets into the store, and what the status page says of it."""

    drop: Callable[[Path], object]
    said: str


BAD = {
    "never returns": Bad(lambda store: publish(store, 2, endless()), r"^m:2 endless: .*processor time"),
    "NaN": Bad(lambda store: publish(store, 3, times(float("nan"))), r"^m:3 golden: .*NaN"),
    "wrong shape": Bad(
        lambda store: publish(store, 4, times(3.0, width=3)),
        r"^m:4 golden: .*expected float32 \[2\], got .*3",
    ),
    "half copied": Bad(half, r"m-5\.bundle: truncated"),
    "digest of another version": Bad(same_digest, r"m/6: the manifest is of m:1, the folder of m:6"),
    "renamed tensor": Bad(
        lambda store: publish(store, 7, times(3.0), output="z"), r"^m:7 drift: .*output y: is gone, has z"
    ),
    "other shape": Bad(
        lambda store: publish(store, 8, times(3.0, width=3), width=3), r"^m:8 drift: .*was \?×2, is \?×3"
    ),
    "wrong digest": Bad(other_bytes, r"^m:9 bundle: .*model\.onnx has sha256"),
    "unreadable": Bad(unreadable, r"m-10\.bundle: Permission denied"),
}

UNPRIVILEGED = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.getuid() == 0 else ()
"""Root may read what is closed to everybody; this gateway may not."""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Return a store of two models."""
    folder = tmp_path / "own"
    folder.mkdir()
    put(folder, 1, 1.0)
    put(folder, 1, 3.0, name="n")
    return folder


@pytest.fixture
def home(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    def command(gateway: Gateway) -> list[str]:
        return [*UNPRIVILEGED, sys.executable, "-c", IMPATIENT, "gateway", "run", "-c", str(gateway.config)]

    monkeypatch.setattr(Gateway, "command", command)
    routes = (device_route(name, device, "data", deadline_ms=5000) for name, device in DEVICES.items())
    with site(tmp_path, own, *routes) as made:
        yield made


DEVICES = {"m": "door", "n": "hall"}


def said(home: Site) -> str:
    """What the status page says of versions that failed and of the store, a line each."""
    page = home.page()
    failed = [
        f"{v['name']}:{v['version']} {v['reason']}: {v['error']}" for v in page["models"] if v["reason"]
    ]
    return "\n".join([*failed, *page["problems"]])


def test_each_bad_version_is_named_and_nothing_else_notices(home: Site, own: Path) -> None:
    def answered() -> None:
        for name, device in DEVICES.items():
            result = home.ask(f"{device}/vib", b"[1, 2]", "data", content_type="application/json")
            assert (result["status"], result["model"]["name"], result["model"]["version"]) == ("ok", name, 1)

    answered()
    for bad in BAD.values():
        bad.drop(own)
    unsaid = dict(BAD)

    def all_said() -> bool:
        answered()
        lines = said(home)
        for what in [what for what, bad in unsaid.items() if re.search(bad.said, lines, re.MULTILINE)]:
            del unsaid[what]
        return not unsaid

    try:
        home.gateway.wait_for(all_said, "has not named each", timeout_s=40.0)
    finally:
        print("not named:", [*unsaid], "in", said(home))
    (own / "m-1.bundle").write_bytes(b"replaced in place")
    home.gateway.wait_for(lambda: "m-1.bundle" in said(home), "has not named what was replaced")
    answered()
    states = {(v["name"], v["version"]): v["state"] for v in home.page()["models"]}
    assert [which for which, state in states.items() if state == "available"] == [("m", 1), ("n", 1)]
    books = home.check_books()
    assert books["answered"] == books["received"] and home.gateway.get("/readyz")[0] == 200
