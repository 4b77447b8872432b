"""Keeps freed picture memory in the process instead of handing it back to the kernel after every frame, and hands back
what an unloaded model left.

A decoded 640×480 picture, its copy in Pillow and the model's input are each above glibc's first limits: they were
mapped, faulted in page by page, and unmapped again for every frame, 1.5 ms of 3.6 ms of decode and antialiased resize.
"""

from __future__ import annotations

import ctypes

KEPT_BYTES = (
    16 * 1024**2
)  # at most so much stays at the top of each thread's heap; a 1920×1080 picture has 6.2 MB

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


def keep_freed_memory() -> bool:
    """Set the limits for this whole process; False where the C library has none (it is not glibc)."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, KEPT_BYTES) and mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES))


def return_freed_memory() -> bool:
    """Hand what was freed back to the kernel, once: after a model went; False where nothing was, or it is not glibc."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return False
    return bool(trim(0))
