"""How far a mean can be trusted: intervals, how often they hold, and how many seeds a claim needs.

Of one sample, as our tables and figures print them; and of many experiments at once.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from akt_lab.errors import AktError

ENDS = (2.5, 97.5)  # percentiles
MOST_SEEDS = 100_000


def mean_interval(values: Sequence[float], grain: float = 0.0) -> tuple[float, float, float]:
    """Mean of a sample and its 95% t-interval; (mean, low, high), NaN where it has none.

    Args:
        values: one a seed.
        grain: the least difference that can be measured, here of one image; the sample's spread
            counts as no less than that of rounding to it, so that a few equal values do not pass
            for certainty.
    """
    if len(values) == 0:
        return (math.nan,) * 3
    mean = float(np.mean(values))
    if len(values) == 1:
        return mean, math.nan, math.nan
    spread = max(float(np.std(values, ddof=1)), grain / math.sqrt(12))
    half = float(stats.t.ppf(0.975, len(values) - 1)) * spread / math.sqrt(len(values))
    return mean, mean - half, mean + half


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
    half = stats.t.ppf(0.975, count - 1) * samples.std(axis=1, ddof=1) / math.sqrt(count)
    mean = samples.mean(axis=1)
    return np.stack([mean - half, mean + half], axis=1)


def covers(intervals: np.ndarray, truth: float) -> np.ndarray:
    """Which intervals, (E, 2), hold the truth: (E,), True or False."""
    return (intervals[:, 0] <= truth) & (truth <= intervals[:, 1])


def seeds_needed(spread: float, resolution: float) -> int:
    """The fewest seeds with which a 95% t-interval reaches at most `resolution` to either side.

    Args:
        spread: standard deviation of the paired differences, in points.
        resolution: half the interval's width that is wished for, in points.

    Raises:
        AktError: if not even 100,000 seeds would do.

    >>> seeds_needed(spread=0.7, resolution=0.5)
    11
    """
    seeds = np.arange(2, MOST_SEEDS)
    half = stats.t.ppf(0.975, seeds - 1) * spread / np.sqrt(seeds)
    enough = seeds[half <= resolution]
    if len(enough) == 0:
        raise AktError(f"{resolution:g} points is too fine for a spread of {spread:g} points")
    return int(enough[0])
