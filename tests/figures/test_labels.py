import pandas as pd
import pytest

from akt_lab.errors import AktError
from akt_lab.figures.labels import alike, by_line, named, on_bench, seeds
from akt_lab.runs.results import table


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"epochs": 9}, "adadfq+akt (epochs=9)"),
        ({"act_bits": 8}, "adadfq+akt (activations=8 bits)"),
        ({"alpha": 0.25}, "adadfq+akt (alpha=0.25)"),
        ({"lam": 50.0}, "adadfq+akt (lam=50.0)"),
        ({"maps": "sum"}, "adadfq+akt (maps=sum)"),
        ({"student_lr": 1e-3}, "adadfq+akt (student_lr=0.001)"),
    ],
)
def test_runs_share_a_line_where_they_agree_in_all_but_seed_and_bits(made, change, name):
    akt = [made("adadfq+akt", bits, seed) for bits in (3, 4) for seed in (0, 1)]
    other = [made("adadfq+akt", 3, seed, **change) for seed in (0, 1)]
    lines = list(by_line(named(table([*akt, *other, made("adadfq")]))))
    assert [len(rows) for _, rows, _ in lines] == [4, 2, 1]
    assert lines[1][0] == name
    assert lines[2][0] == "adadfq"
    first, second = (style for *_, style in lines[:2])
    assert first["color"] == second["color"]
    assert first["linestyle"] != second["linestyle"]
    assert alike(akt) is akt
    with pytest.raises(AktError, match="differ in more than their seeds"):
        alike([*akt, *other])


def test_captions_name_the_bench_and_the_seeds(made):
    runs = [made(seed=seed) for seed in (0, 1)]
    assert on_bench(runs, ", here.") == "Bench `digits`, here."
    assert (seeds(table(runs)), seeds(table(runs[:1]))) == ("2 seeds", "one seed")
    uneven = pd.DataFrame({"name": ["a", "a", "b"], "bits": 3, "seed": [0, 1, 0]})
    assert seeds(uneven) == "1 to 2 seeds"
    assert seeds(uneven.drop(columns=["name", "bits"])) == "2 seeds"
    with pytest.raises(AktError, match="several benches"):
        on_bench([*runs, made(bench="cifar10")], "")
