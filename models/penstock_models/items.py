"""What goes into an executor and what comes out of it.

Everything here is plain data (bytes, numbers, strings, frozen structs of them), so that an executor may live in this
process, in a thread or in another process. An `Item` is one frame's payload as it came over a wire, not yet decoded;
an `Outcome` is its answer or the reason why there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

if TYPE_CHECKING:  # 30 ms that a process without an event loop does not have
    from asyncio import Future


class EncodedImage(msgspec.Struct, frozen=True):
    """A JPEG, PNG or WebP file as bytes; `media_type` such as `image/jpeg`, or "" to go by its signature."""

    data: bytes | memoryview
    media_type: str = ""


class Tensor(msgspec.Struct, frozen=True):
    """Little-endian, row-major values. `dtype` is a NumPy name (`int8`, `float32`); "" and () mean: as the model's input."""

    data: bytes | memoryview
    dtype: str = ""
    shape: tuple[int, ...] = ()


class JsonValues(msgspec.Struct, frozen=True):
    """Nested lists of numbers (row-major) or one base64 string, as UTF-8 JSON text not yet parsed."""

    text: bytes | memoryview
    dtype: str = ""
    shape: tuple[int, ...] = ()


class SenML(msgspec.Struct, frozen=True):
    """A whole SenML pack (RFC 8428) as JSON or CBOR: one column a name, rows in time order, float32 (rows, columns)."""

    data: bytes | memoryview
    cbor: bool = False


class Named(msgspec.Struct, frozen=True):
    """Several tensors, by the name of the model's input."""

    values: dict[str, Tensor | JsonValues]


Payload = EncodedImage | Tensor | JsonValues | SenML | Named

Box = tuple[float, float, float, float]
"""[x0, y0, x1, y1], normalised to 0..1 of the upright picture."""


class Item(msgspec.Struct, frozen=True):
    """One frame's payload for a servable.

    `stream` keys the carried state (state tensors, `context` steps) of stateful models: "DEVICE/STREAM". `region` is the part
    of a picture that is looked at, as a box: what a later stage of a chain gets.
    """

    payload: Payload
    stream: str = ""
    region: Box | None = None


class Detection(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something in a picture. `classes` and `detections` are what the next stage of a chain says of that part of it; their
    boxes are of the whole picture too."""

    box: Box
    score: float
    label: str
    classes: tuple[Class, ...] | None = None
    detections: tuple[Detection, ...] | None = None


class Class(msgspec.Struct, frozen=True):
    label: str
    index: int
    score: float


class Anomaly(msgspec.Struct, frozen=True):
    """`threshold` is null where the bundle states none."""

    score: float
    threshold: float | None = None


class OutputTensor(msgspec.Struct, frozen=True):
    """A raw output. `data` is row-major bytes, little endian; in JSON it becomes base64 (msgspec's rule for bytes)."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


class Answer(msgspec.Struct, frozen=True):
    """A frame's answer: exactly one of the four task fields is set. Times are milliseconds of this item's share.

    `width` and `height` are the upright picture's, 0 where the payload was none. `cached` says that the model did not run:
    it had answered the same input before.
    """

    detections: tuple[Detection, ...] | None = None
    classes: tuple[Class, ...] | None = None
    anomaly: Anomaly | None = None
    outputs: dict[str, OutputTensor] | None = None
    decode_ms: float = 0.0
    infer_ms: float = 0.0
    width: int = 0
    height: int = 0
    cached: bool = False


class Refusal(msgspec.Struct, frozen=True):
    """Why an item has no answer. `bucket` and `reason` are the ledger's words (`rejected: decode`, `failed: model_error`).

    `suspect` says that the run failed as a whole: of several items each may be innocent, and deserves a run alone.
    """

    bucket: str
    reason: str
    detail: str = ""
    suspect: bool = False


Outcome = Answer | Refusal


class ServableInfo(msgspec.Struct, frozen=True):
    """What an executor tells about a loaded version. `placement` is where the session was *proven* to run.

    `batch_ms` are the measured warm-up times of whole batches, by number of items, for every size that was warmed up.

    `max_batch` is 1 where the artifact cannot take more; `stateful` items of one stream must be run in order and never
    at the same time. `p50_ms` is the measured warm-up time of one item.
    """

    name: str
    version: int
    digest: str
    placement: str
    task: str
    max_batch: int
    stateful: bool
    p50_ms: float
    golden: int
    labels: tuple[str, ...] = ()
    batch_ms: dict[int, float] = {}


class Executor(Protocol):
    """Runs batches of items on loaded versions: the seam between scheduling and inference. Loading is its maker's business."""

    @property
    def degraded(self) -> Sequence[str]:
        """Why it does not run as it should, a line a reason; empty when all is well."""

    def run(self, digest: str, items: Sequence[Item], timeout_s: float) -> Future[list[Outcome]]:
        """One call for a whole batch: decode, pre-process, run, post-process. As many outcomes as items, in order.

        A bad item never fails its batch: the batch is bisected. A run that exceeds `timeout_s` is ended, and its
        items without an answer are `failed: model_timeout` and `suspect`: of several, each deserves a run alone. The future may
        be cancelled: a batch that no thread took yet is then left out, another one runs on unheard.
        """

    async def probe(self, digest: str) -> bool:
        """Run one golden sample (or zeros where the bundle has none) and say whether the answer was right."""

    async def close(self) -> None:
        """Let running batches end within a bound, then free every session."""


def to_builtins(value: Any) -> Any:
    """Plain dicts and lists of an outcome, for JSON printing."""
    return msgspec.to_builtins(value)
