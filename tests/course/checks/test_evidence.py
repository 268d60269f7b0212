import math

import numpy as np
from scipy import stats

from tests.course.checks import mutant, refused


def means(values, draws, seed, statistic=np.mean, replace=True):
    rng = np.random.default_rng(seed)
    return np.array(
        [statistic(rng.choice(values, len(values), replace=replace)) for _ in range(draws)]
    )


@mutant("bootstrap_difference", says="None")
def forgets_to_return(a, b, draws, seed):
    np.percentile(means(a - b, draws, seed), [2.5, 97.5])


@mutant("bootstrap_difference", says="keep the pairs together")
def both_sides_on_their_own(a, b, draws, seed):
    return np.percentile(means(a, draws, seed) - means(b, draws, seed + 1), [2.5, 97.5])


@mutant("bootstrap_difference", says="*with* replacement")
def a_shuffle(a, b, draws, seed):
    return np.percentile(means(a - b, draws, seed, replace=False), [2.5, 97.5])


@mutant("bootstrap_difference", says="percentiles 2.5 and 97.5")
def five_percent_at_each_end(a, b, draws, seed):
    return np.percentile(means(a - b, draws, seed), [5, 95])


@mutant("bootstrap_difference", says="*mean* is asked for")
def medians(a, b, draws, seed):
    return np.percentile(means(a - b, draws, seed, np.median), [2.5, 97.5])


@mutant("bootstrap_difference", says="in that order")
def high_before_low(a, b, draws, seed):
    return np.percentile(means(a - b, draws, seed), [97.5, 2.5])


@mutant("bootstrap_difference", says="b - a")
def the_other_sign(a, b, draws, seed):
    return np.percentile(means(b - a, draws, seed), [2.5, 97.5])


@mutant("bootstrap_difference", says="percentiles of those means")
def single_differences(a, b, draws, seed):
    chosen = np.random.default_rng(seed).choice(a - b, draws)
    return np.percentile(chosen, [2.5, 97.5])


@mutant("bootstrap_difference", says="with draws=1")
def a_formula(a, b, draws, seed):
    found = means(a - b, 4000, seed)
    half = 1.96 * found.std()
    return found.mean() - half, found.mean() + half


@mutant("bootstrap_difference", says="same seed")
def no_seed(a, b, draws, seed):
    return np.percentile(means(a - b, draws, None), [2.5, 97.5])


@mutant("bootstrap_difference", says="another seed")
def always_the_same_seed(a, b, draws, seed):
    return np.percentile(means(a - b, draws, 0), [2.5, 97.5])


@mutant("bootstrap_difference", says="two numbers")
def only_the_mean(a, b, draws, seed):
    return means(a - b, draws, seed).mean()


def first(spread, resolution, start=2, half=lambda n: stats.t.ppf(0.975, n - 1) / math.sqrt(n)):
    n = start
    while half(n) * spread > resolution:
        n += 1
    return n


@mutant("seeds_needed", says="Student's t is larger")
def the_normal_s(spread, resolution):
    return first(spread, resolution, half=lambda n: 1.96 / math.sqrt(n))


@mutant("seeds_needed", says="half is meant")
def the_whole_width(spread, resolution):
    return first(spread, resolution / 2)


@mutant("seeds_needed", says="one too few")
def the_last_that_is_too_wide(spread, resolution):
    return max(2, first(spread, resolution) - 1)


@mutant("seeds_needed", says="begin at 2")
def one_seed(spread, resolution):
    return 1


@mutant("seeds_needed", says="sqrt(n)")
def no_square_root(spread, resolution):
    return first(spread, resolution, half=lambda n: stats.t.ppf(0.975, n - 1) / n)


@mutant("seeds_needed", says="no number of seeds")
def not_whole(spread, resolution):
    return (1.96 * spread / resolution) ** 2


@mutant("seeds_needed", says="None")
def no_return(spread, resolution):
    first(spread, resolution)


test_mutants = refused(__name__)
