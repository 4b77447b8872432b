"""The committed demo bundles: whole, small, right on both runtimes, and as good on unseen scenes as they say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

import penstock_models
from penstock_models.bundle import Bundle, memory_bundle, open_bundle
from penstock_models.items import Detection, EncodedImage, Item, Outcome, Tensor
from penstock_models.servable import Servable
from penstock_sim.sources import Box
from penstock_sim.sources.scenes import LABELS, Scene
from penstock_sim.sources.signals import Vibration

FOLDER = Path(penstock_models.__file__).parent / "demo"
NAMES = ("yard", "vibration")
RUNTIMES = ("onnx", "tflite")
UNSEEN = 4_000_000  # no recipe, no demo and no golden sample uses a seed from here on

Opened = Callable[[str, str], Servable]


def bundle(name: str) -> Bundle:
    return open_bundle(FOLDER / f"{name}-1.bundle")


@pytest.fixture(scope="module")
def opened() -> Iterator[Opened]:
    """One variant of a bundle, loaded once."""
    loaded: dict[tuple[str, str], Servable] = {}

    def of(name: str, runtime: str) -> Servable:
        if (name, runtime) not in loaded:
            loaded[name, runtime] = Servable.open(only(bundle(name), runtime))
        return loaded[name, runtime]

    yield of
    for servable in loaded.values():
        servable.close()


def only(whole: Bundle, runtime: str) -> Bundle:
    """The bundle with one of its variants."""
    manifest = whole.manifest
    variants = tuple(v for v in manifest.variants if v.runtime == runtime)
    names = [v.file for v in variants] + [g.file for g in manifest.golden]
    files = {name: whole.read(name) for name in names}
    return memory_bundle(msgspec.structs.replace(manifest, variants=variants), files, whole.path)


@pytest.mark.parametrize("name", NAMES)
def test_a_bundle_is_small_ours_and_says_where_it_comes_from(name: str) -> None:
    whole = bundle(name)
    manifest = whole.manifest
    assert whole.path.stat().st_size < 2_000_000
    assert (manifest.name, manifest.version, manifest.licence) == (name, 1, "Apache-2.0")
    assert [(v.runtime, v.precision) for v in manifest.variants] == [("onnx", "int8"), ("tflite", "int8")]
    assert len(manifest.golden) == 4
    assert manifest.data_date is not None
    assert manifest.budget.p95_ms is not None
    assert {"recipe", "plan", "tensorflow-cpu", "onnxruntime"} <= manifest.provenance.keys()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_golden_samples_hold_on_both_variants(name: str, runtime: str, opened: Opened) -> None:
    assert opened(name, runtime).golden() == []


def test_golden_samples_are_worth_something() -> None:
    """They hold sure boxes, and windows on both sides of the threshold."""
    boxes = [box for g in bundle("yard").manifest.golden for box in g.expected["detections"]]
    assert sum(box["score"] > 0.65 for box in boxes) >= 4
    anomalies = [g.expected["anomaly"] for g in bundle("vibration").manifest.golden]
    assert {a["score"] > a["threshold"] for a in anomalies} == {True, False}


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_yard_is_seen_as_well_as_the_manifest_says(runtime: str, opened: Opened) -> None:
    servable = opened("yard", runtime)
    right = shown = wanted = 0
    for seed in range(UNSEEN, UNSEEN + 40):
        frame = Scene(seed).frame(seed % 5000)
        found = detections(servable.run([Item(EncodedImage(jpeg(frame.image)))])[0])
        shown, wanted = shown + len(found), wanted + len(frame.boxes)
        right += sum(any(same(box, d) for d in found) for box in frame.boxes)
    metrics = bundle("yard").manifest.metrics
    assert right / shown == pytest.approx(metrics[f"precision_{runtime}_int8"], abs=0.08)
    assert right / wanted == pytest.approx(metrics[f"recall_{runtime}_int8"], abs=0.08)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_faults_are_found_as_often_as_the_manifest_says(runtime: str, opened: Opened) -> None:
    servable = opened("vibration", runtime)
    machines = [Vibration(seed) for seed in range(UNSEEN, UNSEEN + 30)]
    windows = [machine.window(n) for machine in machines for n in range(0, 400, 7)]
    items = [Item(Tensor(samples.tobytes(), "float32", samples.shape)) for samples, _ in windows]
    alarms = np.array([alarm(outcome) for outcome in servable.run(items)])
    faulty = np.array([truth for _, truth in windows])
    metrics = bundle("vibration").manifest.metrics
    stated = np.mean([v for key, v in metrics.items() if key.startswith(f"found_{runtime}_int8")])
    assert alarms[faulty].mean() == pytest.approx(stated, abs=0.1)
    assert alarms[~faulty].mean() <= metrics[f"false_alarms_{runtime}_int8"] + 0.005


def jpeg(image: np.ndarray) -> bytes:
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 85])
    assert done
    return data.tobytes()


def detections(outcome: Outcome) -> tuple[Detection, ...]:
    found = getattr(outcome, "detections", None)
    assert found is not None, outcome
    assert {d.label for d in found} <= set(LABELS)
    return tuple(found)


def same(box: Box, found: Detection) -> bool:
    """The same label, overlapping by half or more."""
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = box.box, found.box
    shared = max(0.0, min(ax1, bx1) - max(ax0, bx0)) * max(0.0, min(ay1, by1) - max(ay0, by0))
    union = (ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - shared
    return box.label == found.label and shared >= 0.5 * union


def alarm(outcome: Outcome) -> bool:
    anomaly = getattr(outcome, "anomaly", None)
    assert anomaly is not None, outcome
    return bool(anomaly.score > anomaly.threshold)
