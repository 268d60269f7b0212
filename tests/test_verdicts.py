import pandas as pd
import pytest

from akt_lab import verdicts


def gradients(bursts, exploded=10.0):
    """Rows as in gradients_by_bits.csv: {(bits, loss): largest over median norm of each seed}."""
    return pd.DataFrame(
        [
            {"bits": bits, "loss": loss, "seed": seed, "explosion": ratio,
             "exploded": ratio > exploded, "relative_norm": 1 / bits}
            for (bits, loss), ratios in bursts.items() for seed, ratio in enumerate(ratios)
        ]
    )  # fmt: skip


CALM = {(b, loss): (2, 2, 3) for b in (2, 3, 8) for loss in ("kd", "paper", "code")}


@pytest.mark.parametrize("verdict", [verdicts.gradients_explode, verdicts.akt_calms_them])
def test_one_seed_is_called_one_seed(verdict):
    table = gradients(CALM)
    assert "one seed" not in verdict(table).word
    assert verdict(table[table["seed"] == 0]).word.endswith(", one seed")


def test_gradients_explode_where_most_seeds_do():
    assert verdicts.gradients_explode(gradients(CALM)).word == "not supported"
    found = verdicts.gradients_explode(gradients({**CALM, (2, "kd"): (20, 30, 3)}))
    assert found.word == "supported at 2 bits"
    assert "2 of 3 seeds at 2, 0 of 3 seeds at 3" in found.numbers
    assert "4 times from 8 to 2 bits" in found.numbers
    once = verdicts.gradients_explode(gradients({**CALM, (2, "kd"): (20, 3, 3)}))
    assert once.word == "not supported"


@pytest.mark.parametrize(
    ("plain", "akt", "word"),
    [((20, 30, 25), (2, 2, 3), "supported"), ((2, 2, 3), (20, 30, 25), "not supported"),
     ((20, 3, 25), (10, 10, 10), "mixed")],
)  # fmt: skip
def test_akt_calms_only_if_it_does_with_every_seed(plain, akt, word):
    bursts = {**CALM, **{(b, "kd"): plain for b in (2, 3)}}
    bursts |= {(b, loss): akt for b in (2, 3) for loss in ("paper", "code")}
    assert verdicts.akt_calms_them(gradients(bursts)).word == word


def costs(**per_square):
    return pd.DataFrame(
        [
            {"bits": 3, "layer": layer, "part": part, "against_random": value, "cost": 1.0}
            for part, values in per_square.items() for layer, value in enumerate(values)
        ]
    )  # fmt: skip


def test_attention_is_costly_only_where_both_parts_are():
    dear, cheap, rest = (5, 6), (0.1, 0.2), (1, 1)
    for spatial, channel, word in (
        (dear, dear, "supported per unit of error"),
        (dear, cheap, "mixed"),
        (cheap, cheap, "not supported"),
    ):
        found = verdicts.attention_is_costly(costs(spatial=spatial, channel=channel, rest=rest))
        assert found.word == word


def test_a_page_of_what_was_measured_and_no_more(tmp_path):
    assert verdicts.page(tmp_path) == ""
    gradients(CALM).to_csv(tmp_path / "gradients_by_bits.csv", index=False)
    page = verdicts.page(tmp_path)
    assert page.count("\n| ") == 4  # the head, two claims, and what is untested
    assert "(#gradients-by-bits)" in page
    assert "attention" not in page
