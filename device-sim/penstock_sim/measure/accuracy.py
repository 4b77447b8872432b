"""Answers against what is true: things found in pictures, anomalies in windows. Pure.

Detections are matched greedily, the surest first, each to the unmatched true box of its label that it overlaps most; a
match needs an intersection over union of 0.5 (PASCAL VOC's rule, Everingham et al., IJCV 88, 2010, section 4.2).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from penstock_models.items import Anomaly, Detection
from penstock_sim.sources import Box, Truth

IOU = 0.5

Corners = tuple[float, float, float, float]


class Score(msgspec.Struct):
    """Counts over frames: `right` are true things or anomalies that were found, `false` what was found and is not there,
    `missed` what is there and was not found, `quiet` healthy windows that were called so."""

    frames: int = 0
    right: int = 0
    false: int = 0
    missed: int = 0
    quiet: int = 0

    @property
    def precision(self) -> float | None:
        """The part of what was found that is true; None where nothing was found."""
        found = self.right + self.false
        return self.right / found if found else None

    @property
    def recall(self) -> float | None:
        """The part of what is true that was found; None where there was nothing."""
        there = self.right + self.missed
        return self.right / there if there else None

    def add(self, other: Score) -> None:
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def judge(self, truth: Truth, detections: Sequence[Detection] | None, anomaly: Anomaly | None) -> None:
        """Count one answer; one without what the truth speaks of is all missed."""
        self.frames += 1
        if isinstance(truth, bool):
            self._judge_anomaly(truth, anomaly)
            return
        found = matched(truth, detections or ())
        self.right += found
        self.false += len(detections or ()) - found
        self.missed += len(truth) - found

    def _judge_anomaly(self, truth: bool, anomaly: Anomaly | None) -> None:
        alarm = anomaly is not None and anomaly.threshold is not None and anomaly.score > anomaly.threshold
        self.right += truth and alarm
        self.missed += truth and not alarm
        self.false += alarm and not truth
        self.quiet += not alarm and not truth


def matched(truth: Sequence[Box], detections: Sequence[Detection]) -> int:
    """How many detections match a true box of their own."""
    left = list(truth)
    for found in sorted(detections, key=lambda d: -d.score):
        rivals = [(iou(found.box, true.box), n) for n, true in enumerate(left) if true.label == found.label]
        if rivals and (best := max(rivals))[0] >= IOU:
            left.pop(best[1])
    return len(truth) - len(left)


def iou(a: Corners, b: Corners) -> float:
    """Intersection over union of two boxes [x0, y0, x1, y1]."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)
