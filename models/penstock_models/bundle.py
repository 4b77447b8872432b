"""A bundle: an immutable, digest-named package of one model version (contracts 6).

Owns opening (everything is verified before anything is handed out) and writing (atomic, deterministic). Where the
bytes lie is `archive`'s business; what a runtime thinks of a model file is `safety`'s and the runtimes'.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from penstock_models import canonical
from penstock_models.archive import FolderSource, MemorySource, Source, TarSource
from penstock_models.errors import BundleError, UsageError
from penstock_models.manifest import FORMAT, FileEntry, Manifest
from penstock_models.manifest_rules import complaints
from penstock_models.ustar import Member, write_members, write_tar

MANIFEST = "manifest.json"
SUFFIX = ".bundle"
MAX_MANIFEST_BYTES = 4 * 1024**2


class Bundle:
    """A verified bundle. `digest` is `sha256:<hex>` of the manifest's bytes; `path` is where it was opened."""

    def __init__(self, source: Source, path: Path) -> None:
        """Verify everything that `source` holds.

        Raises:
            BundleError: a file that is missing, unlisted, of another size or digest; a manifest that is wrong.
        """
        self.path = path
        self._source = source
        data = manifest_bytes(source, path)
        self.manifest = parse_manifest(data, path)
        self.digest = _digest(data)
        self._entries = {entry.path: entry for entry in self.manifest.files}
        self._verify()

    def read(self, name: str) -> bytes:
        """The bytes of a listed file, verified again: what changed under the gateway is refused, never run.

        Raises:
            BundleError: the file is not listed, or is not what the manifest says.
        """
        entry = self._entries.get(name)
        if entry is None:
            raise BundleError(f"{self.path}: no file {name!r}; it has {', '.join(self._entries)}")
        data = b"".join(self._source.chunks(name))
        _compare(entry, len(data), hashlib.sha256(data).hexdigest(), self.path)
        return data

    def _verify(self) -> None:
        # Sizes first: a wrong one is found without reading.
        _check_sizes(self._source, self.manifest, self.path)
        for entry in self.manifest.files:
            digest = hashlib.sha256()
            for chunk in self._source.chunks(entry.path):
                digest.update(chunk)
            _compare(entry, entry.size, digest.hexdigest(), self.path)

    def members(self, check: Callable[[], None]) -> Iterator[Member]:
        """Every file, the manifest first, as `write_members` takes them; `check` is called before each chunk."""

        def chunks(name: str) -> Iterator[bytes]:
            for chunk in self._source.chunks(name):
                check()
                yield chunk

        for name in [MANIFEST, *sorted(self._entries)]:
            yield Member(name, self._source.sizes[name], chunks(name))


def open_bundle(path: str | Path) -> Bundle:
    """Open a `.bundle` or an unpacked folder and verify all of it; nothing is extracted.

    Raises:
        UsageError: there is nothing at `path`.
        BundleError: what is there is no bundle, or not the one that its manifest states.
    """
    path = Path(path)
    return Bundle(_source(path), path)


class Outline(NamedTuple):
    """What a bundle says of itself. `digest` as `Bundle.digest`."""

    manifest: Manifest
    digest: str


def outline(path: str | Path) -> Outline:
    """Only the manifest, checked in itself, and whether every listed file is there in its size; none is read.

    For listings, not for loading: a wrong content is found by `open_bundle` alone.

    Raises:
        UsageError, BundleError: as `open_bundle`.
    """
    path = Path(path)
    source = _source(path)
    data = manifest_bytes(source, path)
    manifest = parse_manifest(data, path)
    _check_sizes(source, manifest, path)
    return Outline(manifest, _digest(data))


def _digest(manifest_data: bytes) -> str:
    return f"sha256:{hashlib.sha256(manifest_data).hexdigest()}"


def _check_sizes(source: Source, manifest: Manifest, where: object) -> None:
    listed = {entry.path for entry in manifest.files}
    found = source.sizes.keys() - {MANIFEST}
    if unlisted := sorted(found - listed):
        raise BundleError(f"{where}: {unlisted[0]} is not listed in {MANIFEST}")
    if missing := sorted(listed - found):
        raise BundleError(f"{where}: {missing[0]} is listed in {MANIFEST} but not there")
    for entry in manifest.files:
        _compare(entry, source.sizes[entry.path], entry.sha256, where)


def _compare(entry: FileEntry, size: int, sha256: str, where: object) -> None:
    if size != entry.size:
        raise BundleError(f"{where}: {entry.path} has {size} bytes, {MANIFEST} says {entry.size}")
    if sha256 != entry.sha256:
        raise BundleError(
            f"{where}: {entry.path} has sha256 {sha256[:12]}…, {MANIFEST} says {entry.sha256[:12]}…"
        )


def digest_at(path: str | Path) -> str:
    """The digest that a bundle's manifest has now; nothing else of it is read or checked.

    Raises:
        UsageError, BundleError: there is no manifest to be read.
    """
    path = Path(path)
    return _digest(manifest_bytes(_source(path), path))


def _source(path: Path) -> Source:
    place = locate(path)
    return FolderSource(place) if place.is_dir() else TarSource(place)


def locate(path: Path) -> Path:
    """The bundle itself: `path`, or the only `.bundle` within a folder that is none.

    Raises:
        UsageError: there is nothing at `path`, or a folder of several bundles, which is a store.
    """
    if not path.exists():
        raise UsageError(f"no bundle at {path}: expected a {SUFFIX} file or an unpacked folder")
    if not path.is_dir() or (path / MANIFEST).exists():
        return path
    inside = sorted(path.glob(f"[!.]*{SUFFIX}"))
    if len(inside) > 1:
        raise UsageError(f"{path} holds {len(inside)} bundles; name one of them, such as {inside[0]}")
    return inside[0] if inside else path


def manifest_bytes(source: Source, where: object) -> bytes:
    """The bytes of `manifest.json`.

    Raises:
        BundleError: there is none, or it is too large.
    """
    size = source.sizes.get(MANIFEST)
    if size is None:
        raise BundleError(f"{where}: no {MANIFEST}; a bundle is made with `penstock model pack`")
    if size > MAX_MANIFEST_BYTES:
        raise BundleError(f"{where}: {MANIFEST} has {size} bytes, at most {MAX_MANIFEST_BYTES} are read")
    return b"".join(source.chunks(MANIFEST))


def parse_manifest(data: bytes, where: object) -> Manifest:
    """A manifest from its canonical bytes. Unknown keys are skipped, a newer `v` is refused by name.

    Raises:
        BundleError: not JSON, not canonical, a newer format, a wrong type, or a rule of `manifest_rules` broken.
    """
    try:
        raw = json.loads(data)
        canonical_bytes = canonical.dumps(raw)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{where}: {MANIFEST} is not JSON: {error}") from error
    _check_format(raw, where)
    if canonical_bytes != data:
        raise BundleError(
            f"{where}: {MANIFEST} is not canonical JSON (RFC 8785); write it with `penstock model pack`"
        )
    try:
        manifest = msgspec.convert(raw, Manifest)
    except msgspec.ValidationError as error:
        raise BundleError(f"{where}: {MANIFEST}: {error}") from error
    for complaint in complaints(manifest):
        raise BundleError(f"{where}: {MANIFEST}: {complaint}")
    return manifest


def _check_format(raw: Any, where: object) -> None:
    version = raw.get("v") if isinstance(raw, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise BundleError(f"{where}: {MANIFEST} has no format version `v`; expected {FORMAT}")
    if version > FORMAT:
        raise BundleError(
            f"{where}: {MANIFEST} has format v {version}, this penstock reads up to v {FORMAT}; upgrade it"
        )


def seal(manifest: Manifest, files: Mapping[str, bytes]) -> bytes:
    """The canonical manifest bytes for `files`: sizes and digests filled in, sorted by path.

    Raises:
        BundleError: a number that JSON cannot hold, such as NaN in a golden answer.
    """
    entries = tuple(
        FileEntry(name, len(files[name]), hashlib.sha256(files[name]).hexdigest()) for name in sorted(files)
    )
    plain = msgspec.to_builtins(msgspec.structs.replace(manifest, files=entries))
    try:
        return canonical.dumps({**plain, "v": FORMAT})
    except ValueError as error:
        raise BundleError(f"{manifest.name}: the manifest cannot be written: {error}") from error


def memory_bundle(manifest: Manifest, files: Mapping[str, bytes], path: Path) -> Bundle:
    """A verified bundle that was never written; `path` says where it comes from.

    Raises:
        BundleError: as `open_bundle`.
    """
    return Bundle(MemorySource({**files, MANIFEST: seal(manifest, files)}, path), path)


def write_bundle(manifest: Manifest, files: Mapping[str, bytes], out: Path) -> Path:
    """Write a bundle and say where. Equal input gives equal bytes; the file appears whole or not at all.

    Args:
        manifest: its `files` are filled in here.
        files: by name, without `manifest.json`.
        out: a path that ends in `.bundle`, or a folder (made if needed) that gets `NAME-VERSION.bundle`.

    Raises:
        BundleError: the manifest or a file name breaks a rule of the format.
        UsageError: the place cannot be written.
    """
    target = out if out.suffix == SUFFIX else out / f"{manifest.name}-{manifest.version}{SUFFIX}"
    memory_bundle(manifest, files, target)  # what could not be opened is never written
    write_tar({**files, MANIFEST: seal(manifest, files)}, MANIFEST, target)
    return target


def copy_bundle(bundle: Bundle, out: Path, check: Callable[[], None]) -> None:
    """Write a bundle with the same digest, chunk by chunk; the file appears whole or not at all.

    Args:
        check: called before each chunk; what it raises ends the copy, and nothing is left behind.

    Raises:
        BundleError: a file is shorter than it was.
        UsageError: the place cannot be written.
    """
    write_members(bundle.members(check), out)
