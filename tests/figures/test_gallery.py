import json

import numpy as np
import pandas as pd
import pytest

from akt_lab.analysis import gradients, kept, studies
from akt_lab.analysis.gradients import grid
from akt_lab.commands import demo
from akt_lab.errors import AktError, UsageError
from akt_lab.figures import gallery
from akt_lab.runs.folder import find_runs


@pytest.fixture(scope="module")
def small_demo(tmp_path_factory, digits):
    """The demo itself, with 3 steps an epoch: real runs, two workers."""
    folder = tmp_path_factory.mktemp("demo")
    table, runs = demo.train(folder, seed=0, steps=3, workers=2)
    return folder, table, runs


@pytest.mark.slow
def test_demo_s_table(small_demo, capsys):
    _, table, _ = small_demo
    assert len(table) == 9
    assert set(table["method"]) == {"ptq", "adadfq", "adadfq+akt"}
    assert set(table["bits"]) == {2, 3, 4}
    done = table[table["status"] == "done"]
    assert len(done) >= 6
    assert np.allclose(done["difference"], done["accuracy"] - done["teacher"])
    demo.print_table(table)
    printed = capsys.readouterr().out
    assert f"teacher {table['teacher'].iloc[0]:.2f}%" in printed
    assert all(f"{accuracy:.2f}%" in printed for accuracy in table["accuracy"].dropna())
    assert all(word in printed for word in ("adadfq+akt", "bits"))


@pytest.mark.slow
def test_finished_runs_are_not_made_again(small_demo):
    folder, table, _ = small_demo
    before = {p: p.stat().st_mtime_ns for p in folder.glob("*/record.json")}
    again, _ = demo.train(folder, seed=0, steps=3, workers=2)
    assert before == {p: p.stat().st_mtime_ns for p in folder.glob("*/record.json")}
    pd.testing.assert_frame_equal(table, again)
    with pytest.raises(AktError, match="was made with"):
        demo.train(folder, seed=0, steps=4, workers=1)


@pytest.mark.slow
def test_figures_from_runs(small_demo, tmp_path, monkeypatch):
    less = {"STEPS": 4, "SEEDS": (0, 1), "COST_BITS": (3, 8), "CURVED_BITS": (3,)}
    less["COST_SEEDS"] = (0, 1)
    for name, value in {**less, "PROBES": 2, "POINTS": 3, "PAIRS": 2}.items():
        monkeypatch.setattr(studies, name, value)
    monkeypatch.setattr(gradients, "DRAWN_AFTER", 10)
    monkeypatch.setattr(gradients, "FIRST_STEPS", 2)
    monkeypatch.setattr(studies, "grid", lambda: grid((0, 8, 3, 2)))
    folder, table, _ = small_demo
    runs = find_runs(folder)
    pictures = gallery.draw([], runs, tmp_path)
    assert [p.stem for p in pictures] == gallery.OF_DEMO
    page = (tmp_path / "README.md").read_text()
    for name in gallery.OF_DEMO:
        for ending in ("png", "svg", "csv", "json"):
            assert (tmp_path / f"{name}.{ending}").stat().st_size > 50, (name, ending)
        about = json.loads((tmp_path / f"{name}.json").read_text())
        assert about["command"] == f"akt-lab figures {name}"
        assert f"{name}.png" in page
        assert about["caption"] in page
    drawn = pd.read_csv(tmp_path / "accuracy_by_bits.csv")
    assert np.allclose(sorted(drawn["accuracy"]), sorted(table["accuracy"]), equal_nan=True)
    curves = pd.read_csv(tmp_path / "training_by_bits.csv")
    assert (curves["loss_above_floor"] > -1e-3).all()  # a floor is a floor
    attention = pd.read_csv(tmp_path / "attention_side_by_side.csv")
    attention[["teacher", "student"]] **= (attention[["part"]] == "spatial").to_numpy() + 1
    sums = attention.groupby(["part", "image"])[["teacher", "student"]].sum()
    assert np.allclose(sums, 1, atol=1e-4)  # spatial: of unit length
    assert "## Verdicts" in page
    assert len(list((folder / "studies").glob("*.csv"))) == 6
    monkeypatch.setattr(kept, "load_bench", None)  # a second making would fail
    gallery.draw(["gradients_by_layer", "error_cost"], runs, tmp_path)
    with pytest.raises(UsageError, match="did you mean 'synthetic_images'"):
        gallery.draw(["synthetic_image"], runs, tmp_path)
