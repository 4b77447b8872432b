"""Input files and golden files as items: a picture, an array, a table of numbers.

Owns the way from a file on disk to an `Item`, for the command line and for golden samples; a payload that came over a
wire is the gateway's to read. A tensor's dtype and shape stand in its media type, so that a golden file is plain bytes:
`application/x-tensor; dtype=float32; shape=128x3`.
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from penstock_models.errors import UsageError
from penstock_models.items import EncodedImage, Item, JsonValues, Named, Payload, Tensor

if TYPE_CHECKING:
    import numpy as np

TENSOR = "application/x-tensor"
JSON = "application/json"
KNOWN = f"a picture, {TENSOR} or {JSON}"
MAX_BYTES = 256 * 1024**2
MAX_DIGITS = 20  # of one axis of a shape
_SIGNATURES = ((b"\xff\xd8\xff", "image/jpeg"), (b"\x89PNG\r\n\x1a\n", "image/png"))


class Sample(NamedTuple):
    """One input as bytes; `media_type` says how to read them."""

    media_type: str
    data: bytes


def load(path: Path) -> Sample:
    """Read an input file: JPEG, PNG, WebP, .npy, .csv (rows of numbers), .json (nested lists, or a map of the inputs'
    names to them), .bin (raw values).

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
            return Sample(JSON, _csv(data, path))
        case ".json":
            return Sample(JSON, _checked_json(data, path))
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


def is_known(media_type: str) -> bool:
    """Whether `item` reads this media type."""
    kind = media_type.split(";")[0].strip()
    return kind.startswith("image/") or kind in (TENSOR, JSON)


def _payload(sample: Sample) -> Payload:
    kind, *parameters = (part.strip() for part in sample.media_type.split(";"))
    if kind.startswith("image/"):
        return EncodedImage(sample.data, kind)
    if kind == JSON:
        return _json(sample.data)
    if kind == TENSOR:
        values = dict(parameter.split("=", 1) for parameter in parameters if "=" in parameter)
        shape = values.get("shape", "")
        return Tensor(
            sample.data,
            values.get("dtype", ""),
            tuple(int(s) for s in shape.split("x") if s.isdecimal() and len(s) < MAX_DIGITS),
        )
    raise UsageError(f"media type {sample.media_type!r}: expected {KNOWN}")


def _checked_json(data: bytes, path: Path) -> bytes:
    try:
        msgspec.json.decode(data, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise UsageError(f"input {path}: not JSON: {error}") from error
    return data


def _json(data: bytes) -> Payload:
    """A map is several tensors by name, bare or as an envelope's `inputs`; all else is one tensor's values."""
    try:
        values = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        if bytes(values.get("inputs", b""))[:1] == b"{":
            values = msgspec.json.decode(values["inputs"], type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return JsonValues(data)  # what is wrong with it is said when it is fed, as for a frame
    return Named({name: JsonValues(bytes(raw)) for name, raw in values.items()})


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


def _csv(data: bytes, path: Path) -> bytes:
    """Rows of numbers as JSON lists, which take the model's dtype; a first row of names is skipped.

    One row or one column becomes a flat list, which states no shape.
    """
    lines = [line.split(",") for line in data.decode("utf-8-sig", "replace").splitlines() if line.strip()]
    try:
        rows = [list(map(_number, line)) for line in (lines if _is_numbers(lines[:1]) else lines[1:])]
    except ValueError as error:
        raise UsageError(f"input {path}: expected rows of finite numbers with commas: {error}") from error
    widths = {len(row) for row in rows}
    if len(widths) != 1:
        raise UsageError(
            f"input {path}: expected rows of as many numbers each, got {sorted(widths) or 'no rows'}"
        )
    flat = len(rows) == 1 or widths == {1}
    return msgspec.json.encode([number for row in rows for number in row] if flat else rows)


def _number(cell: str) -> int | float:
    """Whole numbers of 64 bits stay exact."""
    value = float(cell)
    if not math.isfinite(value):
        raise ValueError(f"{cell.strip()} is not finite")
    whole = cell.strip().lstrip("+-").isdecimal() and abs(value) < 2**63
    return int(cell) if whole else value


def _is_numbers(lines: list[list[str]]) -> bool:
    try:
        [float(cell) for line in lines for cell in line]
    except ValueError:
        return False
    return True
