"""A device that never misses its beat, and whether each of its frames was answered at that beat."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import numpy as np

from tests.fakes.clients import Device, Ear


@dataclass
class Steady:
    """A stream that never misses its beat: an open loop on a thread, frame n at its intended time.

    It ends with `stop`, or after `count` frames.
    """

    device: Device
    topic: str
    rate: float
    make: Callable[[int], bytes]
    qos: int = 1
    content_type: str = ""
    user: Callable[[int], dict[str, object]] = lambda n: {}
    count: int = 1 << 53
    sent: int = 0
    began: float = 0.0
    _end: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    @property
    def stream(self) -> str:
        return "/".join(self.topic.split("/")[4:6])

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name=f"steady {self.topic}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._end.set()
        if self._thread is not None:
            self._thread.join()

    def join(self) -> None:
        """Wait until all `count` frames are sent."""
        assert self._thread is not None
        self._thread.join()

    def _wait_s(self) -> float:
        return max(0.0, self.began + self.sent / self.rate - time.monotonic())

    def _run(self) -> None:
        self.began = time.monotonic()
        while self.sent < self.count and not self._end.wait(self._wait_s()):
            n = self.sent
            self.device.send(
                self.topic, self.make(n), self.qos, content_type=self.content_type, user=self.user(n)
            )
            self.sent += 1

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def check_kept(self, ear: Ear, *, least: float = 0.98) -> float:
        """Every frame was answered `ok`, at the nominal rate; returns the rate as a share of it.

        The rate is the slope of the answers' times: what one late answer at either end says is not a rate.
        """
        ear.result(self.stream, self.sent)
        ending = f"/{self.stream}/result"
        heard = [h for h in ear.heard("result") if h.topic.endswith(ending)]
        wrong = [h.body for h in heard if h.body["status"] != "ok"]
        assert not wrong and len(heard) == self.sent, f"{len(heard)} of {self.sent}; {wrong[:3]}"
        seconds = np.polyfit(range(len(heard)), [h.at for h in heard], 1)[0]
        share = float(1 / seconds / self.rate)
        assert share >= least, f"{self.stream}: {share:.3f} of its {self.rate}/s"
        return share
