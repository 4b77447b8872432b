"""What survives a restart: which versions served, and the labels that were moved at run time.

One small JSON file. It is replaced as a whole and synced, so a kill at any point leaves the old one or the new one. A file
that cannot be read is named and left out; the next write replaces it.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from penstock_models.files import replacing, sweep

FORMAT = 1
MAX_BYTES = 4 * 1024**2


class Served(msgspec.Struct, frozen=True):
    """A version that was available: `digest` finds its staged copy, `stamp` the files that it was made of."""

    version: int
    digest: str
    stamp: str


class Moved(msgspec.Struct, frozen=True):
    """A label set at run time, 0 for a removed one; `over` is what the configuration said then, 0 for nothing.

    It holds until the configuration says something else.
    """

    version: int
    over: int = 0


class ModelRecord(msgspec.Struct, frozen=True):
    """`labels` is where they pointed; `moved` those of them that were set at run time, and those removed."""

    served: tuple[Served, ...] = ()
    labels: dict[str, int] = {}
    moved: dict[str, Moved] = {}


class Record(msgspec.Struct, frozen=True):
    models: dict[str, ModelRecord] = {}
    v: int = FORMAT


class _Head(msgspec.Struct):
    v: int


class RecordFile:
    """The file. Blocks on the disk."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> tuple[Record, str]:
        """What was recorded, and "" or what is wrong with the file, in which case nothing was."""
        sweep(self._path.parent)
        try:
            with self._path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            return Record(), ""
        except OSError as error:
            return Record(), f"{self._path}: cannot be read: {error.strerror}; labels start anew"
        try:
            version = msgspec.json.decode(data, type=_Head).v
            if version > FORMAT:
                return Record(), (
                    f"{self._path}: format v {version}, this penstock reads up to v {FORMAT}; labels start anew"
                )
            return msgspec.json.decode(data, type=Record), ""
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return Record(), f"{self._path}: {error}; labels start anew"

    def save(self, record: Record) -> None:
        """Replace the file.

        Raises:
            OSError: it cannot be written; the old one is as it was.
        """
        with replacing(self._path) as file:
            file.write(msgspec.json.encode(record))
