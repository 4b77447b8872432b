"""The slots in which words are said, and how a word gets through.

A call and its reply belong to one slot, which has shared memory in both directions; slot 0 is for loading and closing.
The receiver checks types and bounds: a process whose memory was overwritten may say anything.
"""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

from penstock_models.isolation.buffers import Parts, Reader, Writer
from penstock_models.isolation.channel import Channel, ChannelError, close_all
from penstock_models.isolation.words import Call, Reply

T = TypeVar("T")

CONTROL = 0  # the slot of Load and Close
INLINE_WORD_BYTES = 8 * 1024


class Frame(msgspec.Struct, frozen=True, array_like=True):
    """One message. A long word lies in the slot's shared memory, at `at` with `size` bytes."""

    slot: int
    word: bytes
    at: int = 0
    size: int = 0


_encoder = msgspec.msgpack.Encoder()
_frames = msgspec.msgpack.Decoder(Frame)


class Slot:
    """This side's half of a slot: one call at a time, and its reply."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.writer = Writer()
        self.reader = Reader()

    def close(self) -> None:
        self.writer.close()


class Line(Generic[T]):
    """Says words of one side and hears those of the other, `T`."""

    def __init__(self, channel: Channel, heard: msgspec.msgpack.Decoder[T], slots: int) -> None:
        self._channel = channel
        self._heard = heard
        self.slots = [Slot(number) for number in range(slots)]

    def say(self, slot: Slot, word: Call | Reply, parts: Parts | None = None) -> None:
        """Send a word with its parts.

        Raises:
            TooLarge: nothing was sent.
            OSError: there is no memory for the parts; nothing was sent.
            ChannelError: the other side is gone or does not listen.
        """
        parts = parts or Parts()
        data = _encoder.encode(word)
        frame = Frame(slot.number, data)
        if len(data) > INLINE_WORD_BYTES:
            frame = Frame(slot.number, b"", *parts.add(data))
        fd = slot.writer.place(parts)
        try:
            self._channel.send(_encoder.encode(frame), fd)
        finally:
            close_all([fd] if fd >= 0 else [])

    def hear(self) -> tuple[Slot, T] | None:
        """The next word, or None where there is none now.

        Raises:
            ChannelError: the other side is gone, or said what is no word.
        """
        message = self._channel.receive()
        if message is None:
            return None
        try:
            frame = _frames.decode(message.data)
            slot = self.slots[frame.slot] if 0 <= frame.slot < len(self.slots) else None
        except msgspec.DecodeError:
            slot = None
        if slot is None:
            close_all([message.fd])
            raise ChannelError("it said what is no word of this protocol")
        if message.fd >= 0:
            slot.reader.take(message.fd)
        # A copy: what lies in shared memory may change while it is decoded.
        word = frame.word or bytes(slot.reader.at(frame.at, frame.size))
        try:
            return slot, self._heard.decode(word)
        except msgspec.DecodeError as error:
            raise ChannelError(f"it said what is no word of this protocol ({error})") from error

    def close(self) -> None:
        self._channel.close()
        for slot in self.slots:
            slot.close()
