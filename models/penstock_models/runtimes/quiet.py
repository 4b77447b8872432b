"""Keeps a line that a library writes to standard error by itself off it, the first time it would come.

LiteRT says in C++, once a process, that it made its XNNPACK delegate, and the one-line error of a command becomes two.
It has no switch: TF_CPP_MIN_LOG_LEVEL is another logger's, and its own logger's threshold is not exported. So standard
error is held back at the level of the file descriptor, which the whole process shares. Hence the care: only around the
first call that succeeds, one thread at a time, and what others write meanwhile is written out afterwards. Only a child
process that is started within those milliseconds keeps the held file as its standard error.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress

STDERR = 2


class FirstWithout:
    """Calls what it is given; until a call has succeeded, without `line` on standard error. Thread-safe."""

    def __init__(self, line: bytes) -> None:
        self._line = line
        self._lock = threading.Lock()
        self._said = False

    def __call__(self, act: Callable[[], object]) -> None:
        if self._said:
            act()
            return
        with self._lock:
            if self._said:
                act()
            else:
                without(self._line, act)
            self._said = True


def without(line: bytes, act: Callable[[], object]) -> None:
    """Call `act`; what it and other threads write to standard error comes after it, without `line`."""
    with ExitStack() as stack:
        try:
            held = stack.enter_context(tempfile.TemporaryFile())
            kept = os.dup(STDERR)
        except OSError:  # nowhere to hold it, or no standard error: better one line too many than no model
            act()
            return
        os.dup2(held.fileno(), STDERR)
        try:
            act()
        finally:
            os.dup2(kept, STDERR)
            os.close(kept)
            held.seek(0)
            _write(held.read().replace(line, b""))


def _write(text: bytes) -> None:
    with suppress(OSError):  # a reader that left must not cost the model
        while text:
            text = text[os.write(STDERR, text) :]
