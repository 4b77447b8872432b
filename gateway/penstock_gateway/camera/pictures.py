"""What a source gives, and what it says of itself: pictures, states, and why it is gone."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, Protocol

from penstock_models.errors import PenstockError, UsageError

MAX_PICTURE_BYTES = 8 << 20
"""The largest encoded picture that is taken: a gateway's `max_frame_bytes` by default."""


class State(enum.StrEnum):
    """Where a source stands. `lost` waits to connect again; `ended` and `failed` are final."""

    IDLE = "idle"
    CONNECTING = "connecting"
    LIVE = "live"
    LOST = "lost"
    ENDED = "ended"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One picture: `data` as the camera encoded it, or else `image`, (height, width, 3) uint8 in BGR order.

    `captured` is when it was taken on the monotonic clock (s), as far as the source tells; `number` counts a source's
    pictures from 0, over all its connections.
    """

    captured: float
    data: bytes = b""
    media_type: str = "image/jpeg"
    image: Any = None
    number: int = 0


class Reader(Protocol):
    """One connection to a camera, or one run through a file. Used by one thread."""

    @property
    def interval_s(self) -> float | None:
        """Seconds from picture to picture of a file; None for a camera, whose pictures come when they come."""

    @property
    def passed_over(self) -> int:
        """What came and was no picture, too large for one, or could not be dated."""

    def read(self) -> Picture | None:
        """Wait for the next picture, some seconds at most; None at a file's end.

        Raises:
            SourceLost: the camera is gone or silent, or what it sends makes no sense.
        """

    def close(self) -> None: ...


class SourceLost(PenstockError):
    """The camera is gone, or cannot be reached: connecting again may help."""


class SourceRefused(UsageError):
    """The camera answers, and will not give pictures to this call: wrong credentials, another kind of page."""
