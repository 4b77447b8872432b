"""The golden samples of a bundle in the making: run the model on the author's inputs, keep its answers.

Owns which inputs are chosen, and whose fault it is when one gets no answer. What is kept of an answer is `golden`'s.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from penstock_models import golden, samples
from penstock_models.bundle import memory_bundle
from penstock_models.errors import BundleError, ModelRefused
from penstock_models.items import Refusal
from penstock_models.manifest import Golden, Manifest
from penstock_models.model_toml import Description
from penstock_models.probe import neutral_sample
from penstock_models.samples import Sample
from penstock_models.servable import Servable

_SUFFIXES = {"image/jpeg": ".jpg", "image/png": ".png", "image/webp": ".webp", samples.JSON: ".json"}


def record(
    manifest: Manifest,
    files: dict[str, bytes],
    description: Description,
    advance: Callable[[int, int], None] | None = None,
) -> tuple[tuple[Golden, ...], dict[str, bytes]]:
    """Run the model on the golden inputs and keep its answers.

    Args:
        manifest: of what is packed, its `files` and `golden` still empty; the model's file is in `files`.
        advance: called after each input with how many of how many are done.

    Returns:
        The golden samples and their files.

    Raises:
        UsageError: an input cannot be read or gets no answer, or the steps do not fit the model.
    """
    given = _golden_inputs(description)
    neutral = neutral_sample(manifest)
    chosen = given or ([("a neutral input", neutral)] if neutral else [])
    servable = _open(manifest, files, description)
    try:
        recorded: list[Golden] = []
        stored: dict[str, bytes] = {}
        for index, (origin, sample) in enumerate(chosen):
            outcome = servable.run([samples.item(sample, stream=f"golden/{index}")])[0]
            if isinstance(outcome, Refusal):
                if not given:
                    break  # not every model answers to zeros
                text = f"golden {origin}: {outcome.bucket}: {outcome.reason} {outcome.detail}".rstrip()
                raise description.wrong(f"golden.inputs[{index}]", text)
            name = f"golden/{index}{_SUFFIXES.get(sample.media_type, '.bin')}"
            expected = golden.record(outcome)
            recorded.append(Golden(name, sample.media_type, expected, description.toml.golden.tolerance))
            stored[name] = sample.data
            if advance:
                advance(index + 1, len(chosen))
    finally:
        servable.close()
    return tuple(recorded), stored


def _golden_inputs(description: Description) -> list[tuple[str, Sample]]:
    loaded = []
    for index, path in enumerate(description.golden):
        with description.blamed(f"golden.inputs[{index}]"):
            loaded.append((str(path), samples.load(path)))
    return loaded


def _open(manifest: Manifest, files: dict[str, bytes], description: Description) -> Servable:
    """Open what is packed; steps that do not fit the model are the description's fault."""
    try:
        return Servable.open(memory_bundle(manifest, files, description.model))
    except ModelRefused:
        raise
    except BundleError as error:
        key = _step_key(description, str(error))
        raise description.wrong(key, f"{description.model.name}: {error}") from error


def _step_key(description: Description, message: str) -> str:
    """The written step that a message names, else the first written one: what does not fit is not said apart."""
    tables = {"preprocess": description.toml.preprocess, "postprocess": description.toml.postprocess}
    written = [(f"{name}[{i}]", step) for name, steps in tables.items() for i, step in enumerate(steps or ())]
    named = [key for key, step in written if re.search(rf"\b{step.__struct_config__.tag}\b", message)]
    return (named or [key for key, _ in written] or ["preset"])[0]
