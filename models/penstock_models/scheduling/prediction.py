"""How long a batch will take: α·n + β per version and device, and how much longer it takes at worst.

α and β are fitted by least squares over the last runs, newer ones counting more, held in shape by the warm-up. Runs differ
from the fit, small batches more than large ones, so what a deadline is compared with is an upper quantile of what the last
runs of that bucket of sizes took. A run that was far off counts once three in a row say the same: then the machine has
another speed, and what was learned at the old one is forgotten. Pure: time comes in as an argument.

A predictor that makes every request late would never be corrected by a run. So a version that has not run for `TRY_S`
is tried with one request, late or not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

DECAY = 0.85
"""Of a run's weight in the fit, with every later one: the last six are two thirds of it."""

HELD = 0.2
"""Runs of either end of the warm-up's shape that count with the measured ones."""

FAR = 2.0
"""A run that took so many times longer or shorter than the fit says is a surprise."""

CONFIRMED = 3
"""Surprises in one direction that are believed."""

WINDOW = 64
"""Runs of a bucket that its quantile looks at."""

FEW = 8
"""With fewer runs than this a bucket goes by those of all buckets, and those by `UNKNOWN`. Older runs than `AGE_S` count
only where there are no more."""

AGE_S = 3.0

UNKNOWN = 1.5

TINY_S = 1e-6
"""Nothing takes less, as far as something is divided by it."""

UNMEASURED_S = 1e-5
"""Of a model that takes no zeros the warm-up knows nothing: it runs, and is learned."""

TRY_S = 0.25

FIRST_TRY_S = 0.25
"""A run that is not a request's last try is given up after this: its neighbours wait for no longer than that."""

LONGEST_S = 60.0
SHORTEST_S = 1.0
HANGS = 5.0
"""A run that takes so many times what was predicted hangs."""


class BatchTime:
    """Predicts the seconds of a batch of n requests of one version on one device.

    `largest` is how large a batch may become on what is known: one of costly requests among cheap ones would hold a slot for
    many times what was predicted, so batches grow by doubling after each run that took far longer.

    Args:
        warm: seconds of a batch by its size, as the warm-up measured them.
    """

    def __init__(self, warm: Mapping[int, float]) -> None:
        points = {n: seconds for n, seconds in warm.items() if seconds > 0} or {1: UNMEASURED_S}
        self._shape = self._alpha, self._beta = _line(points)
        self._far_end = max(*points, 8)
        self._sums = (0.0, 0.0, 0.0, 0.0, 0.0)  # of 1, n, n², t, n·t
        self._surprises: list[tuple[int, float]] = []
        # (when, how many times what the warm-up's shape says), by bucket of sizes and of all
        self._paces: dict[int, deque[tuple[float, float]]] = {}
        self._all: deque[tuple[float, float]] = deque(maxlen=WINDOW)
        self._upper: dict[int, float] = {}
        self._last_run = float("-inf")
        self.largest = max(points)

    @property
    def item_s(self) -> float:
        """Seconds that one more request makes a batch longer by."""
        return self._alpha

    def mean(self, n: int) -> float:
        """Seconds that a batch of n will probably take."""
        return self._alpha * n + self._beta

    def upper(self, n: int) -> float:
        """Seconds that it will hardly exceed: what a deadline is compared with."""
        bucket = n.bit_length()
        pace = self._upper.get(bucket)
        if pace is None:
            pace = self._upper[bucket] = self._quantile(bucket)
        alpha, beta = self._shape
        return (alpha * n + beta) * pace

    def solo_p95(self) -> float:
        """Seconds that 95 of 100 requests alone take at most."""
        paces = self._known(1)
        if len(paces) < FEW:
            return self.mean(1)
        return sum(self._shape) * paces[int(0.95 * (len(paces) - 1))]

    def untried(self, now: float) -> bool:
        """Nothing ran for so long that what is predicted needs a trial."""
        return now - self._last_run >= TRY_S

    def timeout_s(self, n: int, last_try: bool = True) -> float:
        """When a run counts as hung. A batch, and the first run alone of one of a batch that hung, are given up sooner:
        what is given up there is run again."""
        least = SHORTEST_S if last_try else FIRST_TRY_S
        return min(LONGEST_S, max(least, HANGS * self.mean(n)))

    def ran(self, n: int, seconds: float, now: float, ended: bool = False) -> None:
        """Learn from a run. One that was `ended` at its limit tells of a slow model only when others do so too."""
        self._last_run = now
        self.largest = max(self.largest, 2 * n)
        fit = max(self.mean(n), TINY_S)
        ratio = seconds / fit
        if ended or ratio >= FAR:
            self.largest = 1
        if not ended and 1 / FAR < ratio < FAR:
            self._surprises.clear()
            self._learn(n, seconds)
        else:
            self._believed(n, seconds, ratio > 1)
        if not ended:
            self._note(n, seconds, now)

    def _believed(self, n: int, seconds: float, slower: bool) -> None:
        """Where this surprise is one too many, the fit starts anew from the last ones."""
        if self._surprises and (self._surprises[-1][1] > self.mean(self._surprises[-1][0])) != slower:
            self._surprises.clear()
        self._surprises.append((n, seconds))
        if len(self._surprises) < CONFIRMED:
            return
        self._sums = (0.0, 0.0, 0.0, 0.0, 0.0)
        self._paces.clear()
        self._all.clear()
        self._upper.clear()
        for size, took in self._surprises:
            self._learn(size, took)
        self._surprises.clear()

    def _learn(self, n: int, seconds: float) -> None:
        """Fit the last runs and, so that noise cannot turn the line, a little of the warm-up's shape at the speed of now."""
        s, sn, snn, st, snt = (value * DECAY for value in self._sums)
        self._sums = s, sn, snn, st, snt = s + 1, sn + n, snn + n * n, st + seconds, snt + n * seconds
        alpha, beta = self._shape
        speed = st / max(alpha * sn + beta * s, 1e-9)
        for end in (1, self._far_end):
            took = speed * (alpha * end + beta)
            s, sn, snn = s + HELD, sn + HELD * end, snn + HELD * end * end
            st, snt = st + HELD * took, snt + HELD * end * took
        spread = snn - sn * sn / s
        self._alpha = min(max((snt - sn * st / s) / spread, 0.0), st / sn)
        self._beta = max((st - self._alpha * sn) / s, 0.0)

    def _note(self, n: int, seconds: float, now: float) -> None:
        alpha, beta = self._shape
        pace = now, seconds / (alpha * n + beta)
        bucket = n.bit_length()
        paces = self._paces.get(bucket)
        if paces is None:
            paces = self._paces[bucket] = deque(maxlen=WINDOW)
        for window in (paces, self._all):
            window.append(pace)
            while len(window) > FEW and window[0][0] < now - AGE_S:
                window.popleft()
        self._upper.clear()

    def _quantile(self, bucket: int) -> float:
        """The largest pace of the last runs; of a well filled window the second largest, quantile 0.98 of a full one: one run
        that met something else does not count there."""
        paces = self._known(bucket)
        if len(paces) < FEW:
            return UNKNOWN * self.mean(1) / sum(self._shape)
        return max(paces[-1 if len(paces) < WINDOW // 2 else -2], self.mean(1) / sum(self._shape))

    def _known(self, bucket: int) -> list[float]:
        """The paces of a bucket's runs, ascending; of all runs where it has few."""
        own = self._paces.get(bucket, ())
        return sorted(pace for _, pace in (own if len(own) >= FEW else self._all))


def _line(points: Mapping[int, float]) -> tuple[float, float]:
    """α and β through measured (size, seconds); through the origin where there is one size only."""
    count = len(points)
    mean_n, mean_t = sum(points) / count, sum(points.values()) / count
    spread = sum((n - mean_n) ** 2 for n in points)
    if not spread:
        return mean_t / mean_n, 0.0
    alpha = sum((n - mean_n) * (t - mean_t) for n, t in points.items()) / spread
    alpha = min(max(alpha, 0.0), mean_t / mean_n)
    return alpha, mean_t - alpha * mean_n
