"""Renew the tables of keys in the documentation: `python -m penstock_gateway.config docs/configuration.md`."""

from __future__ import annotations

import sys
from pathlib import Path

from penstock_gateway.config.describe import renewed

if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(renewed(page.read_text(encoding="utf-8")), encoding="utf-8")
