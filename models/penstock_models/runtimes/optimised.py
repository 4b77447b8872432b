"""The graph that ONNX Runtime's optimiser made for this CPU, kept: another load need not optimise again.

Whether that pays is measured when an entry is made, and noted in it: of eleven real models, six opened in 0.3 to 0.65 of
the time (5 to 25 ms less), while one whose few bytes unfold into 100 MB of constants opens no faster from a file. A file
is run only if it has the same tensors and gave the same bits on the same input as the model itself.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort  # type: ignore[import-untyped]

from penstock_models.devices.cache import CacheKey, MadeElsewhere, ModelCache
from penstock_models.resident import own_anonymous_bytes

FILE = "model.onnx"
WORTH = 0.75  # of the plain load's time, at most, for an entry to be used
SAVED_S = 0.003  # and at least so much less: finding and verifying an entry takes time too
GROWTH = 4  # times its file's size that a model may take in memory to be worth a file
SPARE_BYTES = 32 * 1024**2

Wish = Callable[[Any], None]
"""Changes session options."""


def as_ever(options: Any) -> None:
    """Optimise while loading, keep nothing."""


def prepared(options: Any) -> None:
    """The model was optimised before."""
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL


def opened(data: bytes, build: Callable[[bytes, Wish], Any], cache: ModelCache, key: CacheKey) -> Any:
    """A session of a model: from its optimised file where that is kept and pays, else of the model itself.

    The first time a model is seen its entry is made: that load takes three to five times as long, and two runs more.

    Args:
        build: makes a session of a model's bytes with changed options; what it raises for `data` itself is raised.
    """
    entry = cache.find(key)
    if entry is None:
        return _made(data, build, cache, key)
    if entry.facts.get("pays"):
        with contextlib.suppress(
            Exception
        ):  # whatever is wrong with the kept file, the model itself is there
            return build((entry.folder / FILE).read_bytes(), prepared)
        cache.drop(key)
    return build(data, as_ever)


def _made(data: bytes, build: Callable[[bytes, Wish], Any], cache: ModelCache, key: CacheKey) -> Any:
    """The model's own session; beside it an entry is made, if only to say that it does not pay."""
    before = own_anonymous_bytes()
    session, plain_s = _timed(build, data, as_ever)
    unfolds = own_anonymous_bytes() - before > GROWTH * len(data) + SPARE_BYTES
    with contextlib.suppress(MadeElsewhere, OSError), cache.making(key) as folder:
        facts = {"pays": 0.0} if unfolds else _measured(data, build, session, plain_s, folder / FILE)
        if not facts["pays"]:
            (folder / FILE).unlink(missing_ok=True)
        cache.publish(key, facts)
    return session


def _measured(
    data: bytes, build: Callable[[bytes, Wish], Any], session: Any, plain_s: float, file: Path
) -> dict[str, float]:
    """Write the optimised file, and note what a load of it takes beside a load of the model."""

    def keep(options: Any) -> None:
        options.optimized_model_filepath = str(file)

    try:
        _, again_s = _timed(build, data, keep)
        other, prepared_s = _timed(build, file.read_bytes(), prepared)
        plain_s = min(plain_s, again_s)  # the first session of a process takes longer, one that writes too
        quicker = prepared_s <= WORTH * plain_s and plain_s - prepared_s >= SAVED_S
        pays = quicker and _alike(session, other)
    except Exception:  # what cannot be written, loaded or run from a file is not kept
        return {"pays": 0.0}
    return {"pays": float(pays), "plain_s": plain_s, "prepared_s": prepared_s}


def _timed(build: Callable[[bytes, Wish], Any], data: bytes, wish: Wish) -> tuple[Any, float]:
    began = time.perf_counter()
    session = build(data, wish)
    return session, time.perf_counter() - began


def _alike(one: Any, other: Any) -> bool:
    """The same tensors by name, type and shape, and the same bits for an input of noise."""
    if _tensors(one) != _tensors(other):
        return False
    feeds = {node.name: _noise(node) for node in one.get_inputs()}
    pairs = zip(one.run(None, feeds), other.run(None, feeds), strict=True)
    return all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in pairs)


def _tensors(session: Any) -> list[tuple[str, str, list[Any]]]:
    return [(node.name, node.type, node.shape) for node in [*session.get_inputs(), *session.get_outputs()]]


def _noise(node: Any) -> Any:
    """Numbers of 0 to 1 where the input takes fractions; zeros for whole numbers of many bits, which may be indices."""
    shape = [axis if isinstance(axis, int) else 1 for axis in node.shape]
    rng = np.random.default_rng(0)
    name = node.type.removeprefix("tensor(").removesuffix(")")
    if name in ("int8", "uint8"):
        return rng.integers(0, 128, shape).astype(name)
    known = {"float": "float32", "double": "float64", "float16": "float16"}
    return rng.random(shape).astype(known[name]) if name in known else np.zeros(shape, name)
