"""Synthetic cameras and sensors: drawn and encoded once, repeated for ever, with the truth beside each payload."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from penstock_models.errors import UsageError
from penstock_sim.sources.encodings import MEDIA_TYPES, Encoding, encode_window
from penstock_sim.sources.files import jpeg
from penstock_sim.sources.scenes import Frame, Scene
from penstock_sim.sources.signals import Vibration
from penstock_sim.sources.slow_signals import MOTION_HZ, motion, temperature
from penstock_sim.sources.source import Payload, Ring


def scene_ring(
    seed: int, rate_hz: float = 10.0, width: int = 640, height: int = 480, frames: int = 60, quality: int = 85
) -> Ring:
    """A synthetic camera: `frames` consecutive pictures of one scene as JPEG."""
    scene = Scene(seed, width, height)
    ring = [_picture(scene.frame(n), quality) for n in range(frames)]
    return Ring(f"scene-{seed}", "image/jpeg", rate_hz, ring)


def vibration_ring(
    seed: int,
    rate_hz: float = 4.0,
    encoding: Encoding = "tensor",
    first: int = 0,
    windows: int = 64,
) -> Ring:
    """A synthetic vibration sensor: the windows `first` to `first + windows` of one signal, `rate_hz` of them a second."""
    signal = Vibration(seed)
    ring = [_window(signal.window(n), encoding, signal.rate_hz) for n in range(first, first + windows)]
    return Ring(f"vibration-{seed}", MEDIA_TYPES[encoding], rate_hz, ring)


def temperature_ring(
    seed: int, rate_hz: float = 1.0, encoding: Encoding = "json", size: int = 16, windows: int = 64
) -> Ring:
    """A thermometer that is read once a minute: windows of `size` readings, float32 °C."""
    ring = [_window(temperature(seed, n, size), encoding, 1 / 60) for n in range(windows)]
    return Ring(f"temperature-{seed}", MEDIA_TYPES[encoding], rate_hz, ring)


def accelerometer_ring(
    seed: int, rate_hz: float = 0.5, encoding: Encoding = "cbor", size: int = 100, windows: int = 64
) -> Ring:
    """A worn accelerometer: windows of float32 (size, 3), m/s². There is no truth of anomalies in it."""
    encoded = [
        encode_window(motion(seed, n, size)[0], encoding, ("x", "y", "z"), MOTION_HZ) for n in range(windows)
    ]
    ring = [Payload(data, user) for data, user in encoded]
    return Ring(f"accelerometer-{seed}", MEDIA_TYPES[encoding], rate_hz, ring)


def audio_ring(file: Path, rate_hz: float = 1.0, encoding: Encoding = "tensor", size: int = 16_000) -> Ring:
    """The windows of `size` samples of a WAV file, int16, the first channel; a short rest is left out.

    Raises:
        UsageError: no WAV file of 16-bit PCM, or shorter than one window.
    """
    try:
        with wave.open(str(file), "rb") as sound:
            channels, width, hz = sound.getnchannels(), sound.getsampwidth(), sound.getframerate()
            data = sound.readframes(sound.getnframes())
    except (OSError, EOFError, wave.Error) as error:
        raise UsageError(f"expected a WAV file at {file}: {error}") from None
    if width != 2:
        raise UsageError(f"expected 16-bit PCM in {file}, got {8 * width} bits")
    samples = np.frombuffer(data, "<i2")[::channels]
    count = len(samples) // size
    if not count:
        raise UsageError(f"expected at least {size} samples in {file}, got {len(samples)}")
    encoded = (encode_window(w, encoding, ("s",), hz) for w in samples[: count * size].reshape(count, size))
    return Ring(f"audio-{file.stem}", MEDIA_TYPES[encoding], rate_hz, [Payload(*pair) for pair in encoded])


def bytes_ring(
    seed: int, rate_hz: float, size: int, media_type: str = "application/x-tensor", frames: int = 8
) -> Ring:
    """Random bytes, for load that nothing has to understand; as a tensor they are u8 of shape (size,)."""
    dice = np.random.default_rng(seed)
    user = (("sh", str(size)), ("dt", "u8")) if media_type == "application/x-tensor" else ()
    ring = [Payload(dice.bytes(size), user) for _ in range(frames)]
    return Ring(f"bytes-{size}-{seed}", media_type, rate_hz, ring)


def _picture(frame: Frame, quality: int) -> Payload:
    return Payload(jpeg(frame.image, quality), truth=frame.boxes)


def _window(found: tuple[NDArray[np.float32], bool], encoding: Encoding, sample_rate_hz: float) -> Payload:
    data, user = encode_window(found[0], encoding, sample_rate_hz=sample_rate_hz)
    return Payload(data, user, truth=found[1])
