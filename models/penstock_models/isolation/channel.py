"""One end of the socket between a host and its process: bounded messages, each with at most one file descriptor.

A SOCK_SEQPACKET pair keeps the bounds of messages, so there is no framing. Never waits: the events are the loop's. What
the messages mean is `line`'s business.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
from typing import NamedTuple

MAX_MESSAGE = 16 * 1024
_SPACE = socket.CMSG_SPACE(4 * array.array("i").itemsize)


class ChannelError(Exception):
    """The other end is gone (`closed`), does not take its messages, or does not keep to the rules. One line."""

    def __init__(self, message: str, *, closed: bool = False) -> None:
        super().__init__(message)
        self.closed = closed


class Message(NamedTuple):
    """`fd` is -1 where none came along; else it is the taker's, to be closed by it."""

    data: bytes
    fd: int


class Channel:
    """Sends and receives without waiting."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end

    def fileno(self) -> int:
        return self._end.fileno()

    def send(self, data: bytes, fd: int = -1) -> None:
        """Send one message; the other end gets a copy of `fd`.

        Raises:
            ChannelError: the message is too long, the other end is gone, or its queue is full. At most one answer and
                one call a slot are under way, which the kernel's queue takes: who lets it fill up does not read.
        """
        if len(data) > MAX_MESSAGE:
            raise ChannelError(f"a message of {len(data)} bytes, at most {MAX_MESSAGE} are sent")
        rights = [] if fd < 0 else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        try:
            self._end.sendmsg([data], rights)
        except BlockingIOError as error:
            raise ChannelError("it does not take its messages: its queue is full") from error
        except OSError as error:
            raise ChannelError(f"its socket is closed ({error.strerror})", closed=True) from error

    def receive(self) -> Message | None:
        """The next message, or None where there is none now.

        Raises:
            ChannelError: the other end is gone, or sent more than is allowed.
        """
        try:
            data, rights, flags, _ = self._end.recvmsg(MAX_MESSAGE, _SPACE)
        except BlockingIOError:
            return None
        except OSError as error:
            raise ChannelError(f"its socket is closed ({error.strerror})", closed=True) from error
        fds = _descriptors(rights)
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or len(fds) > 1:
            close_all(fds)
            raise ChannelError(f"it sent more than {MAX_MESSAGE} bytes or more than one descriptor at once")
        if not data:
            raise ChannelError("its socket is closed", closed=True)
        return Message(data, fds[0] if fds else -1)

    def close(self) -> None:
        self._end.close()


def _descriptors(rights: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in rights:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)


def close_all(fds: list[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
