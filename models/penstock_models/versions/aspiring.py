"""Which versions of a model are aspired: by its policy, because somebody named them, or because nothing better serves. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from penstock_models.versions import policy
from penstock_models.versions.policy import Policy


class Known(msgspec.Struct, frozen=True):
    """One version that could be had. `troubled` says that it failed and is not available (yet); `kept` that it served before
    a restart."""

    version: int
    available: bool = False
    troubled: bool = False
    kept: bool = False


def aspired(rule: Policy, known: Sequence[Known], named: Collection[int]) -> frozenset[int]:
    """The wanted end, in full.

    The policy's choice; the policy's choice of those that have not failed, so that a bad newest version does not leave a
    model without any; every named version (a label, a route, an operator); and what served before a restart, until
    one of the policy's choice is available.
    """
    offered = {k.version for k in known}
    wanted = policy.aspired(rule, offered)
    standby = policy.aspired(rule, {k.version for k in known if not k.troubled})
    chosen = wanted | standby | (frozenset(named) & offered)
    if not any(k.available for k in known if k.version in chosen):
        chosen |= {k.version for k in known if k.kept}
    return chosen
