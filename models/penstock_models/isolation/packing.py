"""How items and outcomes are written between processes, exactly: plain structs, whose large bytes lie elsewhere.

`pack_…` hands large bytes to a `Parts` and keeps where they will lie; `unpack_…` finds them in a `Reader`. Items come out
with views of the shared memory, outcomes with bytes of their own.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from penstock_models.isolation.buffers import Parts, Reader
from penstock_models.items import (
    Answer,
    Box,
    EncodedImage,
    Item,
    JsonValues,
    Named,
    Outcome,
    OutputTensor,
    Payload,
    Refusal,
    SenML,
    Tensor,
)

INLINE_OUTPUT_BYTES = 2048

Span = tuple[int, int]  # offset and size


class PackedImage(msgspec.Struct, frozen=True, array_like=True, tag="image"):
    data: Span
    media_type: str


class PackedTensor(msgspec.Struct, frozen=True, array_like=True, tag="tensor"):
    data: Span
    dtype: str
    shape: tuple[int, ...]


class PackedJson(msgspec.Struct, frozen=True, array_like=True, tag="json"):
    text: Span
    dtype: str
    shape: tuple[int, ...]


class PackedSenML(msgspec.Struct, frozen=True, array_like=True, tag="senml"):
    data: Span
    cbor: bool


class PackedNamed(msgspec.Struct, frozen=True, array_like=True, tag="named"):
    values: dict[str, PackedTensor | PackedJson]


class PackedItem(msgspec.Struct, frozen=True, array_like=True):
    payload: PackedImage | PackedTensor | PackedJson | PackedSenML | PackedNamed
    stream: str
    region: Box | None = None


class PackedOutcome(msgspec.Struct, frozen=True, array_like=True):
    """Exactly one of the two. `elsewhere` are the answer's outputs whose bytes are not in it, by name."""

    answer: Answer | None
    refusal: Refusal | None
    elsewhere: dict[str, Span] = {}


def pack_item(item: Item, parts: Parts) -> PackedItem:
    payload = item.payload
    if type(payload) is Tensor:  # the many small ones; the patterns below take longer
        tensor = PackedTensor(parts.add(payload.data), payload.dtype, payload.shape)
        return PackedItem(tensor, item.stream, item.region)
    match payload:
        case EncodedImage(data, media_type):
            return PackedItem(PackedImage(parts.add(data), media_type), item.stream, item.region)
        case SenML(data, cbor):
            return PackedItem(PackedSenML(parts.add(data), cbor), item.stream)
        case Named(values):
            packed = {name: _pack_values(value, parts) for name, value in values.items()}
            return PackedItem(PackedNamed(packed), item.stream)
        case _:
            return PackedItem(_pack_values(payload, parts), item.stream)


def unpack_items(packed: Sequence[PackedItem], reader: Reader) -> list[Item]:
    """The items of a batch; parts of one picture have one payload again, so that it is decoded once.

    Raises:
        ChannelError: bytes that are not within the shared memory.
    """
    items: list[Item] = []
    for index, one in enumerate(packed):
        if one.region is not None and index and one.payload == packed[index - 1].payload:
            items.append(Item(items[-1].payload, one.stream, one.region))
        else:
            items.append(unpack_item(one, reader))
    return items


def unpack_item(packed: PackedItem, reader: Reader) -> Item:
    """The item, whose bytes are views of the shared memory.

    Raises:
        ChannelError: bytes that are not within it.
    """
    payload = packed.payload
    if type(payload) is PackedTensor:
        return Item(
            Tensor(reader.at(*payload.data), payload.dtype, payload.shape), packed.stream, packed.region
        )
    return Item(_unpack_payload(payload, reader), packed.stream, packed.region)


def pack_outcome(outcome: Outcome, parts: Parts) -> PackedOutcome:
    if isinstance(outcome, Refusal):
        return PackedOutcome(None, outcome)
    elsewhere: dict[str, Span] = {}
    outputs = outcome.outputs or {}
    for name, tensor in outputs.items():
        if len(tensor.data) > INLINE_OUTPUT_BYTES:
            elsewhere[name] = parts.add(tensor.data)
    if not elsewhere:
        return PackedOutcome(outcome, None)
    emptied = {name: msgspec.structs.replace(outputs[name], data=b"") for name in elsewhere}
    return PackedOutcome(msgspec.structs.replace(outcome, outputs={**outputs, **emptied}), None, elsewhere)


def unpack_outcome(packed: PackedOutcome, reader: Reader) -> Outcome:
    """The outcome, with bytes of its own.

    Raises:
        ValueError: it is neither an answer nor a refusal, or names an output that it does not have.
        ChannelError: bytes that are not within the shared memory.
    """
    answer, refusal = packed.answer, packed.refusal
    if answer is not None and refusal is None:
        return _with_outputs(answer, packed.elsewhere, reader) if packed.elsewhere else answer
    if refusal is not None and answer is None:
        return refusal
    raise ValueError("an outcome must be either an answer or a refusal")


def _with_outputs(answer: Answer, elsewhere: dict[str, Span], reader: Reader) -> Answer:
    outputs = dict(answer.outputs or {})
    for name, span in elsewhere.items():
        stated = outputs.get(name)
        if stated is None:
            raise ValueError(f"an outcome has no output {name!r}")
        outputs[name] = OutputTensor(stated.dtype, stated.shape, bytes(reader.at(*span)))
    return msgspec.structs.replace(answer, outputs=outputs)


def _pack_values(values: Tensor | JsonValues, parts: Parts) -> PackedTensor | PackedJson:
    if isinstance(values, Tensor):
        return PackedTensor(parts.add(values.data), values.dtype, values.shape)
    return PackedJson(parts.add(values.text), values.dtype, values.shape)


def _unpack_payload(
    packed: PackedImage | PackedTensor | PackedJson | PackedSenML | PackedNamed, reader: Reader
) -> Payload:
    match packed:
        case PackedImage(span, media_type):
            return EncodedImage(reader.at(*span), media_type)
        case PackedSenML(span, cbor):
            return SenML(reader.at(*span), cbor)
        case PackedNamed(values):
            return Named({name: _unpack_values(value, reader) for name, value in values.items()})
        case _:
            return _unpack_values(packed, reader)


def _unpack_values(packed: PackedTensor | PackedJson, reader: Reader) -> Tensor | JsonValues:
    if isinstance(packed, PackedTensor):
        return Tensor(reader.at(*packed.data), packed.dtype, packed.shape)
    return JsonValues(reader.at(*packed.text), packed.dtype, packed.shape)
