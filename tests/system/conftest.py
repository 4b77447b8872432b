"""What the system tests share: a store of real and of small models, packed once a session."""

from pathlib import Path

import pytest

from tests.conftest import realdata_path
from tests.fakes.gateway_models import pack_real, pack_small


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model store: the small models, and where the kit is there, its `person`, `vww`, `ad01`, `silero`."""
    folder = tmp_path_factory.mktemp("store")
    pack_small(folder, tmp_path_factory.mktemp("sources"))
    if (kit := realdata_path()) is not None:
        pack_real(kit, folder, tmp_path_factory.mktemp("real-sources"))
    return folder
