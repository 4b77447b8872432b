"""From a stream of a mix to the moments at which its devices mean to send, before the load bends them. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from penstock_sim.load.schedule import Periodic, Poisson, Schedule, Some
from penstock_sim.scenario.tree import Stream


def seed_of(*parts: int) -> int:
    """A seed made of several numbers."""
    return int(np.random.SeedSequence(list(parts)).generate_state(1)[0])


def schedule_of(stream: Stream, count: int, seed: Sequence[int], mine: range | None = None) -> Schedule:
    """The schedule of all `count` devices, of which `mine` are taken: what is drawn does not depend on who shares the work.

    Args:
        seed: that of the scenario, the number of the mix, the number of the stream.
        mine: numbers of devices; all when left out.
    """
    taken = range(count) if mine is None else mine
    if stream.arrivals == "poisson":
        return Some(Poisson(stream.rate_hz, count, seed=seed_of(*seed)), taken)
    phases = np.random.default_rng([*seed, 1]).uniform(0, 1 / stream.rate_hz, count).tolist()
    jitter_s = stream.jitter_ms / 1000.0
    if not jitter_s:  # nothing is drawn, and a part of it is made at once
        return Periodic(stream.rate_hz, *(phases[number] for number in taken))
    return Some(Periodic(stream.rate_hz, *phases, jitter_s=jitter_s, seed=seed_of(*seed)), taken)
