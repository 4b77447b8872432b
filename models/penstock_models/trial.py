"""A bundle tried on this machine: are its golden answers right, and what does it say to these files?

Owns the verdict of `penstock model verify` and the report of `penstock model run`. A version is verified in a limited
child process, which is `vetting`'s; loading and running are the servable's, comparing is `golden`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from penstock_models import samples
from penstock_models.items import Answer, Outcome, Refusal, ServableInfo
from penstock_models.servable import Servable
from penstock_models.store import open_version
from penstock_models.vetting.verdict import error_of
from penstock_models.vetting.vet import vet_blocking


class Verdict(msgspec.Struct, frozen=True):
    """`ok` where the bundle opened, loaded, and gave every golden answer; else `problems` says what did not hold.

    `reason` is the word for it, one of `vetting.verdict.Reason`, such as `external_data`; None where it is ok.
    """

    ok: bool
    path: str
    digest: str | None = None
    files: int = 0
    golden: int = 0
    placement: str | None = None
    problems: tuple[str, ...] = ()
    reason: str | None = None

    def text(self) -> str:
        """The verdict in lines for a terminal."""
        if not self.ok:
            return "\n".join([f"no: {self.path}", *(f"  {problem}" for problem in self.problems)])
        samples_right = (
            f"{self.golden} golden sample{'' if self.golden == 1 else 's'} right on {self.placement}"
        )
        return f"ok: {self.path}  {self.digest}\n  {self.files} files as listed, {samples_right}"


class Report(msgspec.Struct, frozen=True):
    """The outcome for each input file, in order."""

    info: ServableInfo
    outcomes: tuple[tuple[Path, Outcome], ...]

    @property
    def ok(self) -> bool:
        return all(isinstance(outcome, Answer) for _, outcome in self.outcomes)

    def plain(self) -> dict[str, Any]:
        """As JSON builtins, in the words of a result message."""
        model = {"name": self.info.name, "version": self.info.version, "digest": self.info.digest}
        results = [{"input": str(path), **_plain(outcome)} for path, outcome in self.outcomes]
        return {"model": model, "placement": self.info.placement, "results": results}


def verify(path: Path, advance: Callable[[int, int], None] | None = None) -> Verdict:
    """Open a bundle (which verifies digest and files), load it, and compare its golden answers, all in a child process.

    Args:
        advance: called after each golden sample with how many of how many are done.

    Raises:
        UsageError: there is nothing at `path`, or the model.toml beside a bare model file is wrong.
    """
    found = vet_blocking(path, advance=advance)
    if found.reason == "usage":
        found.require()
    return Verdict(
        ok=found.ok,
        path=str(path),
        digest=found.digest or None,
        files=found.files,
        golden=found.golden,
        placement=found.placement or None,
        problems=() if found.ok else found.problems or (str(error_of(found)),),
        reason=found.reason or None,
    )


def run_files(path: Path, inputs: Sequence[Path], advance: Callable[[], None]) -> Report:
    """Run files through a bundle one after the other, as one stream.

    Args:
        advance: called after each file.

    Raises:
        UsageError: a file cannot be read.
        BundleError, PlacementError: the bundle cannot be opened or loaded.
    """
    bundle = open_version(path)
    loaded = [samples.load(file) for file in inputs]
    servable = Servable.open(bundle)
    try:
        outcomes: list[tuple[Path, Outcome]] = []
        for file, sample in zip(inputs, loaded):
            outcomes.append((file, servable.run([samples.item(sample, stream="cli/run")])[0]))
            advance()
        return Report(servable.info, tuple(outcomes))
    finally:
        servable.close()


def _plain(outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, Refusal):
        return {"status": outcome.bucket, "reason": outcome.reason, "detail": outcome.detail}
    plain: dict[str, Any] = msgspec.to_builtins(outcome)
    times = {"decode": plain.pop("decode_ms"), "infer": plain.pop("infer_ms")}
    del plain["cached"]  # nothing is cached here
    answer = {key: value for key, value in plain.items() if value is not None}
    return {"status": "ok", "reason": None, "latency_ms": times, **answer}
