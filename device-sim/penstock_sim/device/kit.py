"""`Device`: what a device's own code uses. Plain calls from any thread; the connection lives in a thread of the kit.

Owns the calls and their arguments. Leaves to others: the thread (`thread`), what is sent when (`session`, `kept`,
`fresh`), the wire (`message`), the disk (`disk`).
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
from numpy.typing import ArrayLike

from penstock_gateway.topics import is_name
from penstock_gateway.wire import Result
from penstock_models.errors import PenstockError, UsageError
from penstock_sim.device.connect import Files, link_options
from penstock_sim.device.disk import Disk
from penstock_sim.device.fresh import Fresh
from penstock_sim.device.kept import Kept, Limits
from penstock_sim.device.message import TENSOR, Frame, check, image_type, tensor
from penstock_sim.device.results import OnResult
from penstock_sim.device.session import Session
from penstock_sim.device.shared import Counters, Shared
from penstock_sim.device.thread import SessionThread

log = logging.getLogger(__name__)


class Device:
    """A device that publishes frames, on any number of streams, and hears their results.

        with Device("mqtt://broker:1883", "door") as door:
            door.send("cam", jpeg)
            door.send("vib", window, kind="data", keep=True)

    A device's name belongs to one program at a time. It connects by itself, in the background, again after each loss with
    jittered exponential back-off, and needs no broker to begin with.

    Args:
        url: `mqtt://HOST[:1883]` or `mqtts://HOST[:8883]`.
        name: the device's name in its topics; also its user name, where there is a password and no other is said.
        site: the site's name.
        store: a folder for kept frames, so that they outlive this process and a power cut; in memory without one.
        limits: how much a stream keeps; where that is reached, `send` waits for room for `wait_s`, then the oldest
            frame goes, which is counted as `forgotten`.
        fresh_s: how long a frame that is not kept is worth sending; also its message expiry.
        results: whether to hear results at all.
        username, password_file, ca, cert, key: as in the gateway's `[mqtt]`; files are read here once.
        protocol: the MQTT version to try first, 5 or 4 (3.1.1).

    Raises:
        UsageError: an argument or a file is wrong, or another process has the store.
        PenstockError: the store's disk cannot be used.
    """

    def __init__(
        self,
        url: str,
        name: str,
        site: str = "home",
        *,
        store: str | Path | None = None,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        wait_s: float = 0.0,
        fresh_s: float = 2.0,
        results: bool = True,
        username: str | None = None,
        password_file: str | Path | None = None,
        ca: str | Path | None = None,
        cert: str | Path | None = None,
        key: str | Path | None = None,
        root: str = "penstock",
        protocol: int = 5,
    ) -> None:
        for what, text in (("device", name), ("site", site)):
            if not is_name(text):
                raise UsageError(f"expected a {what}'s name of 1 to 64 of A-Z a-z 0-9 _ -, came {text!r}")
        self.name = name
        self.boot = f"{time.time_ns() // 1_000_000:x}-{secrets.token_hex(4)}"
        """The id of this start, beside which each stream counts its frames from 0."""
        self._limits, self._wait_s = limits, wait_s
        prefix = f"{root}/v1/{site}/dev/{name}"
        kinds = ("receipt", "result") if results else ("receipt",)
        user = username or (name if password_file else None)
        options = link_options(url, prefix, kinds, user, password_file, Files(ca, cert, key), protocol)
        self._seq: dict[str, int] = {}
        self._closed = False
        disk = Disk(Path(store), name) if store is not None else None
        try:
            self._shared = Shared(disk, fresh_s)
            self._restore()
            self._thread = SessionThread(name, Session(self._shared, options, prefix), self._shared)
        except BaseException:
            if disk is not None:
                disk.close()
            raise

    # --- sending --------------------------------------------------------------------------------------------------

    def send(
        self,
        stream: str,
        data: bytes | bytearray | memoryview | ArrayLike,
        *,
        kind: str = "frame",
        keep: bool = False,
        ts: int | None = None,
        deadline_ms: int | None = None,
        priority: int | None = None,
        content_type: str = "",
    ) -> int:
        """Send a frame, and return its number at once.

        Without `keep` it goes out at QoS 0 within `fresh_s`, or not at all: right for cameras on a `latest` route. With
        `keep` it is held until the gateway's receipt says that it is safe, and sent again until then: right for an
        `every` route, which alone gives receipts. With a store it is on disk when this returns.

        Args:
            data: an encoded image or an envelope as bytes; anything else is sent as a tensor.
            kind: `frame` or `data`: the topic's last level.
            ts: when it was captured, in epoch ms; now when left out.
            deadline_ms: from its arrival at the gateway. priority: 0 to 9, 9 first.
            content_type: of bytes; JPEG, PNG and WebP are known without, else the gateway's route decides.

        Raises:
            UsageError: an argument is wrong, or the stream was used the other way before.
            PenstockError: the store cannot be written (the frame is not taken), or the device is closed.
        """
        payload, sh, dt, content_type = _encoded(data, kind, content_type)
        ts = time.time_ns() // 1_000_000 if ts is None else ts
        frame = Frame(stream, kind, self.boot, 0, ts, payload, content_type, deadline_ms, priority, sh, dt)
        check(frame)
        with self._shared.changed:
            self._check_open()
            if keep:
                frame = self._keep(frame)
            else:
                lane = self._lane_of(stream)
                frame = self._number(frame)
                lane.put(frame, time.monotonic())
            self._thread.wake()
        return frame.seq

    def _keep(self, frame: Frame) -> Frame:
        kept, disk = self._kept_of(frame.stream), self._shared.disk
        if frame.nbytes > self._limits.nbytes:
            most = self._limits.nbytes
            raise UsageError(f"expected a frame of at most {most} bytes to keep, came {frame.nbytes}")
        if self._wait_s > 0 and not self._thread.is_current:
            room = self._shared.changed.wait_for
            room(lambda: self._closed or kept.has_room(frame.nbytes), self._wait_s)
            self._check_open()
        frame = self._number(frame)  # now, as others may have sent while this one waited
        if disk is not None:
            disk.add(frame)
        gone = kept.add(frame)
        if disk is not None and gone:
            disk.remove(gone)
        return frame

    def _number(self, frame: Frame) -> Frame:
        seq = self._seq.get(frame.stream, 0)
        self._seq[frame.stream] = seq + 1
        return msgspec.structs.replace(frame, seq=seq)

    def _kept_of(self, stream: str) -> Kept[Frame]:
        if stream in self._shared.fresh:
            raise UsageError(f"expected the stream {stream!r} to go on without keep=True, as it began")
        return self._shared.kept.setdefault(stream, Kept(self._limits))

    def _lane_of(self, stream: str) -> Fresh[Frame]:
        if stream in self._shared.kept:
            raise UsageError(f"expected the stream {stream!r} to go on with keep=True, as it began")
        return self._shared.fresh.setdefault(stream, Fresh(self._shared.fresh_s))

    # --- hearing --------------------------------------------------------------------------------------------------

    def results(self, stream: str, timeout_s: float | None = None) -> Iterator[Result]:
        """The results of a stream from this call on, until none came for `timeout_s` or the device is closed.

        The newest 1,000 wait to be read; older ones go, and are counted as `unread`.
        """
        return self._shared.results.iterate(stream, timeout_s)

    def on_result(self, stream: str, callback: OnResult) -> None:
        """Call this for each result of a stream, in the kit's thread: it must be quick, and what it raises is logged."""
        self._shared.results.call(stream, callback)

    # --- looking --------------------------------------------------------------------------------------------------

    @property
    def online(self) -> bool:
        """Whether it is connected and subscribed."""
        return self._shared.online

    @property
    def trouble(self) -> str:
        """What is wrong, in one line; "" where nothing is known to be."""
        return self._thread.failure or self._shared.trouble or self._shared.silence

    @property
    def counters(self) -> Counters:
        """What became of the frames so far."""
        with self._shared.changed:
            return self._shared.counters()

    def wait_online(self, timeout_s: float) -> bool:
        """Wait until it is connected; False after `timeout_s`."""
        return self._until(lambda: self._shared.online, timeout_s)

    def wait_safe(self, timeout_s: float) -> bool:
        """Wait until every kept frame has its receipt and the others are written; False after `timeout_s`."""
        return self._until(self._shared.is_safe, timeout_s)

    # --- ending ---------------------------------------------------------------------------------------------------

    def close(self, timeout_s: float = 5.0) -> bool:
        """Wait for what `wait_safe` waits for, say `offline`, and disconnect.

        Returns:
            Whether all of it was safe. What was not stays in the store for the next start; without one it is gone. A
            line in the log says how many frames that are.

        Raises:
            UsageError: a callback of `on_result` calls it, which runs in the thread that would have to end.
        """
        if self._thread.is_current:
            raise UsageError("expected close() from the device's own threads, came a result's callback")
        if self._closed:
            return self._shared.is_safe()
        safe = self.wait_safe(timeout_s)
        with self._shared.changed:
            self._closed = True
            self._shared.changed.notify_all()
        self._thread.end()
        self._shared.results.end()
        if self._shared.disk is not None:
            self._shared.disk.close()
        if not safe:
            waiting = self.counters.waiting
            where = "they stay in its store" if self._shared.disk is not None else "they are gone"
            log.warning("device %s: %d kept frames have no receipt: %s", self.name, waiting, where)
        return safe

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- inside ---------------------------------------------------------------------------------------------------

    def _restore(self) -> None:
        """Keep what an earlier start left: under its own boot, before what is new."""
        disk, shared = self._shared.disk, self._shared
        for frame in disk.frames() if disk is not None else ():
            gone = shared.kept.setdefault(frame.stream, Kept(self._limits)).add(frame, sent=True)
            if disk is not None and gone:
                disk.remove(gone)

    def _check_open(self) -> None:
        if self._closed or self._thread.failure:
            raise PenstockError(self._thread.failure or f"expected an open device, {self.name!r} is closed")

    def _until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        with self._shared.changed:
            self._shared.changed.wait_for(lambda: bool(self._thread.failure) or condition(), timeout_s)
            return condition()


def _encoded(
    data: bytes | bytearray | memoryview | ArrayLike, kind: str, content_type: str
) -> tuple[bytes, tuple[int, ...], str, str]:
    """(payload, shape, dtype, content type) of what a device gave."""
    if isinstance(data, bytes | bytearray | memoryview):
        payload = bytes(data)
        return payload, (), "", content_type or (image_type(payload) if kind == "frame" else "")
    if content_type not in ("", TENSOR):
        raise UsageError(f"expected bytes for the content type {content_type!r}, came {type(data).__name__}")
    made = tensor(data)
    return made.data, made.sh, made.dt, TENSOR
