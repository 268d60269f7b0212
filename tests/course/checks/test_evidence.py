import math
from functools import partial

import numpy as np
from scipy import stats

from tests.course.checks import mutants, refused

MIDDLE = (2.5, 97.5)


def means(values, draws, seed, statistic=np.mean, replace=True):
    rng = np.random.default_rng(seed)
    return np.array(
        [statistic(rng.choice(values, len(values), replace=replace)) for _ in range(draws)]
    )


def interval(a, b, draws, seed, percentiles=MIDDLE, **options):
    return np.percentile(means(a - b, draws, seed, **options), percentiles)


wrong = mutants("bootstrap_difference")
wrong("None", forgets_to_return=lambda *given: print(interval(*given)))
wrong("*with* replacement", a_shuffle=partial(interval, replace=False))
wrong("percentiles 2.5 and 97.5", five_percent_at_each_end=partial(interval, percentiles=(5, 95)))
wrong("*mean* is asked for", medians=partial(interval, statistic=np.median))
wrong("in that order", high_before_low=partial(interval, percentiles=MIDDLE[::-1]))
wrong("b - a", the_other_sign=lambda a, b, draws, seed: interval(b, a, draws, seed))
wrong("same seed", no_seed=lambda a, b, draws, seed: interval(a, b, draws, None))
wrong("another seed", always_the_same_seed=lambda a, b, draws, seed: interval(a, b, draws, 0))
wrong("two numbers", only_the_mean=lambda a, b, draws, seed: means(a - b, draws, seed).mean())


@wrong("keep the pairs together")
def both_sides_on_their_own(a, b, draws, seed):
    return np.percentile(means(a, draws, seed) - means(b, draws, seed + 1), MIDDLE)


@wrong("percentiles of those means")
def single_differences(a, b, draws, seed):
    return np.percentile(np.random.default_rng(seed).choice(a - b, draws), MIDDLE)


@wrong("with draws=1")
def a_formula(a, b, draws, seed):
    found = means(a - b, 4000, seed)
    half = 1.96 * found.std()
    return found.mean() - half, found.mean() + half


def first(spread, resolution, half=lambda n: stats.t.ppf(0.975, n - 1) / math.sqrt(n)):
    n = 2
    while half(n) * spread > resolution:
        n += 1
    return n


wrong = mutants("seeds_needed")
wrong("None", no_return=lambda *given: print(first(*given)))
wrong("Student's t is larger", the_normal_s=partial(first, half=lambda n: 1.96 / math.sqrt(n)))
wrong("half is meant", the_whole_width=lambda spread, resolution: first(spread, resolution / 2))
wrong("one too few", the_last_that_is_too_wide=lambda *given: max(2, first(*given) - 1))
wrong("begin at 2", one_seed=lambda spread, resolution: 1)
wrong("sqrt(n)", no_square_root=partial(first, half=lambda n: stats.t.ppf(0.975, n - 1) / n))
wrong("no number of seeds", not_whole=lambda spread, resolution: (1.96 * spread / resolution) ** 2)

test_mutants = refused("bootstrap_difference", "seeds_needed")
