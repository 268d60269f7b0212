"""Intervals of one sample, and of many at once: closed forms, SciPy, and how often they hold."""

import math

import numpy as np
import pytest
from scipy import stats

from akt_lab.analysis.intervals import (
    bootstrap_intervals,
    covers,
    holm_confidences,
    mean_interval,
    p_value,
    proportion_interval,
    seeds_needed,
    t_intervals,
)
from akt_lab.errors import AktError

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("count", [2, 3, 10])
def test_intervals_are_scipy_s(count):
    values = RNG.normal(80, 2, count)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    mean, low, high = mean_interval(values.tolist())
    assert mean == pytest.approx(values.mean())
    assert (low, high) == pytest.approx((expected.low, expected.high))


def test_an_interval_by_hand():
    mean, low, high = mean_interval([1.0, 2.0, 3.0])
    assert (mean, high - mean) == pytest.approx((2, 4.30265 / math.sqrt(3)), abs=1e-4)
    assert mean - low == pytest.approx(high - mean)


def test_samples_without_an_interval():
    assert mean_interval([5.0])[0] == 5
    assert all(map(math.isnan, mean_interval([5.0])[1:]))
    assert all(map(math.isnan, mean_interval([])))


def test_equal_values_are_no_certainty():
    """Two seeds one image apart from plain: no verdict can rest on that."""
    grain = 100 / 540
    _, low, high = mean_interval([grain, grain], grain * math.sqrt(2))
    assert low < 0 < high
    spread_out = [1.0, 9.0]
    assert mean_interval(spread_out, grain) == mean_interval(spread_out)


def test_wilson_interval_against_scipy():
    for correct, images in ((540, 540), (500, 540), (3, 10), (0, 7)):
        exact = stats.binomtest(correct, images).proportion_ci(method="wilson")
        got = proportion_interval(100 * correct / images, images)
        assert got == pytest.approx((100 * exact.low, 100 * exact.high), abs=0.02)
    assert all(map(math.isnan, proportion_interval(math.nan, 0)))


def test_t_intervals_are_the_table_s():
    samples = RNG.normal(1, 2, size=(4, 5))
    for found, values in zip(t_intervals(samples), samples, strict=True):
        assert found == pytest.approx(mean_interval(values.tolist())[1:])


def test_too_few_values_have_no_interval():
    assert np.isnan(t_intervals(np.ones((3, 1)))).all()
    assert np.isnan(bootstrap_intervals(np.ones((3, 0)))).all()


def test_bootstrap_is_scipy_s():
    sample = RNG.exponential(2, size=25)
    theirs = stats.bootstrap((sample,), np.mean, n_resamples=20_000, method="percentile", rng=1)
    expected = theirs.confidence_interval
    found = bootstrap_intervals(sample[None], draws=20_000)[0]
    assert found == pytest.approx([expected.low, expected.high], abs=0.03)


def test_with_three_values_the_ends_are_the_least_and_the_largest():
    samples = RNG.normal(size=(50, 3))
    found = bootstrap_intervals(samples)
    np.testing.assert_allclose(found, np.sort(samples)[:, [0, 2]])
    many = bootstrap_intervals(RNG.normal(size=(4000, 3)))
    assert covers(many, 0).mean() == pytest.approx(0.75, abs=0.03)  # 1 - 2 (1/2)^3
    assert covers(t_intervals(RNG.normal(size=(4000, 3))), 0).mean() == pytest.approx(
        0.95, abs=0.02
    )


def test_seeds_needed_is_the_first_that_does():
    for spread, resolution in ((0.7, 0.5), (1.0, 0.1)):
        seeds = seeds_needed(spread, resolution)
        half = [stats.t.ppf(0.975, n - 1) * spread / n**0.5 for n in (seeds - 1, seeds)]
        assert half[1] <= resolution < half[0]
    assert seeds_needed(0.01, 5.0) == 2
    with pytest.raises(AktError, match="too fine"):
        seeds_needed(10, 1e-3)


def test_confidence_and_p_value_are_scipy_s():
    values = RNG.normal(1, 2, 6)
    test = stats.ttest_1samp(values, 0.3)
    assert p_value(values.tolist(), 0.3) == pytest.approx(test.pvalue)
    low, high = mean_interval(values.tolist(), confidence=1 - test.pvalue)[1:]
    assert min(abs(low - 0.3), abs(high - 0.3)) < 1e-9  # its end is where the test turns
    assert p_value([1.0], 0) == 1
    assert (p_value([1.0, 1.0], 1.0), p_value([1.0, 1.0], 0.0)) == (1, 0)
    assert 0 < p_value([1.0, 1.0], 0.0, grain=0.1) < 1


def test_holm_by_hand():
    """Of Holm's step-down at 5%: 0.01 against 5/4%, 0.02 against 5/3% and then no more."""
    found = holm_confidences([0.04, 0.01, 0.02, 0.03])
    assert found == pytest.approx([1 - 0.05 / 3, 1 - 0.05 / 4, 1 - 0.05 / 3, 1 - 0.05 / 3])
    assert holm_confidences([0.04]) == pytest.approx([0.95])
    assert holm_confidences([0.01, 0.02, 0.03]) == pytest.approx([1 - 0.05 / 3, 0.975, 0.95])
    assert holm_confidences([]) == []
