"""Entries of a folder of optimised models, and how much lies in it, for the tests of the cache."""

from pathlib import Path

from penstock_models.devices.cache import CacheKey, ModelCache

KEY = CacheKey("ab" * 32, "onnxruntime 1.32.0", "x86_64 AMD EPYC 0123", "cpu", {"threads": "1"})


def put(cache: ModelCache, key: CacheKey, data: bytes = b"engine", name: str = "engine.bin") -> Path:
    with cache.making(key) as folder:
        (folder / name).write_bytes(data)
        return cache.publish(key, {"took": 1.5}).folder


def size(cache: ModelCache) -> int:
    """Of all that lies in it, whole or in the making."""
    return sum(path.lstat().st_size for path in cache.folder.rglob("*") if path.is_file())
