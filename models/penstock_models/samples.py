"""Input files and golden files as items: a picture, an array, a table of numbers.

Owns the way from a file on disk to an `Item`, for the command line and for golden samples; a payload that came over a
wire is the gateway's to read. A tensor's dtype and shape stand in its media type, so that a golden file is plain bytes:
`application/x-tensor; dtype=float32; shape=128x3`.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from penstock_models.errors import UsageError
from penstock_models.items import EncodedImage, Item, JsonValues, Payload, Tensor

if TYPE_CHECKING:
    import numpy as np

TENSOR = "application/x-tensor"
JSON = "application/json"
MAX_BYTES = 256 * 1024**2
_SIGNATURES = ((b"\xff\xd8\xff", "image/jpeg"), (b"\x89PNG\r\n\x1a\n", "image/png"))


class Sample(NamedTuple):
    """One input as bytes; `media_type` says how to read them."""

    media_type: str
    data: bytes


def load(path: Path) -> Sample:
    """Read an input file: JPEG, PNG, WebP, .npy, .csv (rows of numbers), .json (nested lists), .bin (raw values).

    Raises:
        UsageError: it cannot be read, or is none of these.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise UsageError(f"input {path}: {size} bytes, at most {MAX_BYTES} are read")
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read input {path}: {error.strerror}") from error
    if media_type := _image_type(data):
        return Sample(media_type, data)
    match path.suffix.lower():
        case ".npy":
            return from_array(_npy(data, path))
        case ".csv" | ".txt":
            return from_array(_csv(data, path))
        case ".json":
            return Sample(JSON, data)
        case ".bin" | ".raw":
            return Sample(TENSOR, data)
    raise UsageError(
        f"input {path}: expected a JPEG, PNG or WebP picture, or .npy, .csv, .json or .bin values"
    )


def is_picture(path: Path) -> bool:
    """Whether a file begins as a JPEG, PNG or WebP does.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return bool(_image_type(file.read(16)))
    except OSError as error:
        raise UsageError(f"cannot read input {path}: {error.strerror}") from error


def item(sample: Sample, stream: str = "") -> Item:
    """The item of a sample; `stream` keys the carried state of stateful models.

    Raises:
        UsageError: a media type that is not one of `load`'s.
    """
    return Item(_payload(sample), stream)


def _payload(sample: Sample) -> Payload:
    kind, *parameters = (part.strip() for part in sample.media_type.split(";"))
    if kind.startswith("image/"):
        return EncodedImage(sample.data, kind)
    if kind == JSON:
        return JsonValues(sample.data)
    if kind == TENSOR:
        values = dict(parameter.split("=", 1) for parameter in parameters if "=" in parameter)
        shape = values.get("shape", "")
        return Tensor(
            sample.data, values.get("dtype", ""), tuple(int(s) for s in shape.split("x") if s.isdigit())
        )
    raise UsageError(f"media type {sample.media_type!r}: expected a picture, {TENSOR} or {JSON}")


def from_array(array: np.ndarray) -> Sample:
    """An array as little-endian, row-major bytes with its dtype and shape."""
    import numpy as np

    plain = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
    shape = "x".join(map(str, array.shape))
    return Sample(
        f"{TENSOR}; dtype={array.dtype.name}" + (f"; shape={shape}" if shape else ""), plain.tobytes()
    )


def _image_type(data: bytes) -> str:
    for signature, media_type in _SIGNATURES:
        if data.startswith(signature):
            return media_type
    return "image/webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else ""


def _npy(data: bytes, path: Path) -> np.ndarray:
    import numpy as np

    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise UsageError(f"input {path}: not an .npy array of numbers: {error}") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iuf":
        raise UsageError(f"input {path}: expected an .npy array of numbers")
    return array


def _csv(data: bytes, path: Path) -> np.ndarray:
    """Rows of numbers as float32 (rows, columns); a first row of names is skipped."""
    import numpy as np

    lines = [line.split(",") for line in data.decode("utf-8", "replace").splitlines() if line.strip()]
    try:
        lines = lines if not lines or _is_numbers(lines[0]) else lines[1:]
        return np.array([[float(cell) for cell in line] for line in lines], dtype=np.float32)
    except ValueError as error:
        raise UsageError(
            f"input {path}: expected rows of as many numbers each, separated by commas: {error}"
        ) from error


def _is_numbers(cells: list[str]) -> bool:
    try:
        [float(cell) for cell in cells]
    except ValueError:
        return False
    return True
