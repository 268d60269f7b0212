import itertools
import math
import random
from functools import partial

import numpy as np
import torch
from scipy import stats

from tests.course.checks import accepted, mutants, refused

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


wrong("changed in place", subtracts_in_place=lambda a, b, *rest: interval(
    a.__isub__(b), 0, *rest
))  # fmt: skip


def placed(a, b, draws, seed, low=0, fewer_pairs=0, size_less=0):
    rng, differences = np.random.default_rng(seed), np.asarray(a) - np.asarray(b)
    n = len(differences)
    places = rng.integers(low, n - fewer_pairs, size=(draws, n - size_less))
    return np.percentile(differences[places].mean(1), MIDDLE)


wrong("last pair is never drawn", integers_below_n_less_1=partial(placed, fewer_pairs=1))
wrong("first pair is never drawn", integers_from_1=partial(placed, low=1))
wrong("as many pairs as there are", draws_one_less=partial(placed, size_less=1))


@wrong("anew at each draw")
def generator_made_anew(a, b, draws, seed):
    found = [means(a - b, 1, seed)[0] for _ in range(draws)]
    return np.percentile(found, MIDDLE)


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


# ---- right, in other ways


def all_at_once(a, b, draws, seed):
    differences = np.asarray(a) - np.asarray(b)
    found = np.random.default_rng(seed).choice(differences, (draws, len(a))).mean(axis=1)
    return tuple(np.quantile(found, [0.025, 0.975]))


def pairs_of_places(a, b, draws, seed):
    rng, found = np.random.default_rng(seed), []
    for _ in range(draws):
        places = rng.integers(0, len(a), len(a))
        found.append(a[places].mean() - b[places].mean())
    return np.percentile(found, 2.5), np.percentile(found, 97.5)


def in_torch(a, b, draws, seed):
    generator = torch.Generator().manual_seed(seed)
    d = torch.tensor(a) - torch.tensor(b)
    means = d[torch.randint(len(d), (draws, len(d)), generator=generator)].mean(1)
    return torch.quantile(means, 0.025).item(), torch.quantile(means, 0.975).item()


def pure_python(a, b, draws, seed):
    rng = random.Random(seed)
    d = [x - y for x, y in zip(a, b, strict=True)]
    found = sorted(sum(rng.choices(d, k=len(d))) / len(d) for _ in range(draws))
    return found[int(0.025 * (draws - 1))], found[round(0.975 * (draws - 1))]


def weights(a, b, draws, seed):
    n = len(a)
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws)
    return np.percentile(counts @ (a - b) / n, MIDDLE).tolist()


def the_old_global_one(a, b, draws, seed):
    np.random.seed(seed)  # noqa: NPY002
    return np.percentile([np.random.choice(a - b, len(a)).mean() for _ in range(draws)], MIDDLE)  # noqa: NPY002


def at_most(n, spread, resolution):
    return stats.t.ppf(0.975, n - 1) * spread / n**0.5 <= resolution


def counts_on(spread, resolution):
    return next(n for n in itertools.count(2) if at_most(n, spread, resolution))


def bisects(spread, resolution):
    low, high = 2, 10**6
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if at_most(middle, spread, resolution) else (middle + 1, high)
    return low


def all_n_at_once(spread, resolution):
    n = np.arange(2, 10_000)
    return n[np.argmax(at_most(n, spread, resolution))]


test_right = accepted(
    bootstrap_difference=[
        interval, all_at_once, pairs_of_places, in_torch, pure_python, weights, the_old_global_one,
        lambda a, b, draws, seed: interval(a, b, draws, [seed, 7]),
        lambda *given: list(map(float, interval(*given))),
    ],
    seeds_needed=[
        first, counts_on, bisects, all_n_at_once,
        lambda *given: float(first(*given)),
        lambda *given: torch.tensor(first(*given)),
        partial(first, half=lambda n: -stats.t.ppf(0.025, n - 1) / n**0.5),
        partial(first, half=lambda n: stats.t(n - 1).ppf(0.975) / math.sqrt(n)),
        partial(first, half=lambda n: stats.t.isf(0.025, df=n - 1) * n**-0.5),
    ],
)  # fmt: skip
