"""Questions to a model that its description does not answer: neutral inputs, and what comes out of them.

Owns inputs that stand for nothing (zeros, a grey picture), the shapes of carried states and constant inputs, and
whether a classifier gives probabilities. Used when a model is packed.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence

import numpy as np

from penstock_models.errors import PenstockError, UsageError
from penstock_models.manifest import Constant, Manifest, State, TensorSpec
from penstock_models.model_toml import Values
from penstock_models.presets import picture
from penstock_models.runtimes import Session
from penstock_models.samples import Sample, from_array
from penstock_models.steps import specs

GREY = 128
_SHAPED = (specs.Window, specs.Context, specs.Reshape)


def closed(shape: Sequence[int | None]) -> tuple[int, ...]:
    """A shape with every open axis taken as 1."""
    return tuple(1 if size is None else size for size in shape)


def carried_states(
    wanted: Mapping[str, str], inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> tuple[State, ...]:
    """The states of `{output: input}`, with dtype and shape of their inputs.

    Raises:
        UsageError: the model has no such input or output.
    """
    states = []
    for output, name in wanted.items():
        _find(output, outputs, "output")
        spec = _find(name, inputs, "input")
        states.append(State(name, output, spec.dtype, closed(spec.shape)))
    return tuple(states)


def fixed_inputs(wanted: Mapping[str, Values], inputs: Sequence[TensorSpec]) -> tuple[Constant, ...]:
    """The constants of `{input: values}`, with the dtype and shape of their inputs.

    Raises:
        UsageError: the model has no such input, or it has room for another number of values.
    """
    constants = []
    for name, values in wanted.items():
        spec = _find(name, inputs, "input")
        array = _numbers(name, values)
        shape = closed(spec.shape) if array.size == math.prod(closed(spec.shape)) else array.shape
        if len(shape) != len(spec.shape) or any(
            w not in (None, s) for w, s in zip(spec.shape, shape, strict=True)
        ):
            raise UsageError(
                f"constants.{name}: {array.size} values do not fill an input of {list(spec.shape)}"
            )
        constants.append(Constant(name, spec.dtype, shape, tuple(float(v) for v in array.reshape(-1))))
    return tuple(constants)


def _numbers(name: str, values: Values) -> np.ndarray:
    try:
        array = np.asarray(values)
    except ValueError:  # lists of different lengths
        array = np.array("")
    if array.dtype.kind not in "iuf":
        raise UsageError(f"constants.{name}: expected a number or even lists of numbers, got {values!r:.60}")
    return array


def _find(name: str, tensors: Sequence[TensorSpec], kind: str) -> TensorSpec:
    for spec in tensors:
        if spec.name == name:
            return spec
    raise UsageError(f"the model has no {kind} {name!r}; it has {', '.join(spec.name for spec in tensors)}")


def gives_probabilities(
    session: Session,
    inputs: Sequence[TensorSpec],
    output: TensorSpec,
    constants: Sequence[Constant],
    pictures: Mapping[str, tuple[int, ...]],
) -> bool:
    """Whether a classifier's output is a distribution already: by its quantization, else by what zeros give.

    Args:
        pictures: the shapes of the inputs that take pictures, as `picture_shape` gives them.

    Raises:
        UsageError: the model does not take zeros, so it cannot be told.
    """
    if output.quantization is not None:
        low = np.iinfo(output.dtype).min
        return output.quantization.zero_point == low and output.quantization.scale <= 1.01 / 255
    values = {c.input: np.array(c.values, c.dtype).reshape(c.shape) for c in constants}
    feeds = {
        spec.name: values.get(spec.name, np.zeros(pictures.get(spec.name, closed(spec.shape)), spec.dtype))
        for spec in inputs
    }
    try:
        scores = session.run(feeds)[output.name].astype(np.float64)
    except PenstockError as error:
        raise UsageError(
            f"cannot tell whether output {output.name!r} gives probabilities: the model refuses zeros ({error});"
            " set the size that it takes with --set resize.width=… and resize.height=…,"
            " or write its postprocess steps in a model.toml"
        ) from error
    return bool(scores.min() >= 0 and np.allclose(scores.sum(axis=-1), 1.0, atol=0.01))


def picture_shape(spec: TensorSpec, steps: Sequence[specs.Preprocess]) -> tuple[int, ...]:
    """The shape of one picture for an input: an open height or width is that of the resize step.

    Raises:
        UsageError: the input is no picture's.
    """
    size = next((step for step in steps if isinstance(step, specs.Resize)), None)
    if size is None:
        return closed(spec.shape)
    first = 1 if picture(spec).layout == "nhwc" else 2
    sides = {first: size.height, first + 1: size.width}
    return tuple(sides.get(axis, 1) if length is None else length for axis, length in enumerate(spec.shape))


def neutral_sample(manifest: Manifest) -> Sample | None:
    """A grey picture or zeros as an input that the manifest's steps take, None where that cannot be told."""
    for step in manifest.preprocess:
        if isinstance(step, specs.Resize):
            return Sample("image/png", _grey(step.width, step.height))
        if isinstance(step, _SHAPED):
            return None
    given = {s.input for s in manifest.states} | {c.input for c in manifest.constants}
    fed = [spec for spec in manifest.variants[0].inputs if spec.name not in given]
    if len(fed) != 1:
        return None
    prepared = any(isinstance(step, specs.Quantize | specs.Normalize) for step in manifest.preprocess)
    shape = closed(fed[0].shape)
    row = shape if fed[0].shape == (None,) else shape[1:]  # the one axis of a series is not the batch's
    return from_array(np.zeros(row, "float32" if prepared else fed[0].dtype))


def _grey(width: int, height: int) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (width, height), (GREY, GREY, GREY)).save(file, "PNG")
    return file.getvalue()
