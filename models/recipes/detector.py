"""Train, quantize and pack the yard detector: `python models/recipes/detector.py --out models/penstock_models/demo`."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path

import keras
import msgspec
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

import runs
import yard_data
from export_onnx import int8_onnx
from export_tflite import int8_tflite
from packing import pack_variants
from penstock_models.model_toml import BudgetTable, GoldenTable, ModelToml
from penstock_models.steps import specs
from penstock_sim.sources.scenes import LABELS, Scene
from quantized import Quantized
from yard_data import TEST_SEEDS, Pictures
from yard_loss import loss, targets
from yard_net import STRIDES, Size, build
from yard_score import Predict, at_score, average_precisions

GOLDEN_SEEDS = 2_000_000  # unseen in training and in testing
SCORE = 0.4  # detections below are not shown


class Plan(msgspec.Struct, frozen=True):
    """How much to train: the figures of the committed bundle, unless said otherwise."""

    seed: int = 1
    scenes: int = 600
    per_scene: int = 8
    epochs: int = 16
    batch: int = 32
    peak_rate: float = 2e-3
    test_scenes: int = 200
    size: Size = Size()


def make(plan: Plan, out: Path) -> Path:
    """The whole recipe: render, train, quantize twice, measure on unseen scenes, pack. Returns the bundle's path."""
    runs.reproducible(plan.seed)
    return finish(plan, train(plan), out)


def finish(plan: Plan, model: keras.Model, out: Path) -> Path:
    """What follows the training: quantize, measure, pack."""
    models = quantize(plan, model)
    candidates = {f"{n}.jpg": yard_data.jpeg(Scene(GOLDEN_SEEDS + n).frame(300 * n).image) for n in range(16)}
    return pack_variants(_toml(plan, measure(plan, model, models)), models, candidates, 4, out)


def quantize(plan: Plan, model: keras.Model) -> dict[str, bytes]:
    """The int8 files by name, calibrated on pictures of the training scenes."""
    calibration = _pictures(plan, range(0, plan.scenes, max(1, plan.scenes // 100)), 2)
    samples = (calibration.images / 255).astype(np.float32)
    return {
        "yard.onnx": int8_onnx(model, samples, float_tail=True),
        "yard.tflite": int8_tflite(model, samples, "uint8"),
    }


def train(plan: Plan) -> keras.Model:
    """A trained network; prints a line an epoch."""
    size = plan.size
    shown = _pictures(plan, range(plan.scenes), plan.per_scene)
    wanted = [
        targets(p.boxes, size.width, size.height, len(LABELS)) for p in (shown, yard_data.mirrored(shown))
    ]
    model = build(size, len(LABELS))
    steps = plan.epochs * (len(shown.images) // plan.batch)
    rate = keras.optimizers.schedules.CosineDecay(
        plan.peak_rate / 100, steps, warmup_target=plan.peak_rate, warmup_steps=steps // 20
    )
    optimizer = keras.optimizers.AdamW(rate, weight_decay=1e-3, clipnorm=10.0)
    optimizer.build(model.trainable_variables)

    @tf.function
    def step(images: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            value = loss(rows, model(tf.cast(images, tf.float32) / 255, training=True))
        optimizer.apply(tape.gradient(value, model.trainable_variables), model.trainable_variables)
        return value

    rng = np.random.default_rng(plan.seed)
    for epoch in range(plan.epochs):
        order = rng.permutation(len(shown.images))[: steps // plan.epochs * plan.batch]
        costs = []
        for chosen in order.reshape(-1, plan.batch):
            flip = int(rng.integers(2))
            images = shown.images[chosen][:, :, :: 1 - 2 * flip]
            costs.append(float(step(np.ascontiguousarray(images), wanted[flip][chosen])))
        print(f"epoch {epoch + 1}/{plan.epochs}: loss {np.mean(costs):.3f}", flush=True)
    return model


def measure(plan: Plan, model: keras.Model, models: dict[str, bytes]) -> dict[str, float]:
    """Quality of the float model and of both files on scenes that training never saw.

    `ap50_WAY` is the mean over the classes, `ap50_WAY_LABEL` one class; precision and recall are at the score that the
    bundle shows from.
    """
    test = _pictures(plan, range(TEST_SEEDS, TEST_SEEDS + plan.test_scenes), 4)
    forward = tf.function(lambda images: model(tf.cast(images, tf.float32) / 255, training=False))

    def whole(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.asarray(forward(images).numpy(), np.float32)

    ways: dict[str, Predict] = {
        "float": whole,
        "onnx_int8": Quantized(models["yard.onnx"], "onnx"),
        "tflite_int8": Quantized(models["yard.tflite"], "tflite"),
    }
    metrics = {"test_pictures": float(len(test.images))}
    for name, predict in ways.items():
        found = average_precisions(predict, test, len(LABELS))
        metrics[f"ap50_{name}"] = round(float(np.mean(found)), 4)
        metrics |= {f"ap50_{name}_{label}": round(ap, 4) for label, ap in zip(LABELS, found, strict=True)}
        precision, recall = at_score(predict, test, SCORE)
        metrics |= {f"precision_{name}": round(precision, 4), f"recall_{name}": round(recall, 4)}
        print(f"{name}: AP50 {metrics[f'ap50_{name}']:.3f}", flush=True)
    return metrics


def _pictures(plan: Plan, seeds: range, per_scene: int) -> Pictures:
    return yard_data.pictures(seeds, per_scene, plan.size.width, plan.size.height)


def _toml(plan: Plan, metrics: dict[str, float]) -> ModelToml:
    return ModelToml(
        file="yard.onnx",
        name="yard",
        labels=LABELS,
        preprocess=(specs.Resize(plan.size.width, plan.size.height), specs.Color("rgb")),
        postprocess=(
            specs.Dequantize(),
            specs.DecodeYolox(score=SCORE, strides=STRIDES),
            specs.Nms(iou=0.45),
        ),
        golden=GoldenTable(tolerance=0.12),
        budget=BudgetTable(p95_ms=15.0, rss_mb=60.0),
        metrics=metrics,
        data_date=datetime.now(UTC).date().isoformat(),
        provenance={
            "recipe": "models/recipes/detector.py",
            "plan": msgspec.json.encode(plan).decode(),
            **runs.versions(),
        },
        licence="Apache-2.0",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="a .bundle path or a folder")
    parser.add_argument(
        "--plan", type=Path, help="a JSON file with keys of Plan, such as a bundle's provenance holds"
    )
    given = parser.parse_args()
    plan = msgspec.json.decode(given.plan.read_bytes(), type=Plan) if given.plan else Plan()
    print(make(plan, given.out))


if __name__ == "__main__":
    main()
