"""From items to model rows: chooses the way of each payload, and joins a batch of plain tensors in one piece.

What a step does is `steps`' business; what is run, `servable`'s.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from penstock_models.errors import BundleError
from penstock_models.images import decode_image
from penstock_models.items import Box, EncodedImage, Item, JsonValues, Named, Payload, Tensor
from penstock_models.manifest import Manifest, TensorSpec
from penstock_models.opencv import cv2
from penstock_models.payloads import dtype_of, numbers_of, require_finite
from penstock_models.rejection import Rejection
from penstock_models.runtimes.session import Array
from penstock_models.steps.answers import Source
from penstock_models.steps.pictures import PicturePlan
from penstock_models.steps.series import SeriesPlan, Shape
from penstock_models.steps.specs import Color, Resize

_CHANNELS = {1: cv2.COLOR_GRAY2BGR, 3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGR}


Pictures = dict[int, Array]


class Fed(NamedTuple):
    """One or more items, ready to run: `rows` by input, each (rows, …); `real` as in `SeriesRows`."""

    rows: dict[str, Array]
    real: Array | None
    source: Source
    context: Array | None = None


class Feeder:
    """The way in of one manifest. Thread-safe."""

    def __init__(
        self, manifest: Manifest, inputs: Sequence[TensorSpec], *, batched: bool, max_pixels: int
    ) -> None:
        """Plan every input that frames feed.

        Args:
            inputs: without constants and states. The preprocess steps are the first one's; others take ready tensors.
            batched: whether the first axis of the inputs is the batch's.

        Raises:
            BundleError: the steps do not fit the inputs.
        """
        if not inputs:
            raise BundleError(f"{manifest.name}: the model has no input that a frame could feed")
        self.main = inputs[0]
        self._max_pixels = max_pixels
        shapes = {spec.name: spec.shape[1:] if batched else spec.shape for spec in inputs}
        self.row_shape: Shape = shapes[self.main.name]
        self._picture = PicturePlan(manifest.preprocess, self.main) if takes_pictures(manifest) else None
        steps = () if self._picture else manifest.preprocess
        self._series = SeriesPlan(steps, self.main, self.row_shape)
        self._others = {spec.name: SeriesPlan((), spec, shapes[spec.name]) for spec in inputs[1:]}
        self._joins = not (self._picture or self._others or self._series.context)
        self.has_context = self._series.context is not None
        self.has_window = self._series.window is not None

    def feed(self, item: Item, context: Array | None = None, pictures: Pictures | None = None) -> Fed:
        """Decode and preprocess one item.

        Args:
            pictures: decoded pictures of this batch, by the identity of their payload: parts of one are decoded once.

        Raises:
            Rejection: the item's fault, with the ledger's reason.
        """
        began = time.perf_counter()
        payload = item.payload
        if isinstance(payload, Named):
            return self._named(payload, context, began)
        if self._others:
            raise Rejection(
                "schema", f"this model needs inputs {', '.join(self._names())}; send them by name"
            )
        if item.region is not None:
            return self._part(payload, item.region, {} if pictures is None else pictures, began)
        return self._main(payload, context, began, {})

    def joined(self, items: Sequence[Item]) -> Fed | None:
        """All items in one piece, where they are plain tensors of one dtype and shape and all is well; else None."""
        if not self._joins:
            return None
        first = items[0].payload
        if type(first) is not Tensor:
            return None
        dtype, shape, size = first.dtype, first.shape, len(first.data)
        parts = []
        for item in items:
            payload = item.payload
            if type(payload) is not Tensor or payload.dtype != dtype or payload.shape != shape:
                return None
            parts.append(payload.data)
            if len(payload.data) != size:
                return None
        try:
            return self._joined(parts, dtype, shape)
        except Rejection:
            return None  # one by one each item gets its own reason

    def _joined(self, parts: list[bytes | memoryview], dtype: str, shape: tuple[int, ...]) -> Fed | None:
        whole = Tensor(parts[0] if len(parts) == 1 else b"".join(parts), dtype)
        values = numbers_of(whole, self.main.dtype, real=self.main.dtype).values
        plan = self._series
        count, rest = divmod(values.size, len(parts))
        one = plan.shape_of(count, shape)
        if rest or (plan.window and one[0] != plan.window.size):
            return None
        ready = plan.accepts(values.dtype)
        require_finite(values)
        done = plan.rows(values.reshape(len(parts), *one), ready)
        return Fed({self.main.name: done.data}, done.real, Source())

    def _names(self) -> list[str]:
        return [self.main.name, *self._others]

    def _named(self, payload: Named, context: Array | None, began: float) -> Fed:
        wanted = set(self._names())
        if payload.values.keys() != wanted:
            got = ", ".join(sorted(payload.values)) or "none"
            raise Rejection("schema", f"inputs must be exactly {', '.join(sorted(wanted))}, got {got}"[:300])
        others = {name: self._ready(plan, payload.values[name]) for name, plan in self._others.items()}
        return self._main(payload.values[self.main.name], context, began, others)

    def _main(self, payload: Payload, context: Array | None, began: float, others: dict[str, Array]) -> Fed:
        if self._picture is not None and not self._is_ready_tensor(payload):
            return self._from_picture(self._picture, self._decoded(payload), began, others)
        plan = self._series
        numbers = numbers_of(payload, self.main.dtype, real=self._real_dtype())
        shape = plan.shape_of(numbers.values.size, numbers.shape)
        ready = plan.accepts(numbers.values.dtype)
        require_finite(numbers.values)
        done = plan.rows(numbers.values.reshape(1, *shape), ready, context)
        source = Source(rows=len(done.data), decode_ms=_since(began))
        return Fed({self.main.name: done.data, **others}, done.real, source, done.context)

    def _part(self, payload: Payload, region: Box, pictures: Pictures, began: float) -> Fed:
        if self._picture is None:
            raise Rejection("content_type", "a part of a picture was asked for, and this model takes none")
        picture = pictures.get(id(payload))
        if picture is None:
            picture = pictures[id(payload)] = self._decoded(payload)
        return self._from_picture(self._picture, _cropped(picture, region), began, {})

    def _decoded(self, payload: Payload) -> Array:
        if not isinstance(payload, EncodedImage):
            return self._pixels(payload)
        if not len(payload.data):
            raise Rejection("empty", "the payload has no bytes")
        return decode_image(payload.data, self._max_pixels)

    def _from_picture(self, plan: PicturePlan, picture: Array, began: float, others: dict[str, Array]) -> Fed:
        try:
            row, geometry = plan(picture)
        except cv2.error as error:
            raise Rejection("decode", f"picture of {picture.shape} cannot be resized: {error.err}") from error
        source = Source(1, geometry, picture.shape[1], picture.shape[0], _since(began))
        return Fed({self.main.name: row[None], **others}, None, source)

    def _pixels(self, payload: Payload) -> Array:
        """A raw uint8 tensor (height, width[, 1, 3 or 4 channels in RGB order]) as a BGR picture."""
        if not isinstance(payload, Tensor):
            raise Rejection("content_type", f"this model takes pictures, got {type(payload).__name__}")
        numbers = numbers_of(payload, self.main.dtype, real=self.main.dtype)
        height, width, channels = _picture_axes(numbers.shape)
        if channels not in _CHANNELS or height * width * channels != numbers.values.size:
            text = (
                f"expected a picture, pixels as height×width×channels, or the input tensor {self.row_shape}"
            )
            raise Rejection("shape", f"{text}; got {numbers.values.size} values of shape {numbers.shape}")
        if numbers.values.dtype != np.uint8:
            raise Rejection("dtype", f"pixels are uint8, got {numbers.values.dtype.name}")
        if height * width > self._max_pixels:
            raise Rejection("pixels", f"{width}×{height} is over the limit of {self._max_pixels} pixels")
        pixels = numbers.values.reshape(height, width, channels)
        turned: Array = cv2.cvtColor(pixels, _CHANNELS[channels])
        return turned

    def _is_ready_tensor(self, payload: Payload) -> bool:
        """Whether a payload for a picture model is the model's own input tensor already."""
        if isinstance(payload, JsonValues):
            return True
        if not isinstance(payload, Tensor):
            return False
        dtype = dtype_of(payload.dtype, self.main.dtype)
        shape = payload.shape[1:] if len(payload.shape) > len(self.row_shape) else payload.shape
        known = None not in self.row_shape
        count = int(np.prod([axis or 0 for axis in self.row_shape], dtype=np.int64))
        same = shape == self.row_shape or (
            not shape and known and len(payload.data) == count * dtype.itemsize
        )
        return dtype == np.dtype(self.main.dtype) and same

    def _ready(self, plan: SeriesPlan, payload: Payload) -> Array:
        numbers = numbers_of(payload, plan.spec.dtype, real=plan.spec.dtype)
        shape = plan.shape_of(numbers.values.size, numbers.shape)
        plan.accepts(numbers.values.dtype)
        require_finite(numbers.values)
        return numbers.values.reshape(1, *shape)

    def _real_dtype(self) -> str:
        """What numbers in a text are: real values where steps convert them, else the model's own."""
        return "float32" if self._series.converts else self.main.dtype


def takes_pictures(manifest: Manifest) -> bool:
    """Whether the preprocess steps start from a picture."""
    return any(isinstance(step, (Resize, Color)) for step in manifest.preprocess)


def _picture_axes(shape: tuple[int, ...]) -> tuple[int, int, int]:
    match shape:
        case (height, width):
            return height, width, 1
        case (height, width, channels):
            return height, width, channels
    return 0, 0, 0


def _cropped(picture: Array, region: Box) -> Array:
    """The pixels that a box touches, at least one."""
    height, width = picture.shape[:2]
    left, top = (min(max(int(at * size), 0), size - 1) for at, size in zip(region[:2], (width, height)))
    right, bottom = (min(math.ceil(at * size), size) for at, size in zip(region[2:], (width, height)))
    return picture[top : max(bottom, top + 1), left : max(right, left + 1)]


def _since(began: float) -> float:
    return (time.perf_counter() - began) * 1e3
