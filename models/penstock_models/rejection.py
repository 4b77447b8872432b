"""Why one item cannot be run: the ledger's `rejected` reasons, raised inside a batch and answered per item."""

from __future__ import annotations

from typing import Literal

from penstock_models.items import Refusal

Reason = Literal["decode", "pixels", "empty", "dtype", "shape", "not_finite", "schema", "content_type"]


class Rejection(Exception):
    """An item's own fault. Never leaves a `Servable`: its item is answered with it."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail

    def refusal(self) -> Refusal:
        return Refusal("rejected", self.reason, self.detail)
