"""Shared memory of one direction of a slot: a writer that places bytes, a reader that sees them without a copy.

A buffer is an anonymous memfd, so no name can be left behind; it goes with its last user. Its size is sealed, so neither
side can make the other's next access a bus error. A writer that needs more room makes a new buffer and sends its
descriptor along; both sides let a large one go after its message. Who writes when is the slot's business: a buffer has
no lock.
"""

from __future__ import annotations

import fcntl
import mmap
import os

from penstock_models.isolation.channel import ChannelError

SMALLEST_BYTES = 64 * 1024
KEPT_BYTES = 16 * 1024**2  # a larger buffer is not kept for the next message
LARGEST_BYTES = 64 * 1024**2  # copying as much takes the event loop 40 ms

Bytes = bytes | memoryview

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_ALIGNMENT = 64  # of every placed part: whatever dtype a reader sees in it


class TooLarge(Exception):
    """More than `LARGEST_BYTES` at once."""


class Parts:
    """What one message places in a buffer, from its beginning."""

    def __init__(self) -> None:
        self.size = 0
        self.placed: list[tuple[int, int, Bytes]] = []

    def add(self, data: Bytes) -> tuple[int, int]:
        """Where these bytes will lie: offset and size. The parts of one picture, which follow each other, share a place."""
        if self.placed and self.placed[-1][2] is data:
            return self.placed[-1][:2]
        start = self.size
        size = len(data) if type(data) is bytes else memoryview(data).nbytes
        self.placed.append((start, size, data))
        self.size = start + -(-size // _ALIGNMENT) * _ALIGNMENT
        return start, size


class Writer:
    """Places the parts of one message at a time."""

    def __init__(self) -> None:
        self._map: mmap.mmap | None = None

    def place(self, parts: Parts) -> int:
        """Copy the parts in. Gives the descriptor of a new buffer, to be sent with the message and closed, else -1.

        Raises:
            TooLarge: the parts do not fit any buffer.
            OSError: the system has no memory or descriptor for a new one.
        """
        if not parts.size:
            return -1
        if self._map is None or parts.size > len(self._map):
            return self._new(parts)
        for start, size, data in parts.placed:
            self._map[start : start + size] = data
        return -1

    def close(self) -> None:
        if self._map is not None:
            self._map.close()
        self._map = None

    def _new(self, parts: Parts) -> int:
        """A buffer with the parts in it: its pages are made twice as fast by writing as by a fault for each."""
        if parts.size > LARGEST_BYTES:
            raise TooLarge(f"{parts.size} bytes at once, at most {LARGEST_BYTES} cross to a process")
        fd = os.memfd_create("penstock-batch", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, max(SMALLEST_BYTES, 1 << (parts.size - 1).bit_length()))
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            for start, _, data in parts.placed:
                os.pwrite(fd, data, start)
            kept = mmap.mmap(fd, 0) if parts.size <= KEPT_BYTES else None
        except BaseException:
            os.close(fd)
            raise
        self.close()
        self._map = kept
        return fd


class Reader:
    """Sees what the other side placed."""

    def __init__(self) -> None:
        self._view = memoryview(b"")

    def take(self, fd: int) -> None:
        """Look at this buffer from now on; the descriptor is closed here. Views of the one before stay valid.

        Raises:
            ChannelError: it is not what a `Writer` makes, so the next look at it might not return.
        """
        try:
            size = os.fstat(fd).st_size
            if not 0 < size <= LARGEST_BYTES or fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
                raise ChannelError(f"it sent a buffer of {size} bytes, or one that is not sealed")
            self._view = memoryview(mmap.mmap(fd, size, prot=mmap.PROT_READ))
        except OSError as error:
            raise ChannelError(f"it sent what is no buffer ({error.strerror})") from error
        finally:
            os.close(fd)

    def at(self, start: int, size: int) -> memoryview:
        """The bytes of one placed part; they change with the next message.

        Raises:
            ChannelError: they are not all within the buffer.
        """
        if start < 0 or size < 0 or start + size > len(self._view):
            raise ChannelError(f"it sent {size} bytes at {start} of a buffer of {len(self._view)} bytes")
        return self._view[start : start + size]

    def trim(self) -> None:
        """Let a large buffer go; views of it stay valid."""
        if len(self._view) > KEPT_BYTES:
            self._view = memoryview(b"")
