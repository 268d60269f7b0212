"""More evidence moves a verdict, in the direction of the truth, and errors stay rare."""

import json
import math

import numpy as np
import pytest

from akt_lab.analysis.verdicts import CONTRADICTED, MARGINS, SUPPORTED, UNDECIDED, Evidence, decide

MARGIN, SD = 0.5, 0.66


def evidence(values, **more):
    given = {"claim": "it helps", "unit": "points", "margin": MARGIN, "file": "runs.jsonl",
             "command": "sweep --seeds {seeds}"}  # fmt: skip
    return Evidence(values=[float(v) for v in values], **{**given, **more})


def of(values, **more):
    return decide([evidence(values, **more)])[0]


def words(truth, n, times=50, seed=0, **more):
    """The words for so many simulated experiments of n seeds, as shares."""
    rng = np.random.default_rng(seed)
    found = [of(rng.normal(truth, SD, n), **more).word for _ in range(times)]
    return {word: found.count(word) / times for word in (SUPPORTED, CONTRADICTED, UNDECIDED)}


@pytest.mark.parametrize(
    ("truth", "word"), [(1.5, SUPPORTED), (0.0, CONTRADICTED), (-1.5, CONTRADICTED)]
)
def test_a_word_converges_to_the_truth(truth, word):
    """Beyond the margin, inside it, and beyond it on the other side."""
    shares = [words(truth, n)[word] for n in (2, 6, 64)]
    assert shares == sorted(shares)
    assert shares[0] < 0.6
    assert shares[-1] == 1


def test_few_seeds_and_a_small_effect_decide_nothing():
    assert words(0.7, 3)[UNDECIDED] > 0.8
    assert words(0.3, 3)[UNDECIDED] > 0.8
    assert of([1.0]).word == of([]).word == UNDECIDED


@pytest.mark.parametrize("n", [2, 5, 50])
def test_at_the_margin_itself_a_word_is_rarely_given(n):
    assert words(MARGIN, n, times=100)[UNDECIDED] == pytest.approx(0.95, abs=0.05)


def test_holm_keeps_the_error_of_a_whole_family():
    """Six claims, all at the margin: without correction, one in four families would err."""
    rng = np.random.default_rng(1)
    erred = 0
    erred_apart = 0
    for _ in range(40):
        samples = [rng.normal(MARGIN, SD, 6) for _ in range(6)]
        together = decide([evidence(sample) for sample in samples])
        apart = decide([evidence(sample, family=str(n)) for n, sample in enumerate(samples)])
        erred += any(v.word != UNDECIDED for v in together)
        erred_apart += any(v.word != UNDECIDED for v in apart)
    assert erred <= 6
    assert erred_apart > erred


def test_an_interval_and_its_word_agree_after_correction():
    rng = np.random.default_rng(2)
    family = [evidence(rng.normal(truth, SD, 8)) for truth in (-1, 0, 0.4, 1, 1, 1.4, 3)]
    for v in decide(family):
        assert (v.low > MARGIN) == (v.word == SUPPORTED)
        assert (v.high < MARGIN) == (v.word == CONTRADICTED)
        assert v.low < v.effect < v.high
        assert v.confidence > 0.9499
    assert max(v.confidence for v in decide(family)) == pytest.approx(1 - 0.05 / 7)


def test_the_word_is_shown_over_a_range_of_margins():
    v = of([1.1, 1.3, 0.9, 1.2, 1.0])
    assert {*v.words} == {*MARGINS["points"]}
    assert [v.words[m] for m in (0, 0.5, 1, 2)] == [SUPPORTED, SUPPORTED, UNDECIDED, CONTRADICTED]
    assert v.words[MARGIN] == v.word
    assert v.limits == "supported at 0 to 0.5, undecided at 1, contradicted at 2"
    assert of([1.0]).limits == ""  # nothing to hold a margin against


def test_ratios_are_averaged_as_factors():
    v = of([4.0, 1.0], unit="times", margin=1.5)
    assert v.effect == pytest.approx(2)
    assert v.low * v.high == pytest.approx(4)
    assert v.sd == pytest.approx(math.exp(np.std(np.log([4, 1]), ddof=1)))
    assert of([8.0, 8.1, 7.9], unit="times", margin=2).word == SUPPORTED
    assert of([0.5, 0.51, 0.49], unit="times", margin=2).word == CONTRADICTED


def test_several_teachers_are_the_unit():
    """Seeds of one teacher agree, teachers do not: three of them decide nothing."""
    values = [1.0, 1.1, 0.9, 3.0, 3.1, 2.9, -1.0, -1.1, -0.9]
    one = of(values[:3])
    three = of(values, teachers=["a"] * 3 + ["b"] * 3 + ["c"] * 3)
    assert (one.word, one.n, one.teachers) == (SUPPORTED, 3, 1)
    assert (three.word, three.n, three.teachers) == (UNDECIDED, 9, 3)
    assert three.effect == pytest.approx(1)
    assert "teachers" in three.decide


def test_equal_values_are_no_certainty():
    assert of([0.51, 0.51], grain=0.1).word == UNDECIDED
    assert of([0.51, 0.51]).word == SUPPORTED


def test_what_would_decide():
    v = of([0.0, 1.0, 2.0], margin=0.0)
    assert v.word == UNDECIDED
    assert v.decide == "about 7 seeds, if effect and spread stay: `sweep --seeds {0..6}`"
    rng = np.random.default_rng(0)  # and so many do
    decided = [of(rng.normal(1, 1, 7), margin=0.0).word == SUPPORTED for _ in range(60)]
    assert np.mean(decided) > 0.4
    assert of([1.0]).decide == "more seeds: `sweep --seeds {0..15}`"
    assert of([]).decide == "`sweep --seeds {0..15}`"
    assert of([MARGIN - 1, MARGIN + 1]).decide.startswith("not even 100,000 seeds")
    assert of([1.0, 1.01, 0.99]).decide == ""


def test_a_run_that_broke_off_is_not_left_out():
    v = of([1.0, 1.01, 0.99, math.nan])
    assert (v.word, v.n, v.lost) == (UNDECIDED, 3, 1)
    assert v.decide.startswith("1 of 4 pairs broke off")
    assert v.effect == pytest.approx(1)
    burst = of([3.0, 3.0, math.inf], unit="times", margin=2.0)
    assert (burst.word, burst.lost) == (UNDECIDED, 1)


def test_a_row_is_json():
    row = of([1.0, 2.0], more={"images": 12800}).row()
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    first = ["claim", "effect", "low", "high", "n", "teachers", "word", "file"]
    assert [*row][:8] == first
    assert row["images"] == 12800
    nothing = of([]).row()
    assert [nothing[name] for name in ("effect", "low", "high", "n", "teachers", "word")] == [
        None, None, None, 0, 0, UNDECIDED
    ]  # fmt: skip
    assert of([]).numbers == "nothing was measured that could tell"
    assert of([1.0]).numbers == "+1.00 points (no interval; n = 1), margin 0.5"
