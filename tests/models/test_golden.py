"""Golden samples: answers are compared within their tolerance, and a model that gives others is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from penstock_models import golden
from penstock_models.bundle import Bundle, memory_bundle, open_bundle
from penstock_models.items import Answer, Class, Detection, OutputTensor, Refusal
from penstock_models.manifest import Golden
from penstock_models.pack import pack
from penstock_models.servable import Servable

from . import onnx_files as files
from .onnx_files import write


def boxes(*found: tuple[float, float, str]) -> Answer:
    return Answer(
        detections=tuple(Detection((x, 0.1, x + 0.4, 0.5), score, label) for x, score, label in found)
    )


def tensor(*values: float) -> Answer:
    return Answer(
        outputs={"y": OutputTensor("float32", (len(values),), np.array(values, np.float32).tobytes())}
    )


ONE_BOX = boxes((0.1, 0.9, "dog"), (0.5, 0.31, "cat"))
CLASSES = Answer(classes=(Class("a", 0, 0.9), Class("b", 1, 0.06)))
LONG = tensor(*range(100))
NOISE = np.random.default_rng(0).normal(size=(2, 128))
SMALL = tensor(*NOISE[0] / 16)  # a unit vector, as embeddings are

COMPARED: list[tuple[Answer, Answer | Refusal, str]] = [
    (ONE_BOX, ONE_BOX, ""),
    (ONE_BOX, boxes((0.11, 0.88, "dog")), ""),
    (ONE_BOX, boxes((0.1, 0.9, "cat")), "expected box dog"),
    (ONE_BOX, boxes((0.4, 0.9, "dog")), "expected box dog"),
    (ONE_BOX, boxes((0.1, 0.7, "dog")), "expected box dog"),
    (ONE_BOX, boxes(), "expected box dog"),
    (ONE_BOX, boxes((0.1, 0.9, "dog"), (0.5, 0.8, "dog")), "unexpected box dog"),
    (CLASSES, Answer(classes=(Class("a", 0, 0.88), Class("c", 2, 0.05))), ""),
    (CLASSES, Answer(classes=(Class("b", 1, 0.9), Class("a", 0, 0.06))), "class"),
    (CLASSES, Answer(classes=(Class("a", 0, float("nan")),)), "class 0"),
    (CLASSES, ONE_BOX, "another kind"),
    (CLASSES, Refusal("failed", "model_error", "boom"), "failed: model_error boom"),
    (tensor(1, 2), tensor(1.01, 2), ""),
    (tensor(1, 2), tensor(1.2, 2), "output y, 0"),
    (tensor(1, 2), tensor(1, 2, 3), "[3]"),
    (LONG, LONG, ""),
    (LONG, tensor(*range(0, 200, 2)), "output y, mean"),
    (LONG, Answer(outputs={}), "no output 'y'"),
    (LONG, tensor(*reversed(range(100))), "64 values are off"),
    (SMALL, tensor(*(NOISE[0] + NOISE[1] / 10) / 16), ""),
    (SMALL, tensor(*NOISE[0][::-1] / 16), "64 values are off"),
    (tensor(*[0.1] * 100), tensor(*[0.10005] * 100), ""),
]


@pytest.mark.parametrize(("expected", "found", "words"), COMPARED)
def test_answers_are_compared_within_tolerance(expected: Answer, found: Answer | Refusal, words: str) -> None:
    sample = Golden("golden/0", "x", golden.record(expected))
    json.dumps(sample.expected)  # plain data, as a manifest holds it
    wrong = golden.difference(sample, found, 0.3)
    assert (words in wrong) if words else wrong == ""


LOWEST: list[tuple[Answer, Answer, float, str]] = [
    (boxes((0.1, 0.39, "dog")), boxes(), 0.3, "expected box dog"),
    (boxes((0.1, 0.39, "dog")), boxes((0.1, 0.36, "dog")), 0.3, ""),
    (boxes((0.1, 0.34, "dog")), boxes(), 0.3, ""),
    (boxes((0.1, 0.39, "dog")), boxes(), 0.35, ""),
    (boxes(), boxes((0.1, 0.39, "dog")), 0.3, ""),
]


@pytest.mark.parametrize(("expected", "found", "lowest", "words"), LOWEST)
def test_an_expected_box_may_be_missing_only_at_the_lowest_score(
    expected: Answer, found: Answer, lowest: float, words: str
) -> None:
    wrong = golden.difference(Golden("golden/0", "x", golden.record(expected)), found, lowest)
    assert (words in wrong) if words else wrong == ""


def test_statistics_alone_are_still_read() -> None:
    """Bundles that were packed before single values of large outputs were stored."""
    plain = golden.record(LONG)
    plain["outputs"]["y"]["values"] = {"mean": 49.5, "std": 28.86607, "min": 0.0, "max": 99.0}
    assert golden.difference(Golden("golden/0", "x", plain), LONG) == ""


def with_model(bundle: Bundle, data: bytes) -> list[str]:
    """The golden problems of a bundle whose model file was replaced."""
    kept = {entry.path: bundle.read(entry.path) for entry in bundle.manifest.files}
    servable = Servable.open(memory_bundle(bundle.manifest, {**kept, "model.onnx": data}, bundle.path))
    try:
        return servable.golden()
    finally:
        servable.close()


def embedding(seed: int) -> bytes:
    """A random projection from 4 to 128 values."""
    weights = [files.weight("w", np.random.default_rng(seed).normal(size=(4, 128)) / 40)]
    ends = [files.tensor("x", ["n", 4])], [files.tensor("y", ["n", 128])]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    return bytes(files.model(nodes, *ends, weights).SerializeToString())


def test_another_embedding_is_refused(tmp_path: Path) -> None:
    given = write(tmp_path, np.array([0.5, -1, 2, 1], "<f4").tobytes(), "x.bin")
    made = open_bundle(pack(write(tmp_path, embedding(1)), tmp_path, golden=[given]))
    assert with_model(made, embedding(1)) == []
    assert "off by" in with_model(made, embedding(2))[0]


def test_a_detector_that_sees_nothing_is_refused(realdata: Path, tmp_path: Path) -> None:
    """Of a picture whose only box is not sure: 0.39 by the kit."""
    source = realdata / "models" / "light_weight_person_detector_192.onnx"
    picture = realdata / "images" / "pets.jpg"
    made = open_bundle(pack(source, tmp_path, preset="yolox", golden=[picture]))
    (sample,) = made.manifest.golden
    assert 0.35 < max(box["score"] for box in sample.expected["detections"]) < golden.SURE
    assert "expected box" in with_model(made, zeroed(source.read_bytes()))[0]


def zeroed(data: bytes) -> bytes:
    """The model with its first output times 0."""
    made = onnx.load_from_string(data)
    name = made.graph.output[0].name
    for node in made.graph.node:
        node.output[:] = ["whole" if output == name else output for output in node.output]
    made.graph.initializer.append(files.weight("nothing", 0.0))
    made.graph.node.append(helper.make_node("Mul", ["whole", "nothing"], [name]))
    return bytes(made.SerializeToString())


@pytest.mark.parametrize(
    "expected",
    [
        {},
        {"classes": [{"score": 1}]},
        {"classes": [3]},
        {"detections": [{"box": 1}]},
        {"outputs": {"y": 1}},
        {"outputs": {"y": {}}},
    ],
)
def test_a_malformed_expected_answer_is_a_difference(expected: dict[str, Any]) -> None:
    sample = Golden("golden/0", "x", expected)
    for found in (CLASSES, ONE_BOX, LONG):
        assert golden.difference(sample, found)
