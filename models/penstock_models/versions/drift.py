"""Contract drift: how a version differs from the one that serves, as its clients see it. Pure.

Breaking is what a client was written against: the task, the labels in their order, names of inputs and outputs, shapes,
and dtypes where tensors come in or go out as they are. What a version does for itself is not: the size and dtype of
a picture that it resizes, the dtype of an output that it makes an answer of, a batch axis, labels added at the end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from penstock_models.manifest import Manifest, TensorSpec
from penstock_models.steps.specs import Cast, Normalize, Quantize, Resize


def breaking(old: Manifest, new: Manifest) -> str:
    """What breaks clients of `old` when `new` answers, in one line; "" where nothing does."""
    return "; ".join(
        [*_task(old, new), *_labels(old.labels, new.labels), *_inputs(old, new), *_outputs(old, new)]
    )


def _task(old: Manifest, new: Manifest) -> Iterator[str]:
    if old.task != new.task:
        yield f"task: was {old.task}, is {new.task}"


def _labels(old: Sequence[str], new: Sequence[str]) -> Iterator[str]:
    if tuple(new[: len(old)]) == tuple(old):
        return
    gone = list((Counter(old) - Counter(new)).elements())  # ImageNet has a label twice
    if gone:
        yield f"labels: {len(gone)} gone, such as {gone[0]!r}"
    elif len(new) == len(old):
        yield f"labels: in another order, {_first_change(old, new)}"
    else:
        yield f"labels: new ones among the old, {_first_change(old, new)}"


def _first_change(old: Sequence[str], new: Sequence[str]) -> str:
    index = next(i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b)
    return f"class {index} was {old[index]!r}, is {new[index]!r}"


def _inputs(old: Manifest, new: Manifest) -> Iterator[str]:
    """What it resizes and casts itself may change; what arrives as a tensor may not."""
    pictures = any(isinstance(step, Resize) for step in new.preprocess)
    given = {s.input for m in (old, new) for s in m.states} | {
        c.input for m in (old, new) for c in m.constants
    }
    before, after = ([spec for spec in m.variants[0].inputs if spec.name not in given] for m in (old, new))
    own_dtype = pictures or any(isinstance(step, Cast | Quantize | Normalize) for step in new.preprocess)
    yield from _tensors("input", before, after, shapes=not pictures, dtypes=not own_dtype)


def _outputs(old: Manifest, new: Manifest) -> Iterator[str]:
    carried = {s.output for m in (old, new) for s in m.states}
    before, after = ([spec for spec in m.variants[0].outputs if spec.name not in carried] for m in (old, new))
    yield from _tensors("output", before, after, shapes=True, dtypes=new.task == "raw")


def _tensors(
    kind: str, old: Sequence[TensorSpec], new: Sequence[TensorSpec], *, shapes: bool, dtypes: bool
) -> Iterator[str]:
    """Args: shapes, dtypes: whether a change of them breaks clients."""
    known = {spec.name: spec for spec in new}
    gone = [spec.name for spec in old if spec.name not in known]
    added = sorted(known.keys() - {spec.name for spec in old})
    if gone:
        instead = f", has {', '.join(added)}" if added else ""
        yield f"{kind} {gone[0]}: is gone{instead}"
    elif added and kind == "input":
        # A new output may be ignored by whoever does not know it; a new input wants values that nobody sends.
        yield f"{kind} {added[0]}: is new"
    for before, after in ((spec, known[spec.name]) for spec in old if spec.name in known):
        if shapes and not _fits(before.shape, after.shape):
            yield f"{kind} {before.name}: shape was {_shown(before)}, is {_shown(after)}"
        if dtypes and before.dtype != after.dtype:
            yield f"{kind} {before.name}: dtype was {before.dtype}, is {after.dtype}"


def _fits(old: Sequence[int | None], new: Sequence[int | None]) -> bool:
    """Whether what had the old shape has the new one too; the first axis is the batch."""
    return len(old) == len(new) and all(b in (None, a) for a, b in zip(old[1:], new[1:], strict=True))


def _shown(spec: TensorSpec) -> str:
    return "×".join("?" if size is None else str(size) for size in spec.shape)
