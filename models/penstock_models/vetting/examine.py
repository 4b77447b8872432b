"""Loads a foreign model, runs it and measures it: the work of a vetting child, within its limits.

Owns the order of it and which reason an error means. Opening, loading and golden answers are those of `bundle` and
`servable`, as a serving process does them, so that a verdict says what would happen there.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np

from penstock_models import golden, safety
from penstock_models.allocator import keep_freed_memory
from penstock_models.archive import MAX_TOTAL_BYTES
from penstock_models.bundle import Bundle, memory_bundle, open_bundle
from penstock_models.errors import GoldenError, PenstockError, out_of_memory
from penstock_models.items import Item, Refusal
from penstock_models.manifest import TensorSpec
from penstock_models.runtimes import available, open_session
from penstock_models.runtimes.session import RunError
from penstock_models.servable import Servable
from penstock_models.store import describe_bare
from penstock_models.ustar import write_into
from penstock_models.vetting import confine
from penstock_models.vetting.footprint import Footprint
from penstock_models.vetting.verdict import (
    Progress,
    Request,
    Vetted,
    over_memory,
    reason_of,
    refused,
)

T = TypeVar("T")

Tell = Callable[[Progress], None]

_MODULES = {"onnx": "penstock_models.runtimes.ort", "tflite": "penstock_models.runtimes.litert"}


class _Trial:
    """One request being worked on; knows what it is at."""

    def __init__(self, request: Request, tell: Tell) -> None:
        self.request = request
        self.place = Path(f"/proc/self/fd/{request.descriptor}")
        self.stage = ""
        self.bundle: Bundle | None = None
        self._tell = tell

    def at(self, stage: str, done: int = 0, total: int = 0) -> None:
        self.stage = stage
        self._tell(Progress(stage, done, total))

    def confined(self, runtimes: Iterable[str]) -> Footprint:
        """Import the runtimes, then bound what comes, and measure from here."""
        for runtime in sorted(set(runtimes)):
            if available(runtime):
                importlib.import_module(_MODULES[runtime])
        keep_freed_memory()
        request = self.request
        file_bytes = MAX_TOTAL_BYTES if request.out is not None else confine.MAX_FILE_BYTES
        limits = request.limits
        confine.limit(limits.memory_bytes, limits.cpu_s, request.devices, file_bytes)
        return Footprint()


def examine(request: Request, tell: Tell) -> Vetted:
    """The verdict on what `request` names; never raises for a model or a bundle.

    Args:
        tell: called with each step before it is taken, so that whoever waits knows where it ended.
    """
    trial = _Trial(request, tell)
    trial.at("opening it")
    try:
        verdict = _tried(trial)
    except Exception as error:  # whatever it makes us raise
        verdict = _refusal(trial, error)
    if trial.bundle is None:
        return verdict
    manifest = trial.bundle.manifest
    return msgspec.structs.replace(
        verdict, digest=trial.bundle.digest, files=len(manifest.files), golden=len(manifest.golden)
    )


def _tried(trial: _Trial) -> Vetted:
    match trial.request.kind:
        case "bundle":
            bundle = open_bundle(trial.place)
            runtimes = {variant.runtime for variant in bundle.manifest.variants}
            return _version(trial, bundle, trial.confined(runtimes))
        case "bare":
            return _version(trial, *_packed(trial))
        case "pack":
            return _written(trial, _packed(trial)[0])
        case "model":
            return _model(trial)


def _version(trial: _Trial, bundle: Bundle, footprint: Footprint) -> Vetted:
    trial.bundle = bundle
    trial.at("loading it")
    advance = partial(trial.at, "running its golden samples")
    request = trial.request
    servable = _in_thread(
        partial(Servable.open_checked, bundle, request.devices, runs=request.runs, advance=advance)
    )
    _in_thread(partial(_run_batches, trial, servable, bundle))
    return Vetted(
        True,
        placement=servable.info.placement,
        resident_bytes=footprint.resident_bytes(),
        peak_bytes=footprint.peak_bytes(),
        base_bytes=footprint.base_bytes,
    )


def _packed(trial: _Trial) -> tuple[Bundle, Footprint]:
    """A folder with a model file and no manifest, made a bundle in memory, as a store does."""
    # Packing imports a good deal that no bundle needs.
    from penstock_models.pack import build, read_model

    description = describe_bare(trial.place, trial.request.name, trial.request.version)
    runtime = safety.check(read_model(description.model), description.model.name)
    footprint = trial.confined([runtime])
    trial.at("packing it")
    manifest, files = build(description)
    return memory_bundle(manifest, files, trial.place), footprint


def _written(trial: _Trial, bundle: Bundle) -> Vetted:
    """The bundle, written and durable where the parent wants it."""
    assert trial.request.out is not None
    trial.at("writing its bundle")
    with os.fdopen(trial.request.out, "wb") as file:
        write_into(file, bundle.members(lambda: None))
        file.flush()
        os.fsync(file.fileno())
    return Vetted(True)


def _model(trial: _Trial) -> Vetted:
    """One model file before it has steps: it opens, and runs zeros where it takes them."""
    data = trial.place.read_bytes()
    runtime = safety.check(data, trial.request.shown)
    trial.confined([runtime])
    trial.at("loading it")
    session = open_session(data, runtime, devices=trial.request.devices)
    trial.at("running zeros")
    # It may refuse zeros, such as a picture of one pixel.
    _answers(partial(session.run, {spec.name: _zeros(spec) for spec in session.inputs}))
    return Vetted(True)


def _in_thread(call: Callable[[], T]) -> T:
    """Load in one thread and run in another, as a serving process does: each has a heap of its own, which counts."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(call).result()


def _zeros(spec: TensorSpec) -> np.ndarray:
    return np.zeros([1 if size is None else size for size in spec.shape], spec.dtype)


def _run_batches(trial: _Trial, servable: Servable, bundle: Bundle) -> None:
    """Run whole batches of 1, 2, 4 … items, until the model takes no more.

    Zeros come first, in one call: of items that do not fit into the memory a servable would run halves, and nobody would
    hear of it. And a runtime plans its memory in the first run of a size, and takes it in the second.

    Raises:
        RunError: a batch did not fit into the memory.
    """
    sample = next(iter(bundle.manifest.golden), None)
    data = bundle.read(sample.file) if sample else b""
    rows = 1
    while rows <= servable.info.max_batch:
        trial.at(f"running batches of {rows}")
        zeros = run = partial(servable.trial, rows)
        if sample:
            items = [golden.item(sample, data, index) for index in range(rows)]
            run = partial(_run, servable, items)
        if not any([_answers(zeros), _answers(run)]):
            return
        rows *= 2


def _answers(run: Callable[[], object]) -> bool:
    """Whether the model takes what it is given.

    Raises:
        RunError: that did not fit into the memory.
    """
    try:
        run()
    except RunError as error:
        if out_of_memory(str(error)):
            raise
        return False
    return True


def _run(servable: Servable, items: list[Item]) -> None:
    outcomes = servable.run(items)
    for item in items:
        servable.forget(item.stream)
    for outcome in outcomes:
        if isinstance(outcome, Refusal):
            raise RunError(outcome.detail)


def _refusal(trial: _Trial, error: Exception) -> Vetted:
    request = trial.request
    problems = error.problems if isinstance(error, GoldenError) else ()
    text = str(error) if isinstance(error, PenstockError) else f"{type(error).__name__}: {error}"
    said = " ".join([text, *problems])
    if out_of_memory(said):
        told = over_memory(request.limits.memory_bytes, trial.stage, said)
        return refused("memory", f"{request.shown}: {told}")
    reason = reason_of(error)
    # With the path that people know in the place of the open file's.
    placed = [
        t.replace(str(trial.place), request.shown) for t in (text.removeprefix(f"{reason}: "), *problems)
    ]
    return refused(reason, placed[0], tuple(placed[1:]))
