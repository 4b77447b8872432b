"""A servable: one bundle version, loaded. Items in, outcomes out, one call a batch.

It joins the parts: `feeding` (decode, preprocess), `engine` (the session), `steps.answers` (postprocess), `carried`
(what stateful models remember). Threads and time limits are the executor's business.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

import msgspec
import numpy as np

from penstock_models.answer_cache import AnswerCache, fed_key
from penstock_models.bundle import Bundle
from penstock_models.carried import Carried, Memory
from penstock_models.devices.cache import ModelCache
from penstock_models.engine import Engine, OutputError
from penstock_models.errors import BundleError, GoldenError, out_of_memory
from penstock_models.feeding import Fed, Feeder, Pictures, takes_pictures
from penstock_models.images import MAX_PIXELS
from penstock_models.items import Answer, Item, Outcome, Refusal, ServableInfo
from penstock_models.manifest import Manifest, TensorSpec
from penstock_models.proof import Proof
from penstock_models.rejection import Rejection
from penstock_models.runtimes.session import Array, RunError, RunTerminated, Session
from penstock_models.steps.answers import Postprocess, Ran, Source
from penstock_models.steps.specs import Layout, Resize
from penstock_models.steps.values import dequantize
from penstock_models.variants import none_runs, sessions

WARMUP_RUNS = 5
WARMUP_S = 0.5  # no further warm-up run begins after this
CONTEXT = "context"  # the memory key of a context step; no tensor can take it, it is not an input's name

TIMED_OUT = Refusal("failed", "model_timeout", "the run was ended at its time limit", suspect=True)


class Servable:
    """A loaded version. `run` may be called from several threads at once, but not twice at a time for one stream of a
    stateful version."""

    def __init__(self, bundle: Bundle, session: Session, max_pixels: int, cache_bytes: int = 0) -> None:
        """Plan the way of an item, warm up and measure; `open` is the usual way in."""
        manifest = bundle.manifest
        self._bundle = bundle
        self._session = session
        self._engine = Engine(manifest, session, pictures=takes_pictures(manifest))
        self._feeder = Feeder(
            manifest, self._engine.inputs, batched=self._engine.batched, max_pixels=max_pixels
        )
        self._postprocess = Postprocess(
            manifest, self._engine.outputs, _picture_size(manifest, self._engine.inputs[0])
        )
        self._carried = Carried()
        self._stateful = bool(manifest.states) or self._feeder.has_context
        if manifest.states and self._feeder.has_window:
            raise BundleError(
                f"{manifest.name}: a window step cannot feed state tensors; send one window an item"
            )
        self._lock = threading.Lock()
        self._ended: dict[int, bool] = {}
        self._cache = AnswerCache(0 if self._stateful else cache_bytes)
        self._proof = Proof(bundle, self._engine, self._run_fresh, self.forget)
        self.info = self._describe(_warm_up(self._engine))

    @classmethod
    def open(
        cls, bundle: Bundle, devices: Sequence[str] = (), threads: int = 1, *, max_pixels: int = MAX_PIXELS
    ) -> Servable:
        """Open the best variant that this machine can run.

        Raises:
            ModelRefused, BundleError: the file or its steps are wrong.
            PlacementError: no variant could be proven on a wanted device.
        """
        passed: list[str] = []
        for session in sessions(bundle, devices, threads, passed):
            return cls(bundle, session, max_pixels)
        raise none_runs(bundle, passed)

    @classmethod
    def open_checked(
        cls,
        bundle: Bundle,
        devices: Sequence[str] = (),
        threads: int = 1,
        *,
        max_pixels: int = MAX_PIXELS,
        cache_bytes: int = 0,
        model_cache: ModelCache | None = None,
        runs: int = 1,
        advance: Callable[[int, int], None] | None = None,
    ) -> Servable:
        """Open the best variant and device that give the golden answers, and warm it up: one that errs is passed over.

        Args:
            cache_bytes: of answers to keep for inputs that come again; 0 for none.
            model_cache: where a runtime keeps what it made of the model, for the next time; None for nowhere.
            runs: how many batches will run at once.
            advance: called after each golden sample with how many of how many are done.

        Raises:
            ModelRefused, BundleError, PlacementError: as `open`.
            GoldenError: a golden answer is wrong wherever the model runs; every reason is named.
        """
        passed: list[str] = []
        wrong: list[str] = []
        for session in sessions(bundle, devices, threads, passed, model_cache):
            servable = cls(bundle, session, max_pixels, cache_bytes)
            problems = servable.golden(advance)
            if not problems:
                servable.warm(runs)
                return servable
            servable.close()
            wrong += problems
            passed.append(f"{servable.info.placement}: a golden answer is wrong here: {problems[0]}")
        if wrong:
            raise GoldenError(f"{bundle.path}: {'; '.join(passed)}", wrong)
        raise none_runs(bundle, passed)

    def run(self, items: Sequence[Item]) -> list[Outcome]:
        """Decode, preprocess, run and postprocess a batch. As many outcomes as items, in order; never raises for one.

        A bad item never fails its batch: it is found before the batch is formed, or by halving a batch that fails.
        After `terminate` the items without an answer are `failed: model_timeout`.
        """
        return self._run(items, self._cache)

    def _run_fresh(self, items: Sequence[Item]) -> list[Outcome]:
        """The same, without the cache: what is to prove the model must run it."""
        return self._run(items, None)

    def _run(self, items: Sequence[Item], cache: AnswerCache | None) -> list[Outcome]:
        thread = threading.get_ident()
        with self._lock:
            self._ended[thread] = False
        try:
            return self._run_stateful(items) if self._stateful else self._run_batch(items, cache)
        except RunTerminated:
            return [TIMED_OUT] * len(items)
        finally:
            with self._lock:
                self._ended.pop(thread, None)

    def terminate(self, thread: int | None = None) -> None:
        """End the run in progress of one thread (`threading.get_ident()`), or of all, where the runtime can.

        LiteRT cannot be interrupted: there the run ends before its next chunk.
        """
        with self._lock:
            for ident in self._ended:
                if thread is None or ident == thread:
                    self._ended[ident] = True
        self._session.terminate(thread)

    def forget(self, stream: str) -> None:
        """Drop what a stateful version carries for a stream: its next item starts from zeros."""
        self._carried.forget(stream)

    def golden(self, advance: Callable[[int, int], None] | None = None) -> list[str]:
        """Run the golden samples and say what is wrong, one line a problem; empty when all is right.

        Args:
            advance: called after each with how many of how many are done.
        """
        return self._proof.golden(advance)

    def trial(self, rows: int) -> None:
        """Run rows of zeros in one call.

        Raises:
            RunError: the model cannot take them.
        """
        self._engine.trial(rows)

    def probe(self) -> bool:
        """Run the first golden sample, or zeros where the bundle has none, and say whether the answer was right."""
        return self._proof.probe()

    def warm(self, runs: int = 1) -> None:
        """Run batches of every size that it will be given, note their times in `info`, and make ready for so many at once."""
        batch_ms = self._proof.warm()
        self.make_ready(runs)
        self.probe()  # the run that it still wants; the answers were proven before
        self.info = msgspec.structs.replace(self.info, batch_ms=batch_ms, max_batch=self._engine.max_batch)

    def make_ready(self, runs: int) -> None:
        """Make ready for so many runs at once, of every size that has run; the next run is a slow one."""
        self._session.warmed(runs)

    def close(self) -> None:
        """Free the session; runs in progress end first by themselves."""
        self._session.close()

    def _run_batch(self, items: Sequence[Item], cache: AnswerCache | None) -> list[Outcome]:
        whole = None if cache else self._feeder.joined(items)
        if whole is not None:
            return self._run_fed([whole], [Source()] * len(items), None)[0]
        return self._run_each(items, [{}] * len(items), cache)[0]

    def _run_stateful(self, items: Sequence[Item]) -> list[Outcome]:
        """In rounds of one item a stream, each from where the round before left its stream.

        Nothing is remembered of a run that was ended: an item that is run again must not count twice.
        """
        outcomes: list[Outcome] = [TIMED_OUT] * len(items)
        changed: dict[str, Memory] = {}
        for turn in _rounds(items):
            streams = [items[i].stream for i in turn]
            memories = [changed.get(s) or self._carried.get(s) for s in streams]
            answers, news = self._run_each([items[i] for i in turn], memories)
            for index, stream, answer, new in zip(turn, streams, answers, news, strict=True):
                outcomes[index] = answer
                if new is not None and isinstance(answer, Answer):
                    changed[stream] = new
        self._check_ended()
        self._carried.commit(changed)
        return outcomes

    def _run_each(
        self, items: Sequence[Item], memories: Sequence[Memory], cache: AnswerCache | None = None
    ) -> tuple[list[Outcome], list[Memory | None]]:
        """Feed items one by one, then run those together whose rows have the same shape, and that are not in the cache."""
        outcomes: list[Outcome] = [TIMED_OUT] * len(items)
        news: list[Memory | None] = [None] * len(items)
        ready: list[tuple[int, Fed]] = []
        pictures: Pictures = {}
        for index, item in enumerate(items):
            try:
                ready.append((index, self._feeder.feed(item, memories[index].get(CONTEXT), pictures)))
            except Rejection as why:
                outcomes[index] = why.refusal()
        keys: dict[int, bytes] = {}
        if cache:
            keys = {index: fed_key(fed) for index, fed in ready}
            for index, fed in ready:
                if (hit := cache.get(keys[index], fed.source.decode_ms)) is not None:
                    outcomes[index] = hit
                    del keys[index]
            ready = [(index, fed) for index, fed in ready if index in keys]
        for group in _alike(ready):
            feds = [fed for _, fed in group]
            held = [memories[index] for index, _ in group] if self._stateful else None
            answers, new = self._run_fed(feds, [fed.source for fed in feds], held)
            for (index, fed), answer, memory in zip(group, answers, new, strict=True):
                outcomes[index] = answer
                if cache and isinstance(answer, Answer):
                    cache.put(keys[index], answer)
                news[index] = memory if fed.context is None else {**(memory or {}), CONTEXT: fed.context}
        return outcomes, news

    def _run_fed(
        self, feds: Sequence[Fed], sources: Sequence[Source], memories: Sequence[Memory] | None
    ) -> tuple[list[Outcome], list[Memory | None]]:
        self._check_ended()
        feeds = feds[0].rows if len(feds) == 1 else _stacked([fed.rows for fed in feds])
        rows = len(feeds[self._feeder.main.name])
        states = memories if self._bundle.manifest.states else None
        began = time.perf_counter()
        outputs, failed, new = self._engine.run(feeds, states)
        row_ms = (time.perf_counter() - began) * 1e3 / rows
        good = [row for row in range(rows) if row not in failed] if failed else None
        ran = Ran(outputs, sources, lambda: self._real(feds, good), row_ms)
        if not failed:
            return self._postprocess(ran), [*new] if new else [None] * len(sources)
        return self._with_failures(ran, failed, new)

    def _with_failures(
        self, ran: Ran, failed: dict[int, RunError], new: Sequence[Memory]
    ) -> tuple[list[Outcome], list[Memory | None]]:
        """Answers of the items none of whose rows failed; the others say what the model said."""
        outcomes: list[Outcome] = []
        news: list[Memory | None] = []
        memories = iter(new)
        start = good = 0
        for source in ran.sources:
            span = range(start, start + source.rows)
            errors = [failed[row] for row in span if row in failed]
            well = source.rows - len(errors)
            if errors:
                reason = "model_output" if isinstance(errors[0], OutputError) else "model_error"
                outcomes.append(Refusal("failed", reason, str(errors[0])))
                news.append(None)
            else:
                part = {name: value[good : good + well] for name, value in ran.outputs.items()}
                real = _slice_later(ran, good, well)
                outcomes += self._postprocess(Ran(part, [source], real, ran.row_ms))
                news.append(next(memories, None))
            start, good = span.stop, good + well
        return outcomes, news

    def _real(self, feds: Sequence[Fed], good: list[int] | None) -> Array:
        """The float input rows that a reconstruction is compared with."""
        main = self._feeder.main
        parts = []
        for fed in feds:
            rows = fed.rows[main.name]
            if fed.real is not None:
                parts.append(fed.real)
            elif main.quantization is not None and rows.dtype.kind in "iu":
                parts.append(dequantize(rows, main.quantization))
            else:
                parts.append(rows.astype(np.float32, copy=False))
        whole = parts[0] if len(parts) == 1 else np.concatenate([p.reshape(len(p), -1) for p in parts])
        return whole if good is None else whole[good]

    def _check_ended(self) -> None:
        if self._ended.get(threading.get_ident()):
            raise RunTerminated("the run was ended from another thread")

    # --- warm-up -----------------------------------------------------------------------------------------------

    def _describe(self, p50_ms: float) -> ServableInfo:
        manifest = self._bundle.manifest
        return ServableInfo(
            name=manifest.name,
            version=manifest.version,
            digest=self._bundle.digest,
            placement=self._session.placement,
            task=manifest.task,
            max_batch=self._engine.max_batch,
            stateful=self._stateful,
            p50_ms=p50_ms,
            golden=len(manifest.golden),
            labels=manifest.labels,
        )


def _warm_up(engine: Engine) -> float:
    """The median time of a row of zeros, 0 where the model takes none; lowers a batch that the model cannot run."""
    if engine.max_batch > 1 and not engine.fixed:
        try:
            engine.trial(2)
        except RunError as error:
            if out_of_memory(str(error)):
                raise  # that says nothing of the model: who sees less memory free must not take it for one without batches
            engine.limit(1)
    times: list[float] = []
    until = time.perf_counter() + WARMUP_S
    try:
        while not times or (len(times) < WARMUP_RUNS and time.perf_counter() < until):
            began = time.perf_counter()
            engine.trial(1)
            times.append((time.perf_counter() - began) * 1e3)
    except RunError:
        return 0.0  # a model may refuse zeros; golden samples say whether it works
    return statistics.median(times)


def _picture_size(manifest: Manifest, spec: TensorSpec) -> tuple[int, int]:
    """Width and height of a picture input, by its resize step or else its shape; (0, 0) for others."""
    for step in manifest.preprocess:
        if isinstance(step, Resize):
            return step.width, step.height
    if len(spec.shape) != 4:
        return 0, 0
    planar = any(isinstance(step, Layout) and step.order == "nchw" for step in manifest.preprocess)
    height, width = spec.shape[2:] if planar else spec.shape[1:3]
    return width or 0, height or 0


def _rounds(items: Sequence[Item]) -> Iterator[list[int]]:
    """Indices so that each round has one item a stream, in order."""
    seen: dict[str, int] = {}
    turns: list[list[int]] = []
    for index, item in enumerate(items):
        turn = seen.get(item.stream, 0)
        seen[item.stream] = turn + 1
        if turn == len(turns):
            turns.append([])
        turns[turn].append(index)
    yield from turns


def _alike(ready: list[tuple[int, Fed]]) -> Iterator[list[tuple[int, Fed]]]:
    """Groups whose rows can be stacked: the same shapes beside the first axis."""

    def shapes(entry: tuple[int, Fed]) -> list[tuple[int, ...]]:
        return [rows.shape[1:] for rows in entry[1].rows.values()]

    for _, group in groupby(sorted(ready, key=shapes), key=shapes):
        yield list(group)


def _stacked(parts: Sequence[dict[str, Array]]) -> dict[str, Array]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _slice_later(ran: Ran, start: int, count: int) -> Callable[[], Array]:
    return lambda: ran.real()[start : start + count]
