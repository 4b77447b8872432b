"""`model.toml`: what an author writes about a model file, and the same said on a command line.

Owns the keys and their defaults. What the model file itself says (tensors, quantization) is added by `pack`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from penstock_models import strict_toml
from penstock_models.errors import UsageError
from penstock_models.manifest import Budget, Task
from penstock_models.manifest_rules import MAX_GOLDEN, MAX_VERSION, NAME, step_complaints
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
    """A model.toml with its folder: every path is absolute or starts at the working folder, labels are read.

    `source` is the model.toml, None where there is none; `given` are the keys that the caller laid over it.
    """

    model: Path
    name: str
    version: int
    labels: tuple[str, ...]
    golden: tuple[Path, ...]
    toml: ModelToml
    source: Path | None = None
    given: frozenset[str] = frozenset()

    def wrong(self, key: str, message: str) -> UsageError:
        """An error about the value of `key`, such as `state.h`: with file and line where it stands in a model.toml."""
        if self.source is None or key.partition(".")[0] in self.given:
            return UsageError(message)
        bare = message.removeprefix(f"{self.source}: ").removeprefix(f"{key}: ")
        return strict_toml.located(self.source, key, bare)

    @contextmanager
    def blamed(self, key: str) -> Iterator[None]:
        """Lay a usage error of the body at the value of `key`."""
        try:
            yield
        except UsageError as error:
            raise self.wrong(key, str(error)) from error


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
    overlaid = {
        "preset": preset,
        "name": name,
        "version": version,
        "labels": labels,
        "golden": golden or None,
    }
    found = Description(
        model=model,
        name=name or toml.name or plain_name(model.stem),
        version=version if version is not None else toml.version,
        labels=(),
        golden=golden or tuple(folder / path for path in toml.golden.inputs),
        toml=toml,
        source=source if is_toml else None,
        given=frozenset(key for key, value in overlaid.items() if value is not None),
    )
    _check(found, source)
    with found.blamed("labels"):
        return msgspec.structs.replace(found, labels=_labels(labels or toml.labels, folder))


def _check(found: Description, source: Path) -> None:
    """Raise `UsageError` for values out of their range, before the model is read."""
    if not NAME.fullmatch(found.name):
        expected = "expected 1 to 64 of a-z, 0-9, `_` and `-`"
        raise found.wrong("name", f"{source}: name {found.name!r}: {expected}")
    if not 1 <= found.version <= MAX_VERSION:
        raise found.wrong("version", f"{source}: version {found.version}: expected 1 to {MAX_VERSION}")
    tolerance = found.toml.golden.tolerance
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise found.wrong("golden.tolerance", f"expected a finite number ≥ 0, got {tolerance}")
    if len(found.golden) > MAX_GOLDEN:
        raise found.wrong("golden.inputs", f"{len(found.golden)} golden samples, at most {MAX_GOLDEN}")
    _check_steps(found)


def _check_steps(found: Description) -> None:
    for table in ("preprocess", "postprocess"):
        for index, step in enumerate(getattr(found.toml, table) or ()):
            for complaint in step_complaints(step):
                field = re.match(r"\w+(\.\w+) ", complaint)
                raise found.wrong(f"{table}[{index}]{field[1] if field else ''}", complaint)


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
