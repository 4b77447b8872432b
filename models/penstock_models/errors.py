"""The errors of this floor, split by whose fault it is.

PenstockError
├── UsageError            what the caller gave: a path, an option, a configuration (exit 2)
├── BundleError           a bundle or model store that is wrong: digest, manifest, path tricks (exit 1)
│   ├── ModelRefused      a model file that no runtime may load: broken, external data, unknown operator
│   └── GoldenError       it loads, and gives another answer than it must
├── PlacementError        no device of the preference list could be proven
└── TemporaryError        what may go well later: the files changed meanwhile, no room
    └── HostError         the process of a version ended, or was not ready in time
"""

from __future__ import annotations

from collections.abc import Sequence

MOST_TEXT = 500


class PenstockError(Exception):
    """A message for people: what was expected, what came, where, and what to do. One line."""

    exit_code = 1


class UsageError(PenstockError):
    """The call or the configuration is wrong."""

    exit_code = 2


class BundleError(PenstockError):
    """A bundle or a model store is wrong."""


class ModelRefused(BundleError):
    """A model file was refused. `reason` is a short name for machines, such as `external_data`; the message begins so."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason


class GoldenError(BundleError):
    """A golden answer is wrong wherever the version runs. `problems` has a line for each of them."""

    def __init__(self, message: str, problems: Sequence[str]) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class PlacementError(PenstockError):
    """None of the wanted devices could be proven to run the model. `passed` says why, one line a device."""

    def __init__(self, message: str, passed: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.passed = tuple(passed) or (message,)


class TemporaryError(PenstockError):
    """The same call may go well later. `reason` is a short name for machines; the message begins so."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason


class HostError(TemporaryError):
    """A version got no process to run in. `reason` is `crashed` or `load_timeout`."""


def one_line(text: str, most: int = MOST_TEXT) -> str:
    """One bounded, printable line of what a library, a model or a disk said."""
    printable = "".join(sign if sign.isprintable() else " " for sign in text[: 4 * most])
    return " ".join(printable.split())[:most]


def told(error: BaseException) -> str:
    """A foreign error in one line: its class, and what it says."""
    return one_line(f"{type(error).__name__}: {error}")


def from_disk(error: BaseException) -> bool:
    """Whether the operating system gave it, perhaps told in other words by one of ours."""
    seen: BaseException | None = error
    for _ in range(4):
        if isinstance(seen, OSError):
            return True
        seen = seen.__cause__ if seen is not None else None
    return False


_OUT_OF_MEMORY = (
    "Failed to allocate memory",
    "bad_alloc",
    "MemoryError",
    "Unable to allocate",
    "Cannot allocate memory",
    "can't start new thread",
)


def out_of_memory(text: str) -> bool:
    """Whether a message says that memory was refused. The libraries have no common class for it, only these words."""
    return any(words in text for words in _OUT_OF_MEMORY)
