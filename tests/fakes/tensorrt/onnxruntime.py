"""ONNX Runtime with a TensorRT provider that builds for as long as a test wants; ahead of the real one on a child's path.

A build grows its engine until `go` lies beside the cache's entries, and notes there that it began and ended; one that
keeps nothing never ends. What was built runs on the CPU.
"""

from __future__ import annotations

import os
import sys
import time
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

PROVIDER = "TensorrtExecutionProvider"

_shadowing = sys.modules.pop("onnxruntime", None)
sys.path = [place for place in sys.path if Path(place).resolve() != Path(__file__).resolve().parent]
real: Any = import_module("onnxruntime")
devices = real.get_available_providers()


class InferenceSession(real.InferenceSession):  # type: ignore[misc]
    def __init__(self, data: bytes, options: Any, *, providers: list[Any], enable_fallback: int) -> None:
        self.provider = providers[0]
        if isinstance(self.provider, tuple):
            self.provider, chosen = self.provider
            assert self.provider == PROVIDER
            build(Path(chosen["trt_engine_cache_path"]) if chosen else None)
            options, providers = real.SessionOptions(), devices
        super().__init__(data, options, providers=providers, enable_fallback=enable_fallback)

    def get_providers(self) -> list[str]:
        return [self.provider]

    def get_provider_graph_assignment_info(self) -> list[Any]:
        return [SimpleNamespace(ep_name=self.provider)]


def build(folder: Path | None) -> None:
    """An engine in `folder`, unless one is there."""
    while folder is None:
        time.sleep(1)
    engine = folder / "engine"
    if engine.exists():
        return
    note(folder.parent, "began")
    while not (folder.parent / "go").exists():
        with engine.open("ab") as file:
            file.write(b"x" * 1000)
        time.sleep(0.02)
    note(folder.parent, "ended")


def note(cache: Path, word: str) -> None:
    with (cache / "builds").open("a") as file:
        file.write(f"{word} {os.getpid()}\n")


real.InferenceSession = InferenceSession
real.get_available_providers = lambda: [PROVIDER, *devices]
sys.modules["onnxruntime"] = real  # whoever imports this gets the real one, changed
