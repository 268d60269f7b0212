"""How far a mean can be trusted: intervals, how often they hold, and how many seeds a claim needs.

Of one sample, as our tables and figures print them; and of many experiments at once.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
from scipy.special import stdtr, stdtrit

from akt_lab.errors import AktError

CONFIDENCE = 0.95
ENDS = (2.5, 97.5)  # percentiles
MOST_SEEDS = 100_000


def mean_interval(
    values: Sequence[float], grain: float = 0.0, confidence: float = CONFIDENCE
) -> tuple[float, float, float]:
    """Mean of a sample and its t-interval; (mean, low, high), NaN where it has none.

    Args:
        values: one a seed.
        grain: the least difference that can be measured, here of one image; see `spread_of`.
        confidence: of the interval, as a share.
    """
    if len(values) == 0:
        return (math.nan,) * 3
    mean = float(np.mean(values))
    if len(values) == 1:
        return mean, math.nan, math.nan
    reach = float(stdtrit(len(values) - 1, (1 + confidence) / 2))
    half = reach * spread_of(values, grain) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def spread_of(values: Sequence[float], grain: float = 0.0) -> float:
    """Standard deviation of a sample; no less than that of rounding to `grain`.

    So a few equal values, each known to one image, do not pass for certainty. NaN of one value.
    """
    if len(values) < 2:
        return math.nan
    return max(float(np.std(values, ddof=1)), grain / math.sqrt(12))


def p_value(values: Sequence[float], mean: float, grain: float = 0.0) -> float:
    """Of the two-sided t-test that a sample's mean is `mean`; 1 of fewer than two values.

    >>> round(p_value([1.0, 2.0, 3.0], mean=2.0), 3)
    1.0
    """
    if len(values) < 2:
        return 1.0
    distance = abs(float(np.mean(values)) - mean)
    error = spread_of(values, grain) / math.sqrt(len(values))
    if not error:
        return float(distance == 0)
    return float(2 * stdtr(len(values) - 1, -distance / error))


def holm_confidences(p_values: Sequence[float], confidence: float = CONFIDENCE) -> list[float]:
    """The confidence with which each of several hypotheses is tested, by Holm's procedure (1979).

    The smallest of m p-values is held against (1 - confidence) / m, the next one against
    (1 - confidence) / (m - 1), and so on to the first that fails; all after it fail, too, and
    share its level. A hypothesis is rejected if the interval of its confidence leaves it out.
    All of them together reject a true one with probability 1 - confidence at most.

    >>> [round(c, 3) for c in holm_confidences([0.5, 0.001])]
    [0.95, 0.975]
    """
    m, found = len(p_values), [confidence] * len(p_values)
    left = m
    for place in sorted(range(m), key=lambda i: p_values[i]):
        found[place] = 1 - (1 - confidence) / left
        if p_values[place] <= (1 - confidence) / left:
            left -= 1
    return found


def proportion_interval(percent: float, images: int) -> tuple[float, float]:
    """95% Wilson interval, in percent, of an accuracy on that many images; NaN on none."""
    if not images:
        return math.nan, math.nan
    z, p = 1.96, percent / 100
    centre = (p + z**2 / (2 * images)) / (1 + z**2 / images)
    half = z * np.sqrt(p * (1 - p) / images + z**2 / (4 * images**2)) / (1 + z**2 / images)
    return float(100 * (centre - half)), float(100 * (centre + half))


def bootstrap_intervals(
    samples: np.ndarray, draws: int = 2000, seed: int = 0, ends: tuple[float, float] = ENDS
) -> np.ndarray:
    """95% percentile bootstrap interval of each row's mean: (E, n) -> (E, 2), low and high.

    Args:
        samples: E experiments of n values; for paired runs, the pairs' differences.
        draws: resamples, the same choice of places for all rows.
        seed: of the resamples.
        ends: percentiles of the resampled means.
    """
    count = samples.shape[1]
    if not count:
        return np.full((len(samples), 2), math.nan)
    times = np.random.default_rng(seed).multinomial(count, [1 / count] * count, size=draws)
    means = samples @ times.T / count
    return np.percentile(means, ends, axis=1).T


def t_intervals(samples: np.ndarray) -> np.ndarray:
    """95% interval of each row's mean by Student's t: (E, n) -> (E, 2), low and high."""
    count = samples.shape[1]
    if count < 2:
        return np.full((len(samples), 2), math.nan)
    half = stdtrit(count - 1, 0.975) * samples.std(axis=1, ddof=1) / math.sqrt(count)
    mean = samples.mean(axis=1)
    return np.stack([mean - half, mean + half], axis=1)


def covers(intervals: np.ndarray, truth: float) -> np.ndarray:
    """Which intervals, (E, 2), hold the truth: (E,), True or False."""
    return (intervals[:, 0] <= truth) & (truth <= intervals[:, 1])


def seeds_needed(spread: float, resolution: float, confidence: float = CONFIDENCE) -> int:
    """The fewest seeds with which a t-interval reaches at most `resolution` to either side.

    Args:
        spread: standard deviation of the paired differences, in points.
        resolution: half the interval's width that is wished for, in points.
        confidence: of the interval, as a share.

    Raises:
        AktError: if not even 100,000 seeds would do.

    >>> seeds_needed(spread=0.7, resolution=0.5)
    11
    """

    def fine(seeds: int) -> bool:  # once it is, it stays so
        half = stdtrit(seeds - 1, (1 + confidence) / 2) * spread / math.sqrt(seeds)
        return bool(half <= resolution)

    found = bisect_left(range(MOST_SEEDS), True, lo=2, key=fine)
    if found == MOST_SEEDS:
        raise AktError(f"{resolution:g} points is too fine for a spread of {spread:g} points")
    return found
