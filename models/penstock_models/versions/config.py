"""What is asked of a model's versions, as the configuration says it (contracts 8, `[[model]]`)."""

from __future__ import annotations

import msgspec

from penstock_models.versions.policy import Latest, Policy, Specific
from penstock_models.versions.transition import Transition


class ModelConfig(msgspec.Struct, frozen=True):
    """One model that is to be served.

    `labels` point to versions, and `named` are versions that routes ask for by number: both are wanted whatever the policy
    says. The targets of `split` and `shadow` are labels, or versions in digits.
    """

    name: str
    policy: Policy = Latest(1)
    transition: Transition = "availability"
    labels: dict[str, int] = {}
    named: tuple[int, ...] = ()
    split: dict[str, float] = {}
    shadow: str = ""

    def explicit(self) -> frozenset[int]:
        """The versions that somebody wrote down by number."""
        listed = self.policy.versions if isinstance(self.policy, Specific) else ()
        targets = [int(target) for target in (*self.split, self.shadow) if target.isdigit()]
        return frozenset((*listed, *self.labels.values(), *self.named, *targets))
