"""Fit, quantize and pack the vibration model: `python models/recipes/vibration.py --out models/penstock_models/demo`."""

from __future__ import annotations

import argparse
import io
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

import runs
from export_onnx import int8_onnx
from export_tflite import int8_tflite
from packing import pack_variants
from penstock_models.model_toml import BudgetTable, GoldenTable, ModelToml
from penstock_models.steps import specs
from penstock_sim.sources.signals import FAULTS, RATE_HZ, SIZE, Vibration
from quantized import Quantized
from vibration_net import area_under_curve, build, errors, fit

TEST_SEEDS = 1_000_000
GOLDEN_SEEDS = 2_000_000
_HEALTHY_WINDOWS = 40  # the first of every signal, before any fault can begin
_QUANTILE = 99.5  # per cent of healthy windows below the threshold

Floats = NDArray[np.float32]


class Plan(msgspec.Struct, frozen=True):
    """How much to fit on: the figures of the committed bundle, unless said otherwise."""

    seed: int = 1
    machines: int = 500
    per_machine: int = 20
    test_machines: int = 60
    test_windows: int = 800
    code: int = 64


def make(plan: Plan, out: Path) -> Path:
    """The whole recipe: fit, quantize twice, set the threshold, measure on unseen machines, pack."""
    runs.reproducible(plan.seed)
    shown = healthy(range(plan.machines), plan.per_machine)
    model = build(SIZE, plan.code)
    fit(model, shown)
    models = {
        "vibration.onnx": int8_onnx(model, shown[::20], float_tail=False),
        "vibration.tflite": int8_tflite(model, shown[::20], "int8"),
    }
    onnx, tflite = (
        Quantized(models["vibration.onnx"], "onnx"),
        Quantized(models["vibration.tflite"], "tflite"),
    )
    held_out = healthy(range(plan.machines, plan.machines + plan.machines // 4), plan.per_machine)
    threshold = float(np.percentile(errors(held_out, onnx(held_out)), _QUANTILE))
    windows, kinds = unseen(plan)
    metrics = {"test_windows": float(len(windows))}
    rebuilt = {
        "float": np.asarray(model(windows)),
        "onnx_int8": onnx(windows),
        "tflite_int8": tflite(windows),
    }
    for name, values in rebuilt.items():
        metrics |= figures(name, errors(windows, values), kinds, threshold)
    return pack_variants(_toml(plan, metrics, threshold), models, _candidates(), 4, out)


def healthy(seeds: range, per_machine: int) -> Floats:
    """Windows without a fault: float32 (n, SIZE)."""
    step = max(1, _HEALTHY_WINDOWS // per_machine)
    machines = (Vibration(seed) for seed in seeds)
    return np.stack([v.window(n)[0] for v in machines for n in range(0, per_machine * step, step)])


def unseen(plan: Plan) -> tuple[Floats, NDArray[np.str_]]:
    """Windows of machines that fitting never saw, and the fault in each, `""` for none."""
    windows, kinds = [], []
    for seed in range(TEST_SEEDS, TEST_SEEDS + plan.test_machines):
        machine = Vibration(seed)
        for n in range(0, plan.test_windows, 5):
            samples, faulty = machine.window(n)
            episode = machine.episode(n)
            windows.append(samples)
            kinds.append(episode.fault if faulty and episode else "")
    return np.stack(windows), np.array(kinds)


def figures(name: str, scores: Floats, kinds: NDArray[np.str_], threshold: float) -> dict[str, float]:
    """Area under the curve, false alarms among healthy windows, and what is found of every fault, at the threshold."""
    found = {
        f"auc_{name}": area_under_curve(scores, kinds != ""),
        f"false_alarms_{name}": float(np.mean(scores[kinds == ""] > threshold)),
    }
    found |= {f"found_{name}_{fault}": float(np.mean(scores[kinds == fault] > threshold)) for fault in FAULTS}
    print(
        f"{name}: AUC {found[f'auc_{name}']:.3f}, false alarms {found[f'false_alarms_{name}']:.4f}",
        flush=True,
    )
    return {key: round(value, 4) for key, value in found.items()}


def _candidates() -> dict[str, bytes]:
    """Inputs for golden samples: by turns a healthy and a faulty window of an unseen machine."""
    chosen = {}
    for index in range(8):
        machine = Vibration(GOLDEN_SEEDS + index)
        wanted = bool(index % 2)
        samples = next(w for w, faulty in map(machine.window, range(4000)) if faulty == wanted)
        file = io.BytesIO()
        np.save(file, samples)
        chosen[f"{index}.npy"] = file.getvalue()
    return chosen


def _toml(plan: Plan, metrics: dict[str, float], threshold: float) -> ModelToml:
    return ModelToml(
        file="vibration.onnx",
        name="vibration",
        preprocess=(specs.Quantize(),),
        postprocess=(specs.Dequantize(), specs.ReconstructionError(), specs.Threshold(round(threshold, 6))),
        golden=GoldenTable(tolerance=0.0015),
        budget=BudgetTable(p95_ms=2.0, rss_mb=30.0),
        metrics=metrics,
        data_date=datetime.now(UTC).date().isoformat(),
        provenance={
            "recipe": "models/recipes/vibration.py",
            "plan": msgspec.json.encode(plan).decode(),
            "signal": f"{SIZE} samples at {RATE_HZ:g} Hz, g",
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
