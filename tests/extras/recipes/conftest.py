"""The recipes are scripts outside the packages: their folder is put on the path, as running one of them does."""

import sys

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "models" / "recipes"))
