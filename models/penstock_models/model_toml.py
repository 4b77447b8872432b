"""`model.toml`: what an author writes about a model file, and the same said on a command line.

Owns the keys and their defaults. What the model file itself says (tensors, quantization) is added by `pack`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec

from penstock_models import strict_toml
from penstock_models.errors import UsageError
from penstock_models.manifest import Budget, Task
from penstock_models.manifest_rules import MAX_VERSION, NAME
from penstock_models.presets import Preset
from penstock_models.steps.specs import Postprocess, Preprocess

Values = float | int | list[Any]  # a number, or nested lists of numbers
MAX_LABELS_BYTES = 1024**2


class GoldenTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[golden]`: files that are stored with the model's answer to them; paths start at the model.toml's folder."""

    inputs: tuple[str, ...] = ()
    tolerance: float = 0.05


class BudgetTable(Budget, frozen=True, forbid_unknown_fields=True):
    """`[budget]`: p95_ms, rss_mb."""


class ModelToml(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The keys of a model.toml.

    `preprocess` and `postprocess` replace the preset's steps. `state` says which output is fed back to which input
    (`stateN = "state"`), `constants` gives inputs a fixed value (`sr = 16000`). `labels` is a text file with one label
    a line, or a list.
    """

    file: str
    name: str = ""
    version: int = 1
    task: Task | None = None
    labels: str | tuple[str, ...] = ()
    preset: Preset = "raw"
    preprocess: tuple[Preprocess, ...] | None = None
    postprocess: tuple[Postprocess, ...] | None = None
    state: dict[str, str] = {}
    constants: dict[str, Values] = {}
    golden: GoldenTable = GoldenTable()
    budget: BudgetTable = BudgetTable()
    metrics: dict[str, float] = {}
    data_date: str | None = None
    provenance: dict[str, str] = {}
    licence: str | None = None


class Description(msgspec.Struct, frozen=True):
    """A model.toml with its folder: every path is absolute or starts at the working folder, labels are read."""

    model: Path
    name: str
    version: int
    labels: tuple[str, ...]
    golden: tuple[Path, ...]
    toml: ModelToml


def describe(
    source: Path,
    *,
    preset: str | None = None,
    name: str | None = None,
    version: int | None = None,
    labels: Path | None = None,
    golden: tuple[Path, ...] = (),
) -> Description:
    """Read `source`, a model.toml or a model file, and lay the caller's values over it.

    Raises:
        UsageError: a file that cannot be read, an unknown key or preset, a bad name or version.
    """
    is_toml = source.suffix == ".toml"
    toml = strict_toml.load(source, ModelToml) if is_toml else ModelToml(file=source.name)
    folder = source.parent
    if preset is not None:
        toml = msgspec.structs.replace(toml, preset=_preset(preset))
    model = folder / toml.file
    return Description(
        model=model,
        name=_name(name or toml.name or plain_name(model.stem), source),
        version=_version(version if version is not None else toml.version, source),
        labels=_labels(labels or toml.labels, folder),
        golden=golden or tuple(folder / path for path in toml.golden.inputs),
        toml=toml,
    )


def plain_name(text: str) -> str:
    """A file's stem as a model name: lower case, with `_` for what a name may not hold."""
    return re.sub(r"[^a-z0-9_-]+", "_", text.lower()).strip("_")[:64] or "model"


def _preset(preset: str) -> Preset:
    try:
        return msgspec.convert(preset, Preset)  # type: ignore[no-any-return]
    except msgspec.ValidationError as error:
        raise UsageError(
            f"no preset {preset!r}; there are classification, yolox, rfb, autoencoder and raw"
        ) from error


def _name(name: str, source: Path) -> str:
    if not NAME.fullmatch(name):
        raise UsageError(f"{source}: name {name!r}: expected 1 to 64 of a-z, 0-9, `_` and `-`")
    return name


def _version(version: int, source: Path) -> int:
    if not 1 <= version <= MAX_VERSION:
        raise UsageError(f"{source}: version {version}: expected 1 to {MAX_VERSION}")
    return version


def _labels(labels: Path | str | tuple[str, ...], folder: Path) -> tuple[str, ...]:
    if isinstance(labels, tuple):
        return labels
    # A path of the command line starts at the working folder, one of the file at the file's.
    path = labels if isinstance(labels, Path) else folder / labels
    try:
        data = path.read_bytes()
        if len(data) > MAX_LABELS_BYTES:
            raise UsageError(f"labels {path}: {len(data)} bytes, at most {MAX_LABELS_BYTES} are read")
        lines = data.decode("utf-8-sig").splitlines()  # editors of some systems write a mark in front
    except OSError as error:
        raise UsageError(f"cannot read labels {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"labels {path}: not UTF-8 at byte {error.start}; expected one label a line"
        ) from error
    while lines and not lines[-1].strip():
        lines.pop()
    return tuple(line.strip() for line in lines)
