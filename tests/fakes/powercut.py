"""A disk whose power can be cut: a loop-mounted ext4 image, and copies of it as a cut would have left it.

A cut is a copy of the backing file while the writer is frozen: what the kernel still held in its caches is not in it,
which is exactly what a power cut takes away. `fsfreeze` would write those caches out, and is not used.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import pytest

_COMMAND_S = 30


class PowerCutDisk:
    """A context manager. `path` is the mounted folder, given to the current user; everything is gone at the exit.

    Skips the test where loop devices cannot be mounted (that takes root and a kernel that allows it).
    """

    def __init__(self, size_mb: int) -> None:
        self._size_mb = size_mb
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> PowerCutDisk:
        with contextlib.ExitStack() as undo:
            self._folder = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="powercut-")))
            self._image = self._folder / "disk.img"
            self._format()
            self.path = undo.enter_context(_mounted(self._image, self._folder / "disk"))
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.close()

    def _format(self) -> None:
        if os.geteuid() != 0 or shutil.which("mkfs.ext4") is None:
            pytest.skip("a power-cut disk needs root and mkfs.ext4")
        with self._image.open("wb") as image:
            image.truncate(self._size_mb << 20)
        _run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(self._image))

    @contextlib.contextmanager
    def cut(self) -> Iterator[Path]:
        """The disk as it is found after a power cut now, mounted: its journal replayed, as at a boot.

        Freeze the writers first (SIGSTOP), since the copy takes some milliseconds.
        """
        with tempfile.TemporaryDirectory(prefix="cut-", dir=self._folder) as folder:
            copy = Path(folder) / "disk.img"
            shutil.copyfile(self._image, copy)
            with _mounted(copy, Path(folder) / "disk") as path:
                yield path


@contextlib.contextmanager
def _mounted(image: Path, at: Path) -> Iterator[Path]:
    at.mkdir()
    try:
        _run("mount", "-o", "loop", str(image), str(at))
    except subprocess.CalledProcessError as exc:
        pytest.skip(f"cannot mount a loop device here: {exc.stderr.strip()}")
    try:
        yield at
    finally:
        # Whoever held a file there may still be on its way out: a lazy unmount ends with the last of them.
        if subprocess.run(
            ["umount", str(at)], capture_output=True, timeout=_COMMAND_S, check=False
        ).returncode:
            _run("umount", "-l", str(at))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=_COMMAND_S)
