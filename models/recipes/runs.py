"""What every recipe does first and states last: fixed randomness, and the versions that made the result."""

from __future__ import annotations

import importlib.metadata
import platform

import keras
import tensorflow as tf

_MADE_WITH = ("tensorflow-cpu", "keras", "onnxruntime", "onnx", "opencv-python-headless", "numpy")
_THREADS = 2


def reproducible(seed: int) -> None:
    """Same seed, same versions, same kind of processor: the same bytes. Call it once, before the first tensor."""
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    if not tf.config.threading.get_intra_op_parallelism_threads():
        tf.config.threading.set_intra_op_parallelism_threads(_THREADS)
        tf.config.threading.set_inter_op_parallelism_threads(1)


def versions() -> dict[str, str]:
    """Python and the libraries that shape the numbers, as they are installed here."""
    return {"python": platform.python_version(), **{name: _version(name) for name in _MADE_WITH}}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "absent"
