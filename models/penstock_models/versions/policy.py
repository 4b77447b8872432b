"""Version policies: which of the offered versions of a model are aspired. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import msgspec

from penstock_models.errors import UsageError
from penstock_models.manifest_rules import MAX_VERSION

MAX_LISTED = 64

_LATEST = re.compile(r"latest:([1-9][0-9]{0,3})")


class Latest(msgspec.Struct, frozen=True, tag="latest"):
    """The `count` highest versions."""

    count: int = 1


class All(msgspec.Struct, frozen=True, tag="all"):
    """Every version."""


class Specific(msgspec.Struct, frozen=True, tag="specific"):
    """These versions, when they are offered."""

    versions: tuple[int, ...]


Policy = Latest | All | Specific


def parse_policy(words: str | Sequence[int]) -> Policy:
    """Read `latest:2`, `all`, or a list of version numbers.

    Raises:
        UsageError: it is none of them.
    """
    if isinstance(words, str):
        if words == "all":
            return All()
        if match := _LATEST.fullmatch(words):
            return Latest(int(match[1]))
    elif 1 <= len(words) <= MAX_LISTED and all(map(_is_version, words)) and len(set(words)) == len(words):
        return Specific(tuple(words))
    raise UsageError(
        f"policy {words!r}: expected `latest:N` (N of 1 to 9999), `all`, or a list of 1 to {MAX_LISTED} versions"
        f" of 1 to {MAX_VERSION}, each once"
    )


def _is_version(value: object) -> bool:
    """Tell whether it is a version number; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_VERSION


def aspired(policy: Policy, offered: Collection[int]) -> frozenset[int]:
    """Those of the offered versions that the policy wants."""
    match policy:
        case Latest(count=count):
            return frozenset(sorted(offered)[-count:])
        case All():
            return frozenset(offered)
        case Specific(versions=versions):
            return frozenset(versions) & frozenset(offered)
