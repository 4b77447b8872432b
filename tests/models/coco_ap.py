"""COCO average precision (0.50:0.95, all areas, at most 100 boxes a picture), small and plain."""

from typing import Any

import numpy as np

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
MAX_BOXES = 100

Box = tuple[str, float, list[float]]


def average_precision(
    annotations: list[dict[str, Any]], names: dict[int, str], found: dict[int, list[Box]]
) -> tuple[float, float]:
    """AP and AP50 over the categories that the annotations have; `found` by picture id, boxes x0, y0, x1, y1."""
    best = {picture: sorted(boxes, key=lambda b: -b[1])[:MAX_BOXES] for picture, boxes in found.items()}
    curves = []
    for category in sorted({a["category_id"] for a in annotations}):
        own = [a for a in annotations if a["category_id"] == category]
        if any(not a["iscrowd"] for a in own):
            curves.append(_of_category(own, names[category], best))
    table = np.array(curves)  # (categories, thresholds)
    return float(table.mean()), float(table[:, 0].mean())


def _of_category(annotations: list[dict[str, Any]], label: str, found: dict[int, list[Box]]) -> list[float]:
    positives = sum(not a["iscrowd"] for a in annotations)
    marks: list[tuple[float, list[int]]] = []
    for picture, boxes in found.items():
        truth = [a for a in annotations if a["image_id"] == picture]
        marks += _match(truth, [(score, box) for name, score, box in boxes if name == label])
    marks.sort(key=lambda mark: -mark[0])
    flags = np.array([flags for _, flags in marks]).reshape(len(marks), len(THRESHOLDS))
    return [_area(flags[:, t], positives) for t in range(len(THRESHOLDS))]


def _match(
    truth: list[dict[str, Any]], boxes: list[tuple[float, list[float]]]
) -> list[tuple[float, list[int]]]:
    """For each box and threshold: 1 a hit, 0 a miss, −1 to be ignored (it lies in a crowd)."""
    taken: list[set[int]] = [set() for _ in THRESHOLDS]
    marks = []
    for score, box in boxes:
        flags = []
        for t, threshold in enumerate(THRESHOLDS):
            overlaps = [(_overlap(box, a), not a["iscrowd"], i) for i, a in enumerate(truth)]
            open_ = [o for o in overlaps if o[0] >= threshold and (not o[1] or o[2] not in taken[t])]
            choice = max(open_, key=lambda o: (o[1], o[0]), default=None)
            if choice and choice[1]:
                taken[t].add(choice[2])
            flags.append(0 if choice is None else 1 if choice[1] else -1)
        marks.append((score, flags))
    return marks


def _overlap(box: list[float], annotation: dict[str, Any]) -> float:
    x, y, w, h = annotation["bbox"]
    across = max(0.0, min(box[2], x + w) - max(box[0], x))
    down = max(0.0, min(box[3], y + h) - max(box[1], y))
    own = (box[2] - box[0]) * (box[3] - box[1])
    return float(across * down / (own if annotation["iscrowd"] else own + w * h - across * down))


def _area(flags: np.ndarray[Any, Any], positives: int) -> float:
    counted = flags[flags >= 0]
    hits = np.cumsum(counted)
    recall = hits / positives
    precision = hits / np.arange(1, len(counted) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, RECALLS, side="left")
    return float(np.mean([envelope[i] if i < len(envelope) else 0.0 for i in at]))
