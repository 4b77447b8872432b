"""Which file of a bundle runs on which device here, best first.

Owns the order and opening the sessions; whether a session answers right is the servable's to find out.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence

import msgspec

from penstock_models.bundle import Bundle
from penstock_models.devices.cache import ModelCache
from penstock_models.errors import PlacementError
from penstock_models.manifest import Manifest, TensorSpec, Variant
from penstock_models.runtimes import available, open_session
from penstock_models.runtimes.session import Session
from penstock_models.safety import check


def sessions(
    bundle: Bundle,
    devices: Sequence[str],
    threads: int,
    passed: list[str],
    cache: ModelCache | None = None,
) -> Iterator[Session]:
    """Open every variant on every wanted device in turn, as they are asked for; the taker closes them.

    Args:
        passed: gets a line for each that cannot be opened.
        cache: where a runtime keeps what it made of a file; None for nowhere.

    Raises:
        ModelRefused, BundleError: a file is wrong.
        PlacementError: every variant was made for other hardware.
    """
    for variant in _by_preference(bundle.manifest, devices):
        if not available(variant.runtime):
            passed.append(f"{variant.file}: no library for {variant.runtime} models is installed")
            continue
        data = bundle.read(variant.file)
        runtime = check(data, variant.file)
        for device in devices or ("cpu",):
            try:
                session = open_session(data, runtime, devices=(device,), threads=threads, cache=cache)
            except PlacementError as error:
                passed += [f"{variant.file}: {reason}" for reason in error.passed]
                continue
            yield _Described(session, variant)


def none_runs(bundle: Bundle, passed: Sequence[str]) -> PlacementError:
    """The error where no session opened; `passed` are the reasons that `sessions` noted."""
    return PlacementError(
        f"{bundle.manifest.name}: no variant runs here ({'; '.join(passed)});"
        " install its runtime package or add cpu to devices"
    )


def _by_preference(manifest: Manifest, devices: Sequence[str]) -> list[Variant]:
    """Variants made for a wanted device first, then for this machine, then for any; the rest cannot run here."""
    order = [*devices, platform.machine(), "cpu", "any"]
    fitting = [variant for variant in manifest.variants if variant.target in order]
    if not fitting:
        made = ", ".join(sorted({variant.target for variant in manifest.variants}))
        raise PlacementError(
            f"{manifest.name}: its variants are for {made}; this machine offers {', '.join(order)}"
        )
    return sorted(fitting, key=lambda variant: order.index(variant.target))


class _Described:
    """A session whose tensors carry the quantization that the manifest states where the file itself shows none."""

    def __init__(self, session: Session, variant: Variant) -> None:
        self.inputs = tuple(_with_quantization(spec, variant.inputs) for spec in session.inputs)
        self.outputs = tuple(_with_quantization(spec, variant.outputs) for spec in session.outputs)
        self.placement = session.placement
        self.max_batch = session.max_batch
        self.run = session.run
        self.terminate = session.terminate
        self.warmed = session.warmed
        self.close = session.close


def _with_quantization(spec: TensorSpec, stated: Sequence[TensorSpec]) -> TensorSpec:
    same = next((s for s in stated if s.name == spec.name), None)
    if spec.quantization is not None or same is None or same.quantization is None:
        return spec
    return msgspec.structs.replace(spec, quantization=same.quantization)
