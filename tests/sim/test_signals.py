"""Vibration: a pure function of (seed, n), healthy at first, and every fault changes what its name says."""

import numpy as np
import pytest
from numpy.typing import NDArray

from penstock_sim.sources.signals import FAULTS, RATE_HZ, SIZE, Episode, Vibration

WINDOWS = 1200


def test_a_window_depends_on_seed_and_number_alone() -> None:
    one, other = Vibration(3), Vibration(3)
    forward = [one.window(n)[0] for n in range(6)]
    assert all(np.array_equal(other.window(n)[0], forward[n]) for n in (5, 0, 3))
    assert not np.array_equal(forward[0], Vibration(4).window(0)[0])


def test_a_window_is_float32_of_the_stated_size_and_finite() -> None:
    for size, rate in ((SIZE, RATE_HZ), (100, 1000.0), (1, 8000.0)):
        samples, faulty = Vibration(1, rate, size).window(10**7)
        assert samples.dtype == np.float32
        assert samples.shape == (size,)
        assert np.isfinite(samples).all()
        assert isinstance(faulty, bool)


@pytest.mark.parametrize(("seed", "rate", "size"), [(-1, 4096.0, 512), (0, 999.0, 512), (0, 4096.0, 0)])
def test_wrong_arguments_are_refused(seed: int, rate: float, size: int) -> None:
    with pytest.raises(ValueError, match="expected seed"):
        Vibration(seed, rate, size)


def test_every_signal_begins_healthy_and_has_episodes() -> None:
    for seed in range(10):
        machine = Vibration(seed)
        truth = [machine.window(n)[1] for n in range(WINDOWS)]
        assert not any(truth[:40])
        assert 0.05 < np.mean(truth) < 0.5


def test_windows_join_without_a_step() -> None:
    """The hum goes on over a window's edge: the jump there is hardly larger than inside."""
    machine = Vibration(6)
    joined = np.concatenate([machine.window(n)[0] for n in range(30)])
    jumps = abs(np.diff(joined))
    edges, inside = jumps[SIZE - 1 :: SIZE], np.delete(jumps, slice(SIZE - 1, None, SIZE))
    assert edges.max() <= 1.5 * inside.max()
    assert edges.mean() < 2 * inside.mean()


@pytest.mark.parametrize("n", [9, 20])
def test_an_episode_has_no_severity_outside(n: int) -> None:
    assert Episode("bearing", 10, 20, 1.0).level(n) == 0


def test_an_episode_grows_and_fades() -> None:
    levels = [Episode("bearing", 10, 20, 1.0).level(n) for n in range(10, 20)]
    assert max(levels) == pytest.approx(1.0, abs=0.05)
    assert levels[0] < levels[4] > levels[-1]
    assert min(levels) > 0.3


def test_a_bearing_rings_above_the_hum() -> None:
    faulty, healthy = _spectra("bearing")
    assert _band(faulty, 900, 1700) > 5 * _band(healthy, 900, 1700)


def test_imbalance_swells_the_first_harmonic() -> None:
    faulty, healthy = _spectra("imbalance")
    assert _band(faulty, 20, 42) > 1.7 * _band(healthy, 20, 42)
    assert _band(faulty, 900, 1700) < 1.2 * _band(healthy, 900, 1700)


def test_looseness_adds_half_orders() -> None:
    faulty, healthy = _spectra("looseness")
    assert _band(faulty, 260, 290) > 1.5 * _band(healthy, 260, 290)


def _spectra(fault: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean power spectra of strong faulty windows of one kind and of healthy ones, over many machines."""
    assert fault in FAULTS
    kinds: dict[bool, list[NDArray[np.float32]]] = {True: [], False: []}
    for machine in map(Vibration, range(20)):
        for n in range(0, 400, 2):
            episode = machine.episode(n)
            level = episode.level(n) if episode else 0.0
            if level == 0 or (episode and episode.fault == fault and level > 0.8):
                kinds[level > 0].append(machine.window(n)[0])
    faulty, healthy = (
        np.mean(abs(np.fft.rfft(np.stack(k) * np.hanning(SIZE))) ** 2, axis=0) for k in kinds.values()
    )
    return faulty, healthy


def _band(spectrum: NDArray[np.float64], low: float, high: float) -> float:
    hz = np.fft.rfftfreq(SIZE, 1 / RATE_HZ)
    return float(spectrum[(hz >= low) & (hz <= high)].sum())
