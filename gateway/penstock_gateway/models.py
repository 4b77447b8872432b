"""What the configuration asks of the serving core: which versions, how they run, and what a route's models are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from penstock_gateway.config import Config, ModelConfig, ModelRef, sources
from penstock_models.devices.builds import Progress
from penstock_models.items import Executor
from penstock_models.scheduling.runs import VersionRun
from penstock_models.scheduling.scheduler import Scheduler, Target
from penstock_models.serving.executor import VersionOptions
from penstock_models.serving.front import Owner
from penstock_models.store import Reference
from penstock_models.versions import config as versions
from penstock_models.versions.memory import Returned
from penstock_models.versions.policy import parse_policy
from penstock_models.versions.status import ModelStatus


class Core(Protocol):
    """What answers frames: a `ServingCore`."""

    on_news: Callable[[], None]

    @property
    def executor(self) -> Executor: ...

    @property
    def scheduler(self) -> Scheduler: ...

    @property
    def runs(self) -> list[VersionRun]: ...

    def own(self, owner: Owner) -> None: ...

    def target(self, reference: Reference) -> Target: ...

    def configure(self, models: Iterable[tuple[versions.ModelConfig, VersionOptions]]) -> None: ...

    def statuses(self) -> tuple[ModelStatus, ...]: ...

    def builds(self, digest: str) -> Sequence[Progress]: ...

    def unready(self) -> list[str]: ...

    def problems(self) -> list[str]: ...

    def shadow_counts(self) -> Mapping[tuple[str, int, int], Mapping[str, int]]: ...

    def memory_returned(self) -> list[Returned]: ...


def frozen_keys(old: Config, new: Config) -> list[str]:
    """The keys that differ and that only a restart takes over: all but those of `[[model]]`."""
    before, after = (
        {s.key: s.value for s in sources(c) if not s.key.startswith("model[")} for c in (old, new)
    )
    return sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))


def reference(ref: ModelRef) -> Reference:
    """A reference of the configuration in the words of the models' floor."""
    return Reference(ref.name, ref.version, ref.label or "")


def wanted(config: Config) -> Iterator[tuple[versions.ModelConfig, VersionOptions]]:
    """Every model that a route names, with what the file says of it."""
    for name in dict.fromkeys(ref.name for ref in config.references):
        named = tuple({r.version for r in config.references if r.name == name and r.version is not None})
        yield _model(config.of_model(name), named)


def _model(model: ModelConfig, named: tuple[int, ...]) -> tuple[versions.ModelConfig, VersionOptions]:
    return (
        versions.ModelConfig(
            model.name,
            parse_policy(model.policy),
            model.transition,
            labels=model.labels,
            named=named,
            split=model.split,
            shadow=model.shadow,
        ),
        VersionOptions(model.devices, model.isolation, model.cache_bytes),
    )
