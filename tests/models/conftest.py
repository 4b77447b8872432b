"""What several of these tests start from."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.models.version_world import World


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    made = World(monkeypatch)
    yield made
    await made.stop()
