"""Make a bundle from a model file: read its tensors, add the steps, record golden answers, write.

Owns the way from a description to a manifest. What an author may write is `model_toml`'s, what a preset means is
`presets`', the golden answers are `recording`'s, the archive is `bundle`'s. The model is loaded and run here, on this
machine, as a gateway would.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from penstock_models import onnx_file, presets, safety
from penstock_models.archive import CODE_SUFFIXES
from penstock_models.bundle import write_bundle
from penstock_models.errors import ModelRefused, UsageError
from penstock_models.manifest import (
    Budget,
    Constant,
    Manifest,
    State,
    Task,
    TensorSpec,
    Variant,
)
from penstock_models.model_toml import Description, describe
from penstock_models.presets import Recipe
from penstock_models.probe import carried_states, fixed_inputs, gives_probabilities, picture_shape
from penstock_models.recording import record
from penstock_models.runtimes import Session, open_session
from penstock_models.steps import specs


def pack(
    source: Path,
    out: Path,
    *,
    preset: str | None = None,
    name: str | None = None,
    version: int | None = None,
    labels: Path | None = None,
    golden: Sequence[Path] = (),
    sets: Sequence[str] = (),
    advance: Callable[[int, int], None] | None = None,
    vet: Callable[[Path], None] | None = None,
) -> Path:
    """Pack a model.toml or a model file into a bundle and say where it is.

    Args:
        source: a `.toml`, else an ONNX or TFLite file.
        out: a path that ends in `.bundle`, or a folder that gets `NAME-VERSION.bundle`.
        preset: one of `presets.Preset`; a model file without one is packed `raw`.
        labels: a text file, one label a line.
        golden: input files to store with this model's answers; without any, one neutral input is stored where the
            model takes one (a grey picture, zeros).
        sets: `OP.FIELD=VALUE`, changes to the steps.
        advance: called after each golden input with how many of how many are done.
        vet: called with the model file after its bytes were checked and before this process opens it; may refuse it.

    Raises:
        UsageError: the description, an option or an input file is wrong.
        ModelRefused: the model file must not or cannot be loaded.
    """
    description = describe(
        source, preset=preset, name=name, version=version, labels=labels, golden=tuple(golden)
    )
    manifest, files = build(description, sets, advance, vet)
    return write_bundle(manifest, files, out)


def build(
    description: Description,
    sets: Sequence[str] = (),
    advance: Callable[[int, int], None] | None = None,
    vet: Callable[[Path], None] | None = None,
) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest (its `files` still empty) and the files of a bundle, not yet written.

    Raises:
        UsageError, ModelRefused: as `pack`.
    """
    with description.blamed("file"):
        data = read_model(description.model)
    runtime = safety.check(data, description.model.name)
    if vet is not None:
        vet(description.model)
    session = open_session(data, runtime)
    try:
        manifest = _manifest(description, session, data, runtime, sets)
    finally:
        session.close()
    files = {manifest.variants[0].file: data}
    recorded, inputs = record(manifest, files, description, advance)
    return msgspec.structs.replace(manifest, golden=recorded), {**files, **inputs}


def read_model(path: Path) -> bytes:
    """The bytes of a model file.

    Raises:
        UsageError: it cannot be read, or is too large.
        ModelRefused: its name is one of a format that can carry code.
    """
    if path.suffix.lower() in CODE_SUFFIXES:
        # By its name alone: another tool that gets this file may unpickle it.
        raise ModelRefused(
            "not_a_model",
            f"{path}: {path.suffix} names a format that can carry code; export the model to ONNX or TFLite",
        )
    try:
        if path.stat().st_size > safety.MAX_BYTES:
            raise UsageError(f"{path}: at most {safety.MAX_BYTES} bytes are read")
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the model {path}: {error.strerror}") from error


def _manifest(
    description: Description, session: Session, data: bytes, runtime: str, sets: Sequence[str]
) -> Manifest:
    toml = description.toml
    inputs, outputs = _tensors(session, data, runtime)
    states, constants = _given_inputs(description, inputs, outputs)
    given = {s.input for s in states} | {c.input for c in constants}
    fed = [spec for spec in inputs if spec.name not in given]
    carried = {s.output for s in states}
    read = [spec for spec in outputs if spec.name not in carried]
    if not fed:
        raise UsageError(
            f"{description.model.name}: every input is a constant or a state, or there is none;"
            " a model needs an input that frames feed"
        )

    def ask(steps: Sequence[specs.Preprocess]) -> bool:
        pictures = {fed[0].name: picture_shape(fed[0], steps)}
        return gives_probabilities(session, inputs, read[0], constants, pictures)

    recipe = _recipe(description, fed, read, sets, ask)
    _check_labels(description, recipe)
    return Manifest(
        name=description.name,
        version=description.version,
        task=recipe.task,
        variants=(_variant(inputs, outputs, data, runtime),),
        files=(),
        preprocess=recipe.preprocess,
        postprocess=recipe.postprocess,
        labels=description.labels,
        states=states,
        constants=constants,
        metrics=toml.metrics,
        data_date=toml.data_date,
        budget=Budget(toml.budget.p95_ms, toml.budget.rss_mb),
        provenance={"file": description.model.name, "preset": toml.preset, **toml.provenance},
        licence=toml.licence,
    )


def _given_inputs(
    description: Description, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> tuple[tuple[State, ...], tuple[Constant, ...]]:
    """The inputs that no frame feeds: carried states and constants."""
    states: list[State] = []
    constants: list[Constant] = []
    for output, name in description.toml.state.items():
        with description.blamed(f"state.{output}"):
            states += carried_states({output: name}, inputs, outputs)
    for name, values in description.toml.constants.items():
        with description.blamed(f"constants.{name}"):
            constants += fixed_inputs({name: values}, inputs)
    return tuple(states), tuple(constants)


def _recipe(
    description: Description,
    fed: Sequence[TensorSpec],
    read: Sequence[TensorSpec],
    sets: Sequence[str],
    gives_probabilities: Callable[[Sequence[specs.Preprocess]], bool],
) -> Recipe:
    """The steps as preset, author and `sets` have them; `gives_probabilities` is asked of a classifier fed by these."""
    toml = description.toml

    def steps(*, probabilities: bool) -> Recipe:
        with description.blamed("preset"):
            preset = presets.recipe(toml.preset, fed, read, probabilities=probabilities)
        return presets.apply_sets(_merged(description, preset, read), sets)

    recipe = steps(probabilities=False)
    # The question comes after the sets: a model with an open size is asked at the size that is set.
    if toml.preset == "classification" and toml.postprocess is None:
        return steps(probabilities=gives_probabilities(recipe.preprocess))
    return recipe


def _tensors(
    session: Session, data: bytes, runtime: str
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """The session's tensors; the quantization of a QDQ model's int8 ends is read from its graph."""
    known = onnx_file.scan(data).quantization if runtime == "onnx" else {}

    def complete(spec: TensorSpec) -> TensorSpec:
        if spec.quantization or spec.dtype not in ("int8", "uint8") or spec.name not in known:
            return spec
        return msgspec.structs.replace(spec, quantization=known[spec.name])

    return tuple(map(complete, session.inputs)), tuple(map(complete, session.outputs))


def _variant(
    inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], data: bytes, runtime: str
) -> Variant:
    kind: Literal["onnx", "tflite"] = "onnx" if runtime == "onnx" else "tflite"
    return Variant(f"model.{kind}", kind, inputs, outputs, _precision(inputs, data, runtime))


def _precision(inputs: tuple[TensorSpec, ...], data: bytes, runtime: str) -> str:
    quantized = any(spec.dtype in ("int8", "uint8") for spec in inputs)
    if not quantized and runtime == "onnx":
        quantized = ("", "QuantizeLinear") in onnx_file.scan(data).operators
    return "int8" if quantized else inputs[0].dtype


def _merged(description: Description, recipe: Recipe, outputs: Sequence[TensorSpec]) -> Recipe:
    """What the author wrote, over what the preset says; then `outputs` say how many labels there are."""
    toml = description.toml
    if toml.preprocess is not None:
        recipe = recipe._replace(preprocess=toml.preprocess)
    if toml.postprocess is not None:
        recipe = recipe._replace(postprocess=toml.postprocess, task=_task(toml.postprocess))
    if toml.task:
        recipe = recipe._replace(task=toml.task)
    if toml.postprocess is None and not toml.task:
        return recipe
    return recipe._replace(classes=presets.class_count(recipe.task, recipe.postprocess, outputs))


def _task(steps: tuple[specs.Postprocess, ...]) -> Task:
    for step in steps:
        match step:
            case specs.TopK():
                return "classification"
            case specs.DecodeYolox() | specs.DecodeBoxes():
                return "detection"
            case specs.ReconstructionError():
                return "anomaly"
    return "raw"


def _check_labels(description: Description, recipe: Recipe) -> None:
    wanted, given = recipe.classes, len(description.labels)
    if given and wanted and given != wanted:
        raise description.wrong(
            "labels",
            f"{description.model.name} has {wanted} classes, the labels are {given}: one a line, in order",
        )
