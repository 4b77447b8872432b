"""One bundle of two variants: the ONNX and the TFLite file of one model, with golden samples on which both agree."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from penstock_models import golden, pack
from penstock_models.bundle import memory_bundle, write_bundle
from penstock_models.manifest import Golden, Manifest
from penstock_models.model_toml import Description, ModelToml
from penstock_models.servable import Servable

Built = tuple[Manifest, dict[str, bytes]]


def pack_variants(
    toml: ModelToml, models: Mapping[str, bytes], candidates: Mapping[str, bytes], samples: int, out: Path
) -> Path:
    """Write the bundle and say where.

    Args:
        toml: all but `file` and `golden.inputs`.
        models: file name (`….onnx`, `….tflite`) → bytes; the first is the variant that records the golden answers.
        candidates: file name → input; the first `samples` that every variant answers alike become golden samples.
        samples: how many golden samples to store.
        out: a `.bundle` path or a folder.

    Raises:
        ValueError: too few candidates are answered alike.
        PenstockError: as `pack.build` and `write_bundle`.
    """
    first, *others = (_build(toml, name, data, candidates) for name, data in models.items())
    kept = list(_agreed(first, others))[:samples]
    if len(kept) < samples:
        raise ValueError(
            f"{toml.name}: the variants agree on {len(kept)} of {len(candidates)} samples, {samples} wanted"
        )
    manifest = msgspec.structs.replace(
        first[0], variants=tuple(v for m, _ in (first, *others) for v in m.variants), golden=tuple(kept)
    )
    wanted = {g.file for g in kept} | {v.file for v in manifest.variants}
    files = {name: data for _, built in (first, *others) for name, data in built.items() if name in wanted}
    return write_bundle(manifest, files, out)


def _build(toml: ModelToml, name: str, data: bytes, candidates: Mapping[str, bytes]) -> Built:
    with tempfile.TemporaryDirectory() as folder:
        for file, content in {name: data, **candidates}.items():
            Path(folder, file).write_bytes(content)
        inputs = tuple(Path(folder, file) for file in candidates)
        labels = toml.labels if isinstance(toml.labels, tuple) else ()
        return pack.build(Description(Path(folder, name), toml.name, toml.version, labels, inputs, toml))


def _agreed(first: Built, others: list[Built]) -> Iterator[Golden]:
    """The golden samples of `first` that hold on every other build too."""
    servables = [Servable.open(memory_bundle(*built, Path(built[0].name))) for built in others]
    lowest = golden.lowest_score(first[0])
    for index, sample in enumerate(first[0].golden):
        item = golden.item(sample, first[1][sample.file], index)
        if not any(golden.difference(sample, servable.run([item])[0], lowest) for servable in servables):
            yield sample
    for servable in servables:
        servable.close()
