"""Contract drift: how a version differs from the one that serves, as its clients see it. Pure.

Breaking is what a client was written against: the task, the labels in their order, names of inputs and outputs, shapes,
and dtypes where tensors come in or go out as they are. What a version does for itself is not: the size and dtype of
a picture that it resizes, the dtype of an output that it makes an answer of, a batch axis, labels added at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from penstock_models.manifest import Manifest, TensorSpec
from penstock_models.steps.specs import Cast, Normalize, Quantize, Resize


class Difference(msgspec.Struct, frozen=True):
    """`what` names the place; `text` says what was and what is."""

    what: str
    text: str
    breaking: bool


def differences(old: Manifest, new: Manifest) -> list[Difference]:
    """What a client of `old` would see when `new` answers; empty where nothing changed."""
    return [*_task(old, new), *_labels(old.labels, new.labels), *_inputs(old, new), *_outputs(old, new)]


def breaking(found: Sequence[Difference]) -> str:
    """One line that names what breaks clients; "" where nothing does."""
    return "; ".join(f"{d.what}: {d.text}" for d in found if d.breaking)


def _task(old: Manifest, new: Manifest) -> Iterator[Difference]:
    if old.task != new.task:
        yield Difference("task", f"was {old.task}, is {new.task}", True)
    if bool(old.states) != bool(new.states):
        yield Difference("state", "is carried now" if new.states else "is no longer carried", False)


def _labels(old: Sequence[str], new: Sequence[str]) -> Iterator[Difference]:
    if tuple(old) == tuple(new):
        return
    if tuple(new[: len(old)]) == tuple(old):
        yield Difference("labels", f"{len(new) - len(old)} more at the end", False)
    elif sorted(old) == sorted(new):
        yield Difference("labels", f"in another order, {_first_change(old, new)}", True)
    elif gone := [label for label in old if label not in set(new)]:
        yield Difference("labels", f"{len(gone)} gone, such as {gone[0]!r}", True)
    else:
        yield Difference("labels", f"new ones among the old, {_first_change(old, new)}", True)


def _first_change(old: Sequence[str], new: Sequence[str]) -> str:
    index = next(i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b)
    return f"class {index} was {old[index]!r}, is {new[index]!r}"


def _inputs(old: Manifest, new: Manifest) -> Iterator[Difference]:
    """What it resizes and casts itself may change; what arrives as a tensor may not."""
    pictures = any(isinstance(step, Resize) for step in new.preprocess)
    given = {s.input for m in (old, new) for s in m.states} | {
        c.input for m in (old, new) for c in m.constants
    }
    before, after = ([spec for spec in m.variants[0].inputs if spec.name not in given] for m in (old, new))
    own_dtype = pictures or any(isinstance(step, Cast | Quantize | Normalize) for step in new.preprocess)
    yield from _tensors("input", before, after, shapes=not pictures, dtypes=not own_dtype)


def _outputs(old: Manifest, new: Manifest) -> Iterator[Difference]:
    carried = {s.output for m in (old, new) for s in m.states}
    before, after = ([spec for spec in m.variants[0].outputs if spec.name not in carried] for m in (old, new))
    yield from _tensors("output", before, after, shapes=True, dtypes=new.task == "raw")


def _tensors(
    kind: str, old: Sequence[TensorSpec], new: Sequence[TensorSpec], *, shapes: bool, dtypes: bool
) -> Iterator[Difference]:
    """Args: shapes, dtypes: whether a change of them breaks clients."""
    known = {spec.name: spec for spec in new}
    gone = [spec.name for spec in old if spec.name not in known]
    added = sorted(known.keys() - {spec.name for spec in old})
    if gone:
        instead = f", has {', '.join(added)}" if added else ""
        yield Difference(f"{kind} {gone[0]}", f"is gone{instead}", True)
    elif added:
        # A new output may be ignored by whoever does not know it; a new input wants values that nobody sends.
        yield Difference(f"{kind} {added[0]}", "is new", kind == "input")
    for before, after in ((spec, known[spec.name]) for spec in old if spec.name in known):
        what = f"{kind} {before.name}"
        if not _fits(before.shape, after.shape):
            yield Difference(what, f"shape was {_shown(before)}, is {_shown(after)}", shapes)
        if before.dtype != after.dtype:
            yield Difference(what, f"dtype was {before.dtype}, is {after.dtype}", dtypes)


def _fits(old: Sequence[int | None], new: Sequence[int | None]) -> bool:
    """Whether what had the old shape has the new one too; the first axis is the batch."""
    return len(old) == len(new) and all(b in (None, a) for a, b in zip(old[1:], new[1:], strict=True))


def _shown(spec: TensorSpec) -> str:
    return "×".join("?" if size is None else str(size) for size in spec.shape)
