"""Words and bars of `penstock model` on a terminal. Bars go to standard error and vanish where that is no terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from penstock_models.items import Outcome, Refusal

if TYPE_CHECKING:
    from penstock_models.bundle import Bundle
    from penstock_models.manifest import TensorSpec
    from penstock_models.measure import BenchReport

MAX_SHOWN = 12  # detections, labels, golden samples of one line


@contextmanager
def working(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for work whose length shows only later; the body calls what it gets with how many of how many are done."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def progress(what: str, total: float) -> Iterator[Callable[[float], None]]:
    """A bar; the body calls what it gets with the amount of work done since its last call."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)


def answer_line(outcome: Outcome) -> str:
    """One line about an outcome."""
    if isinstance(outcome, Refusal):
        return f"{outcome.bucket}: {outcome.reason} {outcome.detail}".rstrip()
    if outcome.detections is not None:
        found = [f"{d.label or 'box'} {d.score:.2f}" for d in outcome.detections]
        more = f", and {len(found) - MAX_SHOWN} more" if len(found) > MAX_SHOWN else ""
        return ", ".join(found[:MAX_SHOWN]) + more if found else "no detections"
    if outcome.classes is not None:
        return ", ".join(f"{c.label or c.index} {c.score:.3f}" for c in outcome.classes)
    if outcome.anomaly is not None:
        limit = outcome.anomaly.threshold
        return f"anomaly score {outcome.anomaly.score:.4g}" + (
            f", threshold {limit:.4g}" if limit is not None else ""
        )
    return ", ".join(f"{name} {t.dtype} {list(t.shape)}" for name, t in (outcome.outputs or {}).items())


def describe(bundle: Bundle) -> str:
    """A bundle for people, a few lines."""
    manifest = bundle.manifest
    lines = [f"{manifest.name}:{manifest.version}  {manifest.task}  {bundle.digest}"]
    for variant in manifest.variants:
        lines.append(f"  {variant.file}: {variant.runtime}, {variant.precision}, for {variant.target}")
        lines += [f"    in   {_tensor(spec)}" for spec in variant.inputs]
        lines += [f"    out  {_tensor(spec)}" for spec in variant.outputs]
    lines += [f"  state {s.output} → {s.input} {list(s.shape)}" for s in manifest.states]
    lines += [f"  constant {c.input} = {list(c.values[:MAX_SHOWN])}" for c in manifest.constants]
    lines += [f"  pre   {_step(step)}" for step in manifest.preprocess]
    lines += [f"  post  {_step(step)}" for step in manifest.postprocess]
    if manifest.labels:
        shown = ", ".join(manifest.labels[:MAX_SHOWN])
        lines.append(
            f"  {len(manifest.labels)} labels: {shown}{', …' if len(manifest.labels) > MAX_SHOWN else ''}"
        )
    lines.append(f"  {len(manifest.golden)} golden samples, {sum(f.size for f in manifest.files)} bytes")
    lines += [f"  {name} {value:g}" for name, value in manifest.metrics.items()]
    lines += [f"  {key}: {value}" for key, value in _origin(manifest).items()]
    return "\n".join(lines)


def _origin(manifest: Any) -> dict[str, str]:
    dated = {"licence": manifest.licence, "training data of": manifest.data_date}
    return {**manifest.provenance, **{key: value for key, value in dated.items() if value}}


def _tensor(spec: TensorSpec) -> str:
    shape = ", ".join("?" if size is None else str(size) for size in spec.shape)
    q = spec.quantization
    return f"{spec.name} {spec.dtype} [{shape}]" + (f" q({q.scale:g}, {q.zero_point})" if q else "")


def _step(step: msgspec.Struct) -> str:
    values = ", ".join(f"{f}={getattr(step, f)}" for f in step.__struct_fields__)
    return f"{step.__struct_config__.tag} {values}".rstrip()


def bench_table(report: BenchReport) -> str:
    """The figures of a bench, one line a batch size."""
    head = f"{report.name}:{report.version} on {report.placement}, loaded in {report.load_ms:.0f} ms"
    lines = [head, f"{'batch':>6}{'p50 ms':>10}{'p95 ms':>10}{'items/s':>10}{'runs':>8}"]
    for row in report.rows:
        how = f"  {row.busy} threads" if row.busy > 1 else "  with pauses" if row.idle else ""
        lines.append(
            f"{row.batch:>6}{row.p50_ms:>10.2f}{row.p95_ms:>10.2f}{row.items_per_s:>10.1f}{row.runs:>8}{how}"
        )
    return "\n".join([*lines, f"resident memory {report.rss_mb:.0f} MB"])
