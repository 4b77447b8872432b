"""Preprocess of pictures: resize, colour order, values and layout, from a decoded BGR picture to one model row.

Everything that depends on the manifest alone is worked out once, when the plan is made; a picture then costs one resize
and one pass over the small result. `Geometry` remembers how to bring a box back onto the upright picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from penstock_models.errors import BundleError
from penstock_models.images import Picture
from penstock_models.manifest import TensorSpec
from penstock_models.opencv import cv2
from penstock_models.rejection import Rejection
from penstock_models.runtimes.session import Array
from penstock_models.steps.specs import Cast, Color, Filter, Layout, Normalize, Preprocess, Quantize, Resize
from penstock_models.steps.values import ValueStep, table


class Geometry(NamedTuple):
    """x on the upright picture (0..1) = ax · x of the model's input (0..1) + bx; the same for y."""

    ax: float = 1.0
    bx: float = 0.0
    ay: float = 1.0
    by: float = 0.0


WHOLE = Geometry()


class PicturePlan:
    """The preprocess of one manifest for pictures. Called with a BGR picture; thread-safe."""

    def __init__(self, steps: Sequence[Preprocess], spec: TensorSpec) -> None:
        """Work out the plan.

        Raises:
            BundleError: a step that pictures cannot have, a wrong order, or a result that is not the model's input.
        """
        self._spec = spec
        self._resize = _only(steps, Resize)
        colour = _only(steps, Color)
        self._order = colour.order if colour else "rgb"
        layout = _only(steps, Layout)
        self._planar = layout is not None and layout.order == "nchw"
        self._gray_first = _gray_before_resize(steps)
        self._channels = 1 if self._order == "gray" else 3
        self._row = self._row_shape()
        self._write = _writer(table(_values(steps), self._channels, spec), self._planar)

    def __call__(self, picture: Picture) -> tuple[Array, Geometry]:
        """The model's row, (h, w, c) or (c, h, w), and the way back.

        Raises:
            Rejection: `shape` where no resize step stands and the picture has another size than the model takes.
        """
        geometry = WHOLE
        if self._gray_first:
            picture = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)[..., None]
        if self._resize is not None:
            picture, geometry = resize(picture, self._resize)
        if self._order == "rgb":
            picture = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
        elif self._order == "gray" and not self._gray_first:
            picture = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)[..., None]
        row = self._write(picture)
        if any(want not in (None, got) for want, got in zip(self._row, row.shape, strict=True)):
            raise Rejection("shape", f"picture gives {row.shape}, the model takes {self._row}")
        return row, geometry

    def _row_shape(self) -> tuple[int | None, ...]:
        shape = self._spec.shape
        if len(shape) != 4:
            raise BundleError(f"input {self._spec.name!r} has shape {shape}; a picture needs four axes")
        channels = shape[1] if self._planar else shape[3]
        if channels not in (None, self._channels):
            made = f"{self._order} in {'nchw' if self._planar else 'nhwc'}"
            raise BundleError(
                f"input {self._spec.name!r} of shape {shape} cannot take {made}; see color and layout"
            )
        size = (self._resize.height, self._resize.width) if self._resize else (None, None)
        wanted = (shape[2], shape[3]) if self._planar else (shape[1], shape[2])
        if any(w is not None and s is not None and w != s for w, s in zip(wanted, size, strict=True)):
            raise BundleError(
                f"resize gives {size} (height, width), input {self._spec.name!r} takes {wanted}"
            )
        return shape[1:]


def resize(picture: Picture, step: Resize) -> tuple[Picture, Geometry]:
    """Stretch, letterbox or crop to the step's size."""
    height, width = picture.shape[:2]
    if step.mode == "stretch":
        return scaled(picture, step.width, step.height, step.filter), WHOLE
    if step.mode == "letterbox":
        return _letterbox(picture, step)
    # Cut before resampling: a picture of extreme ratio must not be blown up first.
    scale = max(step.width / width, step.height / height)
    cut_w = min(width, max(1, round(step.width / scale)))
    cut_h = min(height, max(1, round(step.height / scale)))
    left, top = (width - cut_w) // 2, (height - cut_h) // 2
    cut = np.ascontiguousarray(picture[top : top + cut_h, left : left + cut_w])
    geometry = Geometry(cut_w / width, left / width, cut_h / height, top / height)
    return scaled(cut, step.width, step.height, step.filter), geometry


def _letterbox(picture: Picture, step: Resize) -> tuple[Picture, Geometry]:
    height, width = picture.shape[:2]
    ratio = min(step.width / width, step.height / height)
    inner_w, inner_h = max(1, int(width * ratio)), max(1, int(height * ratio))
    inner = scaled(picture, inner_w, inner_h, step.filter)
    right, below = step.width - inner_w, step.height - inner_h
    left, top = (right // 2, below // 2) if step.anchor == "center" else (0, 0)
    border = (step.pad,) * 3
    boxed: Picture = cv2.copyMakeBorder(
        inner, top, below - top, left, right - left, cv2.BORDER_CONSTANT, value=border
    )
    geometry = Geometry(step.width / inner_w, -left / inner_w, step.height / inner_h, -top / inner_h)
    return boxed.reshape(step.height, step.width, -1), geometry


def scaled(picture: Picture, width: int, height: int, filter: Filter) -> Picture:
    """Resample to width × height, ratio ignored."""
    if picture.shape[1] == width and picture.shape[0] == height:
        return picture
    if filter == "antialias":
        flat = picture[..., 0] if picture.shape[2] == 1 else picture
        small = np.asarray(Image.fromarray(flat).resize((width, height), Image.Resampling.BILINEAR))
        return small.reshape(height, width, -1)
    how = cv2.INTER_LINEAR if filter == "linear" else cv2.INTER_AREA
    done: Picture = cv2.resize(picture, (width, height), interpolation=how)
    return done.reshape(height, width, -1)


def _writer(values: Array | None, planar: bool) -> Callable[[Picture], Array]:
    """The last pass: look every value up and lay it out. Planes are written one by one, which is the fast way."""
    if values is None:
        return (lambda p: np.ascontiguousarray(p.transpose(2, 0, 1))) if planar else np.ascontiguousarray
    if _looks_up_directly(values):
        return _planar_lookup(values) if planar else lambda p: cv2.LUT(p, values).reshape(p.shape)
    channel = np.arange(values.shape[2])

    def take(picture: Picture) -> Array:
        row = values[picture, 0, channel]
        return np.ascontiguousarray(row.transpose(2, 0, 1)) if planar else row

    return take


def _planar_lookup(values: Array) -> Callable[[Picture], Array]:
    columns = [np.ascontiguousarray(values[:, :, c]) for c in range(values.shape[2])]
    plain_cast = all(np.array_equal(column[:, 0], np.arange(256)) for column in columns)

    def write(picture: Picture) -> Array:
        out = np.empty((len(columns), *picture.shape[:2]), values.dtype)
        for c, plane in enumerate(cv2.split(picture)):
            if plain_cast:
                out[c] = plane
            else:
                cv2.LUT(plane, columns[c], out[c])
        return out

    return write


def _looks_up_directly(values: Array) -> bool:
    return values.dtype in (np.uint8, np.int8, np.float32)


def _values(steps: Sequence[Preprocess]) -> list[ValueStep]:
    found: list[ValueStep] = []
    for step in steps:
        if isinstance(step, (Normalize, Cast, Quantize)):
            found.append(step)
        elif isinstance(step, (Resize, Color)):
            if found:
                raise BundleError(
                    f"{step.__struct_config__.tag} must stand before normalize, cast and quantize"
                )
        elif not isinstance(step, Layout):
            raise BundleError(f"step {step.__struct_config__.tag} is for series of samples, not for pictures")
    return found


def _only(steps: Sequence[Preprocess], kind: Any) -> Any:
    found = [step for step in steps if isinstance(step, kind)]
    if len(found) > 1:
        raise BundleError(f"step {found[0].__struct_config__.tag} stands {len(found)} times, once is allowed")
    return found[0] if found else None


def _gray_before_resize(steps: Sequence[Preprocess]) -> bool:
    kinds = [type(step) for step in steps]
    gray = any(isinstance(step, Color) and step.order == "gray" for step in steps)
    return gray and (Resize not in kinds or kinds.index(Color) < kinds.index(Resize))
