"""Both recipes from end to end in a short form: train, quantize both ways, pack, open, answer, and do it again alike.

Needs the extra `[recipes]`; `make test-extras` makes its environment.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import keras
import msgspec
import numpy as np
import pytest
from keras import layers

import detector
import runs
import vibration
import yard_data
from export_onnx import float_onnx
from penstock_models.bundle import Bundle, open_bundle
from penstock_models.items import Answer, EncodedImage, Item
from penstock_models.servable import Servable
from penstock_sim.sources.scenes import LABELS, Scene
from quantized import Quantized
from tests.conftest import ROOT
from vibration_net import area_under_curve
from yard_loss import targets
from yard_net import Size
from yard_score import at_score, average_precisions

# TensorFlow's own converter warns; what it warns of is fixed by how it is called here.
pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
]

SMALL = detector.Plan(
    scenes=16,
    per_scene=8,
    epochs=3,
    batch=16,
    test_scenes=4,
    size=Size(width=96, height=80, channels=(8, 16, 24, 32), blocks=(1, 1, 1)),
)
MACHINES = vibration.Plan(machines=100, test_machines=12, test_windows=400)


def run(script: str, plan: msgspec.Struct, folder: Path) -> Bundle:
    """The recipe as a user starts it."""
    folder.mkdir()
    (folder / "plan.json").write_bytes(msgspec.json.encode(plan))
    options = ["--plan", str(folder / "plan.json"), "--out", str(folder)]
    command = [sys.executable, f"models/recipes/{script}.py", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return open_bundle(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def trained() -> keras.Model:
    runs.reproducible(SMALL.seed)
    return detector.train(SMALL)


@pytest.fixture(scope="module")
def models(trained: keras.Model) -> dict[str, bytes]:
    return detector.quantize(SMALL, trained)


@pytest.mark.parametrize("runtime", ["onnx", "tflite"])
def test_int8_agrees_with_float(runtime: str, trained: keras.Model, models: dict[str, bytes]) -> None:
    """Scores within 0.1 and box values within 0.2 of a cell for 99 % of the cells, 0.03 on average."""
    shown = yard_data.pictures(range(yard_data.TEST_SEEDS, yard_data.TEST_SEEDS + 4), 2, 96, 80)
    wanted = np.asarray(trained((shown.images / 255).astype(np.float32), training=False))
    off = abs(Quantized(models[f"yard.{runtime}"], runtime)(shown.images) - wanted)
    assert off.mean() < 0.03
    assert np.percentile(off[..., 4:], 99) < 0.1
    assert np.percentile(off[..., :4], 99) < 0.2


def test_the_detector_is_packed_answers_and_is_made_again_alike(
    trained: keras.Model, models: dict[str, bytes], tmp_path: Path
) -> None:
    again = run("detector", SMALL, tmp_path / "again")
    assert {v.runtime: again.read(v.file) for v in again.manifest.variants} == {
        "onnx": models["yard.onnx"],
        "tflite": models["yard.tflite"],
    }
    assert again.manifest.labels == LABELS
    assert again.manifest.metrics["test_pictures"] == 16
    servable = Servable.open(again)
    assert servable.golden() == []
    outcome = servable.run([Item(EncodedImage(yard_data.jpeg(Scene(5).frame(9).image)))])[0]
    assert isinstance(outcome, Answer)
    assert outcome.detections is not None
    servable.close()


def test_the_vibration_model_is_packed_and_tells_faults(tmp_path: Path) -> None:
    made = run("vibration", MACHINES, tmp_path / "made")
    metrics = made.manifest.metrics
    for way in ("float", "onnx_int8", "tflite_int8"):
        assert metrics[f"auc_{way}"] > 0.9
        assert metrics[f"auc_{way}"] == pytest.approx(metrics["auc_float"], abs=0.01)
        assert metrics[f"false_alarms_{way}"] < 0.02
    servable = Servable.open(made)
    assert servable.golden() == []
    servable.close()


def test_true_rows_score_full_marks() -> None:
    """The targets, read as predictions, are the truth again: assignment and decoding fit each other."""
    shown = yard_data.pictures(range(3), 4, 192, 144)
    rows = targets(shown.boxes, 192, 144, len(LABELS))
    by_picture = {picture.tobytes(): row for picture, row in zip(shown.images, rows, strict=True)}

    def oracle(images: np.ndarray) -> np.ndarray:
        return np.stack([by_picture[image.tobytes()] for image in images])

    precision, recall = at_score(oracle, shown, 0.5)
    assert precision == 1
    assert recall > 0.95  # a small box may lie wholly over a larger one's cells
    assert min(average_precisions(oracle, shown, len(LABELS))) > 0.9


def test_mirroring_twice_gives_the_pictures_back() -> None:
    shown = yard_data.pictures(range(2), 2, 96, 80)
    twice = yard_data.mirrored(yard_data.mirrored(shown))
    assert np.array_equal(twice.images, shown.images)
    assert np.allclose(twice.boxes, shown.boxes, atol=1e-6)


@pytest.mark.parametrize(
    ("scores", "faulty", "expected"),
    [([1, 2, 3, 4], [0, 0, 1, 1], 1.0), ([4, 3, 2, 1], [0, 0, 1, 1], 0.0), ([1, 1, 1, 1], [0, 1, 0, 1], 0.5)],
)
def test_area_under_curve(scores: list[float], faulty: list[int], expected: float) -> None:
    assert area_under_curve(np.array(scores, np.float32), np.array(faulty, bool)) == expected


def test_a_layer_without_an_onnx_form_is_named() -> None:
    source = keras.Input((4, 4, 1))
    model = keras.Model(source, layers.MaxPooling2D(name="pool")(source))
    with pytest.raises(TypeError, match="layer pool: MaxPooling2D has no ONNX form"):
        float_onnx(model)
