"""How large a batch may become, and from which size on it is worth running. Pure.

A batch takes what waits, up to `BATCH_S` of work: a bound on what a full queue adds to the wait of the next request. While
nothing waits, batches are single requests and nobody waits for company. Work of more than `SHARED_S` is shared among
the slots that will run it; below it, a second hop costs more than it saves.

Where a queue drops work anyway, small batches for the sake of the most urgent request would cost the others: there a
request must leave time for a batch that is nearly as efficient as the largest one (early drop, as in Nexus).
"""

from __future__ import annotations

import math

from penstock_models.scheduling.prediction import TINY_S, BatchTime

BATCH_S = 0.025
SHARED_S = 0.001
BATCH_ITEMS = 64

EFFICIENT = 0.97
"""Of the largest batch's requests a second."""


def batch_limit(times: BatchTime, waiting: int, slots: int) -> int:
    """How many of the waiting requests go into one call, where so many slots share them.

    One call for several requests pays where the model itself takes one at a time, too: what it saves is hops.
    """
    item_s = max(times.item_s, TINY_S)
    longest_s = max(BATCH_S, times.mean(1) + times.mean(0))  # twice what no batch can save
    fits = int((longest_s - times.mean(0)) / item_s)
    share = max(-(-waiting // slots), int(SHARED_S / item_s))
    return max(1, min(share, fits, times.largest, BATCH_ITEMS))


def least_efficient(times: BatchTime, limit: int) -> int:
    """The smallest batch that is nearly as efficient as one of `limit`: n / (α·n + β) is at least
    `EFFICIENT` of it."""
    alpha, beta = max(times.item_s, TINY_S), times.mean(0)
    wanted = EFFICIENT * limit / (alpha * limit + beta)
    return min(limit, max(1, math.ceil(wanted * beta / (1 - wanted * alpha))))
