"""The reference of every speed figure: the same decode, preprocess, run and post-process in a bare loop.

No broker, no queue, nothing of penstock: OpenCV, Pillow, NumPy and the runtime, one loop a core. Each recipe is
checked against the kit's measured answer before it is timed.

    python tests/bench/bare.py RECIPE KIT [--image FILE] [--seconds 3] [--threads 2]

prints {"items_per_s": …, "ms": …} as JSON. With `--cameras N --rate R` the frames come one by one, as from N cameras
of R frames a second, and it prints {"ms": …, "frames": [[due_s, answered_s], …]}: what the machine does when it is half idle.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"] = "16800000"

import cv2
import numpy as np
import simplejpeg  # type: ignore[import-untyped]
from arrivals import arrivals  # type: ignore[import-not-found]
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[Any]
Loop = Callable[[bytes], Any]

cv2.setNumThreads(0)


def onnx(path: Path, intra: int | None = 1) -> Callable[[Array], list[Array]]:
    """One session; `intra` None leaves ONNX Runtime's defaults."""
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if intra is not None:
        options.intra_op_num_threads = intra
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda batch: session.run(None, {name: batch})


def tflite(path: Path, threads: int | None = 1, batch: int = 1) -> Callable[[Array], Array]:
    """One interpreter; `threads` None leaves LiteRT's default."""
    from ai_edge_litert.interpreter import Interpreter  # type: ignore[import-untyped]

    interpreter = Interpreter(model_path=str(path), num_threads=threads)
    first = interpreter.get_input_details()[0]
    if batch > 1:
        interpreter.resize_tensor_input(first["index"], [batch, *first["shape"][1:]])
    interpreter.allocate_tensors()
    out = interpreter.get_output_details()[0]["index"]

    def run(values: Array) -> Array:
        interpreter.set_tensor(first["index"], values)
        interpreter.invoke()
        return interpreter.get_tensor(out)  # type: ignore[no-any-return]

    return run


def antialiased(jpeg: bytes, size: int) -> Array:
    """RGB uint8 (size, size, 3) by Pillow's antialiased BILINEAR, as the classifiers were trained."""
    rgb = simplejpeg.decode_jpeg(jpeg, colorspace="RGB")
    return np.asarray(Image.fromarray(rgb).resize((size, size), Image.Resampling.BILINEAR))


def best(scores: Array, k: int = 5) -> list[tuple[int, float]]:
    order = np.argsort(scores)[::-1][:k]
    return [(int(i), float(scores[i])) for i in order]


def mobilenet(kit: Path, threads: int | None = 1) -> Loop:
    """mobilenet_v2 int8 (TFLite): 224×224, raw uint8 in, 1001 classes of value / 256 out."""
    run = tflite(kit / "models/mobilenet_v2_1.0_224_quant.tflite", threads)
    return lambda jpeg: best(run(antialiased(jpeg, 224)[None])[0] * np.float32(1 / 256))


def vww(kit: Path, threads: int | None = 1) -> Loop:
    """vww int8 (QDQ ONNX): 96×96, pixel − 128 as int8 in, (v + 128) / 256 of two classes out."""
    run = onnx(kit / "models/derived/vww_96_int8.qdq.onnx", threads)

    def answer(jpeg: bytes) -> list[tuple[int, float]]:
        pixels = (antialiased(jpeg, 96).astype(np.int16) - 128).astype(np.int8)
        return best((run(pixels[None])[0][0].astype(np.float32) + 128) * np.float32(1 / 256), 2)

    return answer


def person(kit: Path, threads: int | None = 1) -> Loop:
    """The light person detector: letterbox to 192, BGR float32 NCHW in, YOLOX decode, score 0.3, NMS 0.45."""
    run = onnx(kit / "models/light_weight_person_detector_192.onnx", threads)
    grid, stride = _grid(192, (8, 16, 32))

    def answer(jpeg: bytes) -> list[tuple[list[float], float]]:
        picture = simplejpeg.decode_jpeg(jpeg, colorspace="BGR")
        height, width = picture.shape[:2]
        scale = min(192 / height, 192 / width)
        canvas = np.full((192, 192, 3), 114, np.uint8)
        small = cv2.resize(picture, (int(width * scale), int(height * scale)), interpolation=cv2.INTER_LINEAR)
        canvas[: small.shape[0], : small.shape[1]] = small
        rows = run(canvas.transpose(2, 0, 1)[None].astype(np.float32))[0][0]
        scores = rows[:, 4] * rows[:, 5]
        keep = scores >= 0.3
        xy = (rows[keep, :2] + grid[keep]) * stride[keep]
        wh = np.exp(rows[keep, 2:4]) * stride[keep]
        boxes = np.concatenate([xy - wh / 2, wh], axis=1) / scale
        kept = cv2.dnn.NMSBoxes(boxes.tolist(), scores[keep].tolist(), 0.3, 0.45)
        return [(boxes[i].tolist(), float(scores[keep][i])) for i in kept]

    return answer


def _grid(size: int, strides: tuple[int, ...]) -> tuple[Array, Array]:
    points, steps = [], []
    for stride in strides:
        n = size // stride
        x, y = np.meshgrid(np.arange(n), np.arange(n))
        points.append(np.stack([x, y], axis=-1).reshape(-1, 2))
        steps.append(np.full((n * n, 1), stride))
    return np.concatenate(points).astype(np.float32), np.concatenate(steps).astype(np.float32)


def anomaly(kit: Path, threads: int | None = 1, batch: int = 32) -> Loop:
    """ad01 int8 (TFLite) in batches: int8 windows in, mean squared difference of the dequantized values out."""
    run = tflite(kit / "models/ad01_int8.tflite", threads, batch)

    def answer(windows: bytes) -> Array:
        values = np.frombuffer(windows, np.int8).reshape(batch, 640)
        given = (values.astype(np.float32) - 89) * np.float32(0.3910152316093445)
        found = (run(values).astype(np.float32) - 96) * np.float32(0.36449846625328064)
        return np.asarray(np.mean(np.square(found - given), axis=1))

    return answer


RECIPES: dict[str, Callable[[Path], Loop]] = {
    "mobilenet": mobilenet,
    "vww": vww,
    "person": person,
    "anomaly": anomaly,
}


def check(recipe: str, kit: Path, loop: Loop) -> None:
    """Hold a recipe against the kit's measured answers."""
    expected = json.loads((kit / "expected.json").read_text())
    if recipe == "mobilenet":
        want = expected["mobilenet_v2_1.0_224_quant.tflite"]["top3"]["images/parrot.jpg"][0]
        index, score = loop((kit / "images/parrot.jpg").read_bytes())[0]
        assert index == want[0] and abs(score - want[2]) <= 0.06, (index, score, want)
    elif recipe == "vww":
        want = expected["vww_96_int8.tflite"]["output_int8"]["images/face.jpg"]
        scores = dict(loop((kit / "images/face.jpg").read_bytes()))
        assert abs(scores[1] * 256 - 128 - want[1]) <= 8, (scores, want)
    elif recipe == "person":
        want = expected["light_weight_person_detector_192.onnx"]["detections_score_ge_0_3"]["images/face.jpg"]
        found = sorted((score for _, score in loop((kit / "images/face.jpg").read_bytes())), reverse=True)
        assert len(found) == len(want), (found, want)
        assert all(abs(a - row[1]) <= 0.1 for a, row in zip(found, want, strict=True)), (found, want)
    else:
        _check_anomaly(kit, loop, expected["ad01_int8.tflite"]["reconstruction_mse"])


def _check_anomaly(kit: Path, loop: Loop, expected: dict[str, Any]) -> None:
    series = np.fromfile(kit / "sensor/ad01_logmel/yes_1000ms.bin", np.float32).reshape(-1, 128)
    floats = np.stack([series[i : i + 5].reshape(-1) for i in range(28)])
    values = np.clip(np.round(floats / 0.3910152316093445) + 89, -128, 127).astype(np.int8)
    padded = np.concatenate([values, np.zeros((4, 640), np.int8)])
    mean = float(np.mean(loop(padded.tobytes())[:28]))
    want = expected["sensor/ad01_logmel/yes_1000ms.bin"]["mean"]
    assert abs(mean - want) <= 0.02 * want + 1, (mean, want)


def timed(make: Callable[[], Loop], payload: bytes, seconds: float, threads: int) -> int:
    """Run one loop a thread over the same payload for so long; how many payloads were answered."""
    counts = [0] * threads
    loops = [make() for _ in range(threads)]
    for loop in loops:
        loop(payload)
    end = time.perf_counter() + seconds

    def work(n: int) -> None:
        while time.perf_counter() < end:
            loops[n](payload)
            counts[n] += 1

    workers = [threading.Thread(target=work, args=(n,)) for n in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(counts)


def paced(
    make: Callable[[], Loop], payload: bytes, due: Sequence[float], threads: int
) -> tuple[float, list[tuple[float, float]]]:
    """Answer a payload at each moment of `due` (seconds from now).

    Returns:
        The median time of a call in ms, and when each payload was due and was answered, in seconds.
    """
    todo: queue.SimpleQueue[float | None] = queue.SimpleQueue()
    calls_ms: list[float] = []
    frames: list[tuple[float, float]] = []

    def work(loop: Loop) -> None:
        while (came := todo.get()) is not None:
            began = time.perf_counter()
            loop(payload)
            ended = time.perf_counter()
            calls_ms.append((ended - began) * 1e3)
            frames.append((came, ended))

    loops = [make() for _ in range(threads)]
    for loop in loops:
        loop(payload)
    workers = [threading.Thread(target=work, args=(loop,)) for loop in loops]
    for worker in workers:
        worker.start()
    start = time.perf_counter()
    for moment in due:
        time.sleep(max(0.0, start + moment - time.perf_counter()))
        todo.put(start + moment)
    for _ in workers:
        todo.put(None)
    for worker in workers:
        worker.join()
    return statistics.median(calls_ms), sorted(frames)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", choices=RECIPES)
    parser.add_argument("kit", type=Path)
    parser.add_argument("--image", type=Path)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--cameras", type=int, default=0)
    parser.add_argument("--rate", type=float, default=0.0, help="frames per second of one camera")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    check(options.recipe, options.kit, RECIPES[options.recipe](options.kit))
    batch = 32 if options.recipe == "anomaly" else 1
    payload = options.image.read_bytes() if options.image else os.urandom(640 * batch)

    def make() -> Loop:
        return RECIPES[options.recipe](options.kit)

    if options.cameras:
        planned = arrivals(options.cameras, 1 / options.rate, options.seconds, options.seed)
        due = [moment for moment, _ in planned]
        ms, frames = paced(make, payload, due, options.threads)
        print(json.dumps({"ms": ms, "frames": frames}))
        return
    n = timed(make, payload, options.seconds, options.threads) * batch
    ms = 1e3 * options.seconds * options.threads / max(n, 1)
    print(json.dumps({"items_per_s": n / options.seconds, "ms": ms}))


if __name__ == "__main__":
    main()
