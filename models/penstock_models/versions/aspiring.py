"""Which versions of a model are aspired: by its policy, because somebody named them, or because nothing better serves. Pure."""

from __future__ import annotations

from collections.abc import Collection

from penstock_models.versions import policy
from penstock_models.versions.life import Life
from penstock_models.versions.policy import Policy


def aspired(rule: Policy, offered: Collection[Life], named: Collection[int]) -> frozenset[int]:
    """The wanted end, in full.

    The policy's choice; the policy's choice of those that have not failed, so that a bad newest version does not leave a
    model without any; every named version (a label, a route, a list); and what served before a restart, until
    one of the policy's choice is available.
    """
    versions = {life.version for life in offered}
    standby = policy.aspired(rule, {life.version for life in offered if not life.attempts})
    chosen = policy.aspired(rule, versions) | standby
    wanted = chosen | (frozenset(named) & versions)
    if not any(life.state == "available" for life in offered if life.version in chosen):
        wanted |= {life.version for life in offered if life.kept}
    return wanted
