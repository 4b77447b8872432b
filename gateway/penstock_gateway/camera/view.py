"""What `penstock camera` shows while it runs: one line that is drawn anew, on a terminal only."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.text import Text

from penstock_gateway.camera.publisher import Counters


def line(now: Counters, fps: float, broker: str) -> str:
    """The figures of this moment; `fps` is what went out lately."""
    parts = [
        f"{now.device}/{now.stream}",
        f"camera {now.state}" + (f" ({now.reason})" if now.reason else ""),
        f"sent {now.acked} ({fps:.1f}/s)",
        f"skipped {now.skipped}",
    ]
    extra = {
        "stale": now.stale,
        "failed": now.failed,
        "refused": now.refused,
        "lost": now.lost,
        "cuts": now.cuts,
    }
    parts += [f"{name} {count}" for name, count in extra.items() if count]
    if broker != "connected":
        parts.append(f"broker: {broker}")
    return "  ".join(parts)


class StatusLine:
    """The line on a terminal."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._at, self._acked, self._fps = time.monotonic(), 0, 0.0

    def show(self, now: Counters, broker: str) -> None:
        at = time.monotonic()
        if at > self._at:
            self._fps = 0.5 * self._fps + 0.5 * (now.acked - self._acked) / (at - self._at)
        self._at, self._acked = at, now.acked
        self._live.update(Text(line(now, self._fps, broker), no_wrap=True, overflow="ellipsis"), refresh=True)


@contextmanager
def status_line() -> Iterator[StatusLine | None]:
    """The line on standard error, None where that is no terminal. Log lines written meanwhile go above it."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield StatusLine(live)
