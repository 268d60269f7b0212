import math

import pandas as pd
import pytest

from akt_lab.analysis import verdicts


def gradients(bursts, later=None):
    """Rows as in gradients_by_bits.csv.

    bursts: {(bits, loss): largest over median norm of each seed}; later: the same without the first
    steps, where it is another.
    """
    later = {**bursts, **(later or {})}
    return pd.DataFrame(
        [
            {"bits": bits, "loss": loss, "seed": seed, "explosion": ratio,
             "explosion_later": later[bits, loss][seed], "largest_at": 1 + seed,
             "exploded": ratio > 10, "relative_norm": 1 / bits}
            for (bits, loss), ratios in bursts.items() for seed, ratio in enumerate(ratios)
        ]
    )  # fmt: skip


LOSSES = ("ce", "kd", "paper", "code")
CALM = {(b, loss): (2, 2, 3) for b in (2, 3, 8) for loss in LOSSES}


@pytest.mark.parametrize("verdict", [verdicts.gradients_explode, verdicts.akt_calms_them])
def test_one_seed_is_called_one_seed(verdict):
    table = gradients(CALM)
    assert "one seed" not in verdict(table).word
    assert verdict(table[table["seed"] == 0]).word.endswith(", one seed")


def test_gradients_explode_where_most_seeds_do():
    assert verdicts.gradients_explode(gradients(CALM)).word == "not supported"
    bursts = {**CALM, (2, "kd"): (20, 30, 3)}
    found = verdicts.gradients_explode(gradients(bursts))
    assert found.word == "supported at 2 bits"
    assert "seeds of 3: 2 at 2, 0 at 3, 0 at 8 bits; at 2 bits the largest is step 1 to 3" in (
        found.numbers
    )
    assert "grows 4 times from 8 to 2 bits" in found.numbers
    assert "cross-entropy's grows 4.0 times" in found.numbers
    once = verdicts.gradients_explode(gradients({**CALM, (2, "kd"): (20, 3, 3)}))
    assert once.word == "not supported"


def test_a_burst_at_the_start_is_told_from_one_that_lasts():
    bursts = {**CALM, (2, "kd"): (20, 30, 25), (3, "kd"): (20, 30, 25)}
    found = verdicts.gradients_explode(gradients(bursts, later={(2, "kd"): (2, 2, 3)}))
    assert found.word == "supported at 3 bits and at 2 bits only in the first steps"
    assert "2.0 times the median at 2 bits" in found.numbers


def test_whole_trainings_are_judged_run_by_run():
    calm = {"name": "adadfq", "bits": 2, "seed": 0, "gradient_norm": [1.0, 2.0, 1.0, 4.0]}
    burst = {"name": "adadfq+akt", "bits": 2, "seed": 1, "gradient_norm": [1.0, 1.0, 1.0, 40.0]}
    table = pd.concat([pd.DataFrame(run) for run in (calm, burst)])
    found = verdicts.gradients_in_training(table)
    assert found.word == "in 1 of 2 runs"
    assert "adadfq at 2 bits 2.7; adadfq+akt at 2 bits 40.0" in found.numbers
    assert verdicts.gradients_in_training(pd.DataFrame(calm)).word == "not supported"
    other = pd.DataFrame({**calm, "name": "adadfq (epochs=9)", "gradient_norm": [30.0] * 4})
    both = pd.concat([pd.DataFrame(calm), other])  # large beside another run's, not its own
    assert verdicts.gradients_in_training(both).word == "not supported"


@pytest.mark.parametrize(
    ("plain", "akt", "word"),
    [((20, 30, 25), (2, 2, 3), "supported"), ((2, 2, 3), (20, 30, 25), "not supported"),
     ((20, 3, 25), (10, 10, 10), "mixed")],
)  # fmt: skip
def test_akt_calms_only_if_it_does_with_every_seed(plain, akt, word):
    bursts = {**CALM, **{(b, "kd"): plain for b in (2, 3)}}
    bursts |= {(b, loss): akt for b in (2, 3) for loss in ("paper", "code")}
    assert verdicts.akt_calms_them(gradients(bursts)).word == word


def costs(of=(2, 3), in_sum=1.0, **per_square):
    """Rows as in error_cost.csv; `in_sum`: what an attention part costs, the rest costing 1."""
    return pd.DataFrame(
        [
            {"bits": bits, "layer": layer, "part": part, "against_random": value,
             "cost": 1.0 if part == "rest" else in_sum}
            for bits in of for part, values in per_square.items()
            for layer, value in enumerate(values)
        ]
    )  # fmt: skip


def test_attention_is_costly_only_where_both_parts_are():
    dear, cheap, rest = (5, 6), (0.1, 0.2), (1, 1)
    for spatial, channel, word in (
        (dear, dear, "supported"),
        (dear, cheap, "mixed"),
        (cheap, cheap, "not supported"),
    ):
        found = verdicts.attention_is_costly(costs(spatial=spatial, channel=channel, rest=rest))
        assert found.word == f"at 2 bits {word}; at 3 bits {word}, one batch"


def test_dear_per_unit_is_not_dear_in_sum():
    parts = {"spatial": (5, 6), "channel": (5, 6), "rest": (1, 1)}
    table = pd.concat([costs((2,), 2.0, **parts), costs((3,), 0.5, **parts)])
    found = verdicts.attention_is_costly(table)
    assert (
        found.word == "at 2 bits supported; at 3 bits supported per unit of error only, one batch"
    )
    assert "dearer than the rest in 2 of 2 layers; 0.5 times the rest in sum" in found.numbers


def test_what_was_not_measured_is_untested():
    table = gradients(CALM)
    of = table["loss"]
    for judge, empty in (
        (verdicts.gradients_explode, table[of != "kd"]),
        (verdicts.akt_calms_them, table[of != "kd"]),
        (verdicts.akt_calms_them, table[table["bits"] == 8]),
        (verdicts.akt_calms_them, table[of.isin(["ce", "kd"])]),
        (verdicts.gradients_in_training, pd.DataFrame(columns=["name", "bits", "gradient_norm"])),
        (verdicts.attention_is_costly, costs((4,), spatial=(5,), channel=(5,), rest=(1,))),
        (verdicts.attention_is_costly, costs((2,), spatial=(5,), channel=(5,))),
    ):
        assert judge(empty).word == "untested"
    assert verdicts._how_often([]) == verdicts._how_often([(0, 0)]) == "untested"
    no_price = costs((2,), spatial=(math.nan,), channel=(math.nan,), rest=(math.nan,))
    assert verdicts.attention_is_costly(no_price).word == "at 2 bits untested, one batch"


def test_what_is_missing_is_not_spoken_of():
    bursts = {**CALM, **{(b, "kd"): (20, 30, 25) for b in (2, 3)}}
    table = gradients(bursts)
    found = verdicts.akt_calms_them(table[table["loss"] != "code"])
    assert found.word == "supported"
    assert "code" not in found.numbers
    found = verdicts.gradients_explode(table[table["loss"] == "kd"])
    assert found.word == "supported at 2 and 3 bits"
    assert "cross-entropy" not in found.numbers
    fewer = table[(table["bits"] != 2) | (table["seed"] == 0)]  # one seed at 2 bits, and it burst
    assert verdicts.gradients_explode(fewer).word == "supported at 2 and 3 bits"
    one_broke = gradients({**CALM, **{(2, "paper"): (math.nan, 2, 3)}})
    assert "`paper` at 2 bits 2.5 against 2.5" in verdicts.akt_calms_them(one_broke).numbers


def test_a_page_of_what_was_measured_and_no_more(tmp_path):
    assert verdicts.page(tmp_path) == ""
    gradients(CALM).to_csv(tmp_path / "gradients_by_bits.csv", index=False)
    page = verdicts.page(tmp_path)
    assert page.count("\n| ") == 4  # the head, two claims, and what is untested
    assert "(#gradients-by-bits)" in page
    assert "attention" not in page
