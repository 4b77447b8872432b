"""A model store: a folder of bundles, or of `model/<version>/` folders (contracts 6).

Owns what a reference such as `person:7` means in a folder, and opening what it points to. Nothing is cached and
nothing is watched: each call looks at the folder as it is (`versions.source` watches). What a label points to is known
to a running gateway only, never to a folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from penstock_models.bundle import MANIFEST, SUFFIX, Bundle, locate, memory_bundle, open_bundle, outline
from penstock_models.errors import BundleError, PenstockError, UsageError
from penstock_models.manifest_rules import MAX_VERSION, NAME

if TYPE_CHECKING:
    from penstock_models.model_toml import Description

MODEL_TOML = "model.toml"
MODEL_FILES = ("model.onnx", "model.tflite")
MAX_ENTRIES = 10_000
_REFERENCE = re.compile(r"(?P<name>[^:@]+)(?::(?P<version>[^:@]+)|@(?P<label>[^:@]+))?")


class Version(NamedTuple):
    """A version that lies in a store. `error` says why it cannot be used, "" where nothing is known against it.

    `digest` is the bundle's, "" for a bare model file, which has none before it is packed.
    """

    name: str
    version: int
    path: Path
    error: str = ""
    digest: str = ""


class Place(NamedTuple):
    """Where a version may lie, not yet looked at: a bundle, which says itself what it is, or a MODEL/VERSION folder."""

    path: Path
    name: str = ""
    version: int = 0
    error: str = ""


class Reference(msgspec.Struct, frozen=True):
    """NAME (whichever version serves), NAME:VERSION or NAME@LABEL."""

    name: str
    version: int | None = None
    label: str = ""

    def __str__(self) -> str:
        if self.version is not None:
            return f"{self.name}:{self.version}"
        return f"{self.name}@{self.label}" if self.label else self.name


def parse_reference(text: str) -> Reference:
    """Read NAME, NAME:VERSION or NAME@LABEL.

    Raises:
        UsageError: it is none of them.
    """
    match = _REFERENCE.fullmatch(text)
    if match is None or not NAME.fullmatch(match["name"]):
        raise UsageError(
            f"model {text!r}: expected NAME, NAME:VERSION or NAME@LABEL, NAME of a-z, 0-9, `_` and `-`"
        )
    if match["label"]:
        return Reference(match["name"], label=check_label(match["label"]))
    if match["version"] is None:
        return Reference(match["name"])
    if not names_version(Path(match["version"])):
        raise UsageError(f"model {text!r}: version {match['version']}: expected 1 to {MAX_VERSION}")
    return Reference(match["name"], int(match["version"]))


def check_label(text: str) -> str:
    """Let through a label: as a name, but not of digits alone, which would read as a version.

    Raises:
        UsageError: it is none.
    """
    if not NAME.fullmatch(text) or text.isdigit():
        raise UsageError(
            f"label {text!r}: expected 1 to 64 of a-z, 0-9, `_` and `-`, not digits alone, such as `stable`"
        )
    return text


def places(store: Path) -> list[Place]:
    """Where versions may lie in a store; nothing is opened. A folder that cannot be listed is named by its `error`.

    Raises:
        UsageError: there is no such folder, or it cannot be listed.
    """
    try:
        if not store.is_dir():
            raise UsageError(
                f"no model store at {store}: expected a folder of bundles or of MODEL/VERSION/ folders"
            )
        return [place for path in _entries(store) for place in _in_entry(path)]
    except OSError as error:
        raise UsageError(f"cannot read the model store {store}: {error.strerror}") from error


def look(place: Place) -> Version:
    """What lies at a place: its manifest and the sizes of its files are checked, their contents are not read."""
    if place.error:
        return Version(place.name or place.path.name, place.version, place.path, place.error)
    try:
        return _version_folder(place) if place.name else _bundle(place.path)
    except OSError as error:
        name, number = (place.name, place.version) if place.name else _by_file_name(place.path)
        return Version(name, number, place.path, f"cannot read {place.path}: {error.strerror}")


def versions(store: Path) -> list[Version]:
    """Everything in a store, by name and version; a broken entry is listed with its error, and disturbs no other.

    Raises:
        UsageError: there is no such folder.
    """
    return sorted(map(look, places(store)), key=lambda v: (v.name, v.version))


def resolve(store: Path, reference: str) -> Path:
    """Where the model that `reference` names lies: a bundle, or a version's folder; `open_version` opens both.

    Raises:
        UsageError: a bad reference, one with a label, or no such model; the message lists what there is.
        BundleError: the wanted version is there and cannot be used.
    """
    wanted = parse_reference(reference)
    if wanted.label:
        raise UsageError(
            f"model {reference!r}: a folder has no labels, a running gateway has; write NAME or NAME:VERSION"
        )
    known = versions(store)
    named = [v for v in known if v.name == wanted.name and wanted.version in (None, v.version)]
    usable = [v for v in named if not v.error]
    if not usable and named:
        raise BundleError(f"model {reference!r}: {named[-1].error}")
    if not usable:
        raise UsageError(f"no model {reference!r} in {store}; it has {_listed(known)}")
    best = usable[-1]
    twins = [v for v in usable if v.version == best.version]
    if len(twins) > 1:
        raise BundleError(
            f"model {reference!r}: version {best.version} lies in {twins[0].path} and in {twins[1].path}"
        )
    return best.path


def open_version(path: Path) -> Bundle:
    """Open a bundle, or make one in memory from a folder with a single model file and an optional model.toml.

    Raises:
        UsageError, BundleError: as `open_bundle` and `pack`.
    """
    if holds_bundle(path):
        return open_bundle(path)
    # Packing loads the runtimes, which a reader of bundles does not need.
    from penstock_models.pack import build

    manifest, files = build(describe_bare(path, *bare_identity(path)))
    return memory_bundle(manifest, files, path)


def describe_bare(path: Path, name: str, version: int | None) -> Description:
    """What is to be packed of a folder with a single model file.

    Raises:
        UsageError: as `describe`.
        BundleError: there is no such file in it.
    """
    from penstock_models.model_toml import describe

    source = _bare_source(path)
    if source is None:
        raise BundleError(f"{path}: neither {MANIFEST} nor one of {MODEL_TOML}, {', '.join(MODEL_FILES)}")
    return describe(source, name=name, version=version)


def bare_identity(path: Path) -> tuple[str, int | None]:
    """Name and version of a folder with a single model file: it lies as NAME/VERSION, else it is NAME."""
    return (path.parent.name, int(path.name)) if names_version(path) else (path.name, None)


def _entries(folder: Path) -> Iterator[Path]:
    """A folder's visible entries; names that begin with a dot are files in the making."""
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    if len(entries) > MAX_ENTRIES:
        raise UsageError(f"{folder}: {len(entries)} entries, at most {MAX_ENTRIES} are looked at")
    yield from entries


def _in_entry(path: Path) -> Iterator[Place]:
    try:
        if not path.is_dir():
            found = [Place(path)] if path.suffix == SUFFIX else []
        elif (path / MANIFEST).exists():
            found = [Place(path)]
        else:
            found = [
                Place(folder, path.name, int(folder.name))
                for folder in _entries(path)
                if folder.is_dir() and names_version(folder)
            ]
    except OSError as error:
        found = [Place(path, error=f"cannot read {path}: {error.strerror}")]
    except UsageError as error:
        found = [Place(path, error=str(error))]
    yield from found


def names_version(path: Path) -> bool:
    """Whether a folder's name is a version. Digits of other scripts are none, and `0` is none."""
    return re.fullmatch(r"[1-9][0-9]{0,18}", path.name) is not None and int(path.name) <= MAX_VERSION


def _by_file_name(path: Path) -> tuple[str, int]:
    stem, _, number = path.stem.rpartition("-")
    return stem or path.stem, int(number) if names_version(Path(number)) else 0


def _bundle(path: Path) -> Version:
    """A bundle goes by its manifest; by its file's name only where the manifest cannot be read."""
    try:
        found = outline(path)
    except PenstockError as error:
        return Version(*_by_file_name(path), path, str(error))
    return Version(found.manifest.name, found.manifest.version, path, "", found.digest)


def _version_folder(place: Place) -> Version:
    folder, name, version, _ = place
    if not holds_bundle(folder):
        missing = f"{folder}: neither {MANIFEST} nor one of {MODEL_TOML}, {', '.join(MODEL_FILES)}"
        return Version(name, version, folder, "" if _bare_source(folder) else missing)
    found = _bundle(folder)
    if not found.error and (found.name, found.version) != (name, version):
        error = f"{folder}: the manifest is of {found.name}:{found.version}, the folder of {name}:{version}"
        return Version(name, version, folder, error)
    return Version(name, version, folder, found.error, found.digest)


def holds_bundle(path: Path) -> bool:
    """Whether it is a bundle: a file, an unpacked one, or a folder with one `.bundle` in it.

    Raises:
        UsageError: there is nothing at `path`, or a folder of several bundles.
    """
    return not path.is_dir() or (path / MANIFEST).exists() or locate(path) != path


def _bare_source(folder: Path) -> Path | None:
    """The model.toml or the single model file of a version's folder."""
    if (folder / MODEL_TOML).is_file():
        return folder / MODEL_TOML
    models = [folder / name for name in MODEL_FILES if (folder / name).is_file()]
    return models[0] if len(models) == 1 else None


def _listed(known: list[Version]) -> str:
    names = ", ".join(f"{v.name}:{v.version}" for v in known[:20])
    return f"{names}{', …' if len(known) > 20 else ''}" if known else "no models"
