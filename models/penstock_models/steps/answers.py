"""Postprocess: a batch of output tensors to one answer an item, as the manifest's task and steps say.

Where a `window` step made several rows of an item, its answer aggregates them: the mean of the reconstruction errors
or class scores; raw outputs are stacked with the rows as first axis. Detections take one row an item.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from penstock_models.errors import BundleError
from penstock_models.items import Anomaly, Answer, Class, Detection, Outcome, OutputTensor, Refusal
from penstock_models.manifest import Manifest, TensorSpec
from penstock_models.runtimes.session import Array
from penstock_models.steps.boxes import Boxes, cell_count, decode_boxes, decode_yolox, suppress
from penstock_models.steps.pictures import WHOLE, Geometry
from penstock_models.steps.scores import finite_rows, softmax, squared_error, top_k
from penstock_models.steps.specs import (
    DecodeBoxes,
    DecodeYolox,
    Dequantize,
    Nms,
    ReconstructionError,
    Softmax,
    Threshold,
    TopK,
    Window,
)
from penstock_models.steps.values import dequantize, required_quantization

DEFAULT_CLASSES = 5


class Source(NamedTuple):
    """What one item was, as far as its answer tells."""

    rows: int = 1
    geometry: Geometry = WHOLE
    width: int = 0
    height: int = 0
    decode_ms: float = 0.0


PLAIN = Source()


class Ran(NamedTuple):
    """A batch that ran. `outputs` are (rows, …); `real` the float input rows, None where nobody asks for them."""

    outputs: dict[str, Array]
    sources: Sequence[Source]
    real: Callable[[], Array]
    row_ms: float


Task = Callable[[dict[str, Array], Ran], list[Answer]]


class WrongOutput(Exception):
    """The model's output does not have the shape that the manifest's steps read."""


class Postprocess:
    """The postprocess of one manifest. Thread-safe."""

    def __init__(self, manifest: Manifest, outputs: Sequence[TensorSpec], size: tuple[int, int]) -> None:
        """Choose the task's way.

        Args:
            outputs: the model's, without the carried states.
            size: width and height in pixels of the model's picture input, (0, 0) without one.

        Raises:
            BundleError: the steps do not fit the task or the outputs.
        """
        self._outputs = tuple(outputs)
        self._dequantized = any(isinstance(step, Dequantize) for step in manifest.postprocess)
        self._task = _task(manifest, self._outputs, size)

    def __call__(self, ran: Ran) -> list[Outcome]:
        """As many outcomes as sources, in order. NaN, infinity or a wrong shape is `failed: model_output`."""
        outputs = {spec.name: self._read(spec, ran.outputs[spec.name]) for spec in self._outputs}
        try:
            answers: list[Outcome] = [*self._task(outputs, ran)]
        except (WrongOutput, ValueError, IndexError) as error:
            return [Refusal("failed", "model_output", " ".join(str(error).split())[:200])] * len(ran.sources)
        bad = [finite for finite in map(finite_rows, ran.outputs.values()) if finite is not None]
        if bad:
            _refuse(answers, np.logical_and.reduce(bad), ran.sources)
        return answers

    def _read(self, spec: TensorSpec, values: Array) -> Array:
        if self._dequantized and values.dtype.kind in "iu" and spec.quantization is not None:
            return dequantize(values, spec.quantization)
        return values


def _refuse(answers: list[Outcome], finite: Array, sources: Sequence[Source]) -> None:
    row = 0
    for index, source in enumerate(sources):
        if not finite[row : row + source.rows].all():
            answers[index] = Refusal("failed", "model_output", "the model answered with NaN or infinity")
        row += source.rows


def _task(manifest: Manifest, outputs: tuple[TensorSpec, ...], size: tuple[int, int]) -> Task:
    if not outputs:
        raise BundleError(f"{manifest.name}: the model has no output beside its states")
    if any(isinstance(step, Dequantize) for step in manifest.postprocess):
        for spec in outputs:
            if not spec.dtype.startswith("float"):
                required_quantization(spec)
    match manifest.task:
        case "classification":
            return _classification(manifest, outputs[0].name)
        case "detection":
            return _detection(manifest, outputs, size)
        case "anomaly":
            return _anomaly(manifest, outputs[0].name)
        case "raw":
            return partial(_raw, any(isinstance(step, Window) for step in manifest.preprocess))


def _classification(manifest: Manifest, output: str) -> Task:
    k = next((s.k for s in manifest.postprocess if isinstance(s, TopK)), DEFAULT_CLASSES)
    soft = any(isinstance(s, Softmax) for s in manifest.postprocess)
    labels = manifest.labels

    def answers(outputs: dict[str, Array], ran: Ran) -> list[Answer]:
        values = outputs[output]
        values = values.reshape(len(values), -1)
        values = softmax(values) if soft else values
        found = []
        for (start, stop), source in zip(_spans(ran.sources), ran.sources, strict=True):
            row = values[start] if stop - start == 1 else values[start:stop].mean(axis=0)
            best = top_k(row, k)
            classes = tuple(
                Class(labels[i] if i < len(labels) else str(i), i, score)
                for i, score in zip(best.tolist(), row[best].astype(np.float64).tolist(), strict=True)
            )
            found.append(_answer(ran, source, classes=classes))
        return found

    return answers


def _detection(manifest: Manifest, outputs: tuple[TensorSpec, ...], size: tuple[int, int]) -> Task:
    decode = _decoder(manifest, outputs, size)
    nms = next((s for s in manifest.postprocess if isinstance(s, Nms)), None)
    labels = manifest.labels

    def answers(outputs: dict[str, Array], ran: Ran) -> list[Answer]:
        found = []
        for row, source in enumerate(ran.sources):
            if source.rows != 1:
                raise WrongOutput("detections need one row an item")
            boxes = decode(outputs, row)
            boxes = suppress(boxes, nms) if nms else boxes
            found.append(_answer(ran, source, detections=_detections(boxes, source.geometry, labels)))
        return found

    return answers


def _decoder(
    manifest: Manifest, outputs: tuple[TensorSpec, ...], size: tuple[int, int]
) -> Callable[[dict[str, Array], int], Boxes]:
    names = {spec.name for spec in outputs}
    for step in manifest.postprocess:
        if isinstance(step, DecodeYolox):
            return _yolox(step, outputs[0].name, size)
        if isinstance(step, DecodeBoxes):
            if missing := {step.scores, step.boxes} - names:
                raise BundleError(
                    f"decode_boxes reads {sorted(missing)[0]!r}; the model has {', '.join(names)}"
                )
            return partial(_read_boxes, step)
    raise BundleError(f"{manifest.name}: task detection needs a decode_yolox or decode_boxes step")


def _read_boxes(step: DecodeBoxes, outputs: dict[str, Array], row: int) -> Boxes:
    return decode_boxes(outputs[step.scores][row], outputs[step.boxes][row], step)


def _yolox(step: DecodeYolox, output: str, size: tuple[int, int]) -> Callable[[dict[str, Array], int], Boxes]:
    width, height = size
    cells = cell_count(width, height, step.strides)
    if not cells:
        raise BundleError("decode_yolox needs a picture input of a known size; add a resize step")

    def decode(outputs: dict[str, Array], row: int) -> Boxes:
        values = outputs[output][row]
        if values.ndim != 2 or values.shape[0] != cells or values.shape[1] < 6:
            raise WrongOutput(f"yolox output is {values.shape}, expected ({cells}, 5 + classes)")
        return decode_yolox(values, step, width, height)

    return decode


def _detections(boxes: Boxes, geometry: Geometry, labels: tuple[str, ...]) -> tuple[Detection, ...]:
    if not len(boxes.scores):
        return ()
    scale = np.array([geometry.ax, geometry.ay] * 2)
    shift = np.array([geometry.bx, geometry.by] * 2)
    placed = np.clip(boxes.xyxy * scale + shift, 0.0, 1.0).tolist()
    scores = boxes.scores.astype(np.float64).tolist()
    return tuple(
        Detection((box[0], box[1], box[2], box[3]), score, labels[c] if c < len(labels) else str(c))
        for box, score, c in zip(placed, scores, boxes.classes.tolist(), strict=True)
    )


def _anomaly(manifest: Manifest, output: str) -> Task:
    threshold = next((s.value for s in manifest.postprocess if isinstance(s, Threshold)), None)
    error = any(isinstance(s, ReconstructionError) for s in manifest.postprocess)

    def answers(outputs: dict[str, Array], ran: Ran) -> list[Answer]:
        values = outputs[output]
        if error:
            rows = squared_error(values, ran.real())
        elif values.size == len(values):
            rows = values.reshape(-1)
        else:
            raise WrongOutput(f"anomaly output is {values.shape[1:]}, expected one score a row")
        scores = _means(rows, ran.sources)
        return [
            _answer(ran, source, anomaly=Anomaly(score, threshold))
            for score, source in zip(scores, ran.sources, strict=True)
        ]

    return answers


def _means(rows: Array, sources: Sequence[Source]) -> list[float]:
    values: list[float] = rows.astype(np.float64).tolist()
    if len(values) == len(sources):
        return values
    return [sum(values[start:stop]) / (stop - start) for start, stop in _spans(sources)]


def _raw(stacked: bool, outputs: dict[str, Array], ran: Ran) -> list[Answer]:
    found = []
    for (start, stop), source in zip(_spans(ran.sources), ran.sources, strict=True):
        tensors = {}
        for name, values in outputs.items():
            part = np.asarray(values[start:stop] if stacked else values[start])
            tensors[name] = OutputTensor(part.dtype.name, part.shape, part.tobytes())
        found.append(_answer(ran, source, outputs=tensors))
    return found


def _spans(sources: Sequence[Source]) -> list[tuple[int, int]]:
    spans, start = [], 0
    for source in sources:
        spans.append((start, start + source.rows))
        start += source.rows
    return spans


def _answer(
    ran: Ran,
    source: Source,
    detections: tuple[Detection, ...] | None = None,
    classes: tuple[Class, ...] | None = None,
    anomaly: Anomaly | None = None,
    outputs: dict[str, OutputTensor] | None = None,
) -> Answer:
    infer_ms = ran.row_ms * source.rows
    return Answer(
        detections, classes, anomaly, outputs, source.decode_ms, infer_ms, source.width, source.height
    )
