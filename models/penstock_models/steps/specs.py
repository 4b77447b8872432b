"""The steps of a manifest as data: what may stand in `preprocess` and `postprocess`, with every parameter.

A step is a tagged struct (`op = "resize"`), strict: an unknown key is an error that names it. What a step does lives
beside this module; nothing here imports NumPy or a codec.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Filter = Literal["linear", "area", "antialias"]


class _Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="op"):
    pass


# --- preprocess: one picture or one window -> one input tensor -----------------------------------------------------


class Resize(_Step, frozen=True, tag="resize"):
    """Bring a picture to width × height pixels.

    `letterbox` keeps the ratio and fills the rest with `pad` (placed at `anchor`), `crop` keeps the ratio and cuts the
    middle, `stretch` ignores the ratio. `linear` is OpenCV's bilinear (~0.05 ms for 640×480), `area` OpenCV's area,
    `antialias` equals Pillow's BILINEAR within one step (~3 ms).
    """

    width: int
    height: int
    mode: Literal["stretch", "letterbox", "crop"] = "stretch"
    filter: Filter = "linear"
    pad: int = 114
    anchor: Literal["top_left", "center"] = "top_left"


class Color(_Step, frozen=True, tag="color"):
    """Channel order of the picture that the model was trained on."""

    order: Literal["rgb", "bgr", "gray"] = "rgb"


class Normalize(_Step, frozen=True, tag="normalize"):
    """float32: (x · scale − mean) / std; `mean` and `std` one value or one a channel (last axis of a picture)."""

    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)


class Layout(_Step, frozen=True, tag="layout"):
    order: Literal["nhwc", "nchw"] = "nhwc"


class Cast(_Step, frozen=True, tag="cast"):
    """Change the dtype (NumPy name). `offset` is added first, what is beyond the dtype saturates: pixel − 128 as int8 is offset −128, dtype int8."""

    dtype: str
    offset: int = 0


class Quantize(_Step, frozen=True, tag="quantize"):
    """round(x / scale) + zero_point with the model input's own parameters, clipped to its dtype."""


class Reshape(_Step, frozen=True, tag="reshape"):
    """Shape of one item without the batch axis."""

    shape: tuple[int, ...]


class Window(_Step, frozen=True, tag="window"):
    """Cut a series (rows on axis 0) into windows of `size` rows every `stride` rows; the windows become a batch."""

    size: int
    stride: int


class Context(_Step, frozen=True, tag="context"):
    """Prepend the last `samples` of this stream's previous item (zeros at its start); carried per stream."""

    samples: int


# --- postprocess: output tensors -> answer -------------------------------------------------------------------------


class Dequantize(_Step, frozen=True, tag="dequantize"):
    """(q − zero_point) · scale with the model output's own parameters; float outputs pass unchanged."""


class Softmax(_Step, frozen=True, tag="softmax"):
    pass


class TopK(_Step, frozen=True, tag="topk"):
    k: int = 5


class DecodeYolox(_Step, frozen=True, tag="decode_yolox"):
    """Grids of `strides`: xy = (v + grid)·stride, wh = exp(v)·stride; score = objectness × class, kept at ≥ `score`."""

    score: float = 0.3
    strides: tuple[int, ...] = (8, 16, 32)


class DecodeBoxes(_Step, frozen=True, tag="decode_boxes"):
    """Outputs `scores` [n, classes] (class 0 is background) and `boxes` [n, 4] as x0,y0,x1,y1 in 0..1, kept at > `score`."""

    scores: str = "scores"
    boxes: str = "boxes"
    score: float = 0.7


class Nms(_Step, frozen=True, tag="nms"):
    """Greedy non-maximum suppression above `iou`, within a class unless `across_classes`."""

    iou: float = 0.45
    across_classes: bool = False


class ReconstructionError(_Step, frozen=True, tag="reconstruction_error"):
    """Mean squared difference between the (dequantized) output and the float input; the mean over an item's windows."""


class Threshold(_Step, frozen=True, tag="threshold"):
    """States the anomaly threshold in the answer; a score above it is an anomaly."""

    value: float


Preprocess = Resize | Color | Normalize | Layout | Cast | Quantize | Reshape | Window | Context
Postprocess = Dequantize | Softmax | TopK | DecodeYolox | DecodeBoxes | Nms | ReconstructionError | Threshold
