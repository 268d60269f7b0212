import json

import numpy as np
import pandas as pd
import pytest
import torch

from akt_lab.analysis import gradients, studies
from akt_lab.analysis.gradients import grid
from akt_lab.analysis.intervals import proportion_interval
from akt_lab.commands import demo
from akt_lab.errors import AktError, UsageError
from akt_lab.figures import gallery
from akt_lab.image_pool import ImagePool
from akt_lab.runs.folder import Run, find_runs


def test_wilson_interval_against_scipy():
    from scipy.stats import binomtest

    for correct, images in ((540, 540), (500, 540), (3, 10), (0, 7)):
        exact = binomtest(correct, images).proportion_ci(method="wilson")
        got = proportion_interval(100 * correct / images, images)
        assert got == pytest.approx((100 * exact.low, 100 * exact.high), abs=0.02)


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
    small = {
        "STEPS": 4,
        "SEEDS": (0, 1),
        "COST_BITS": (3, 8),
        "CURVED_BITS": (3,),
        "PROBES": 2,
        "POINTS": 3,
        "PAIRS": 2,
    }
    for name, value in small.items():
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
    monkeypatch.setattr(studies, "load_bench", None)  # a second making would fail
    gallery.draw(["gradients_by_layer", "error_cost"], runs, tmp_path)
    with pytest.raises(UsageError, match="did you mean 'synthetic_images'"):
        gallery.draw(["synthetic_image"], runs, tmp_path)


def fake_run(folder, status="done", bench="digits", **settings):
    """A run of which only the record is there."""
    folder.mkdir(parents=True)
    about = {"method": "adadfq", "weight_bits": 3, "seed": 0, "variant": "paper", **settings}
    record = {"status": status, "settings": about, "bench": {"bench": bench, "teacher": None}}
    (folder / "record.json").write_text(json.dumps(record))
    return Run(folder)


def test_attention_by_bits_needs_a_student_that_was_trained_to_its_end(tmp_path):
    half = fake_run(tmp_path / "half", status="running")
    rounded = fake_run(tmp_path / "ptq", method="ptq")
    with pytest.raises(AktError, match="needs a run that trained a student to its end"):
        studies.attention([half, rounded])
    assert not (tmp_path / "studies").exists()  # so that it is made once there is one


def test_a_study_refuses_several_benches_before_it_begins(tmp_path):
    runs = [fake_run(tmp_path / b, bench=b) for b in ("digits", "cifar10")]
    for study in (studies.attention, studies.gradients, studies.error_cost, studies.surface):
        with pytest.raises(AktError, match=r"several benches \(cifar10, digits\)"):
            study(runs)


def test_studies_lie_in_the_folder_that_holds_all_runs(tmp_path):
    runs = [fake_run(tmp_path / name) for name in ("a/one", "b/two")]
    table = pd.DataFrame({"x": [1]})
    assert studies.kept(runs, "name", lambda: table).equals(table)
    assert (tmp_path / "studies" / "name.csv").exists()
    assert studies.kept(runs, "name", None).equals(table)


def test_a_pool_s_images_stand_in_the_row_of_their_class():
    labels = torch.tensor([2, 0, 1, 0, 2, 1, 0])
    images = labels.view(-1, 1, 1, 1).expand(-1, 1, 4, 4).float()
    shown, y = studies._of_classes(ImagePool(images, labels, augment=False), 3, 10)
    assert y.tolist() == [0, 0, 1, 1, 2, 2]  # as many as the rarest class has
    assert (shown[:, 0, 0, 0] == y).all()
    with pytest.raises(AktError, match="no image of some class"):
        studies._of_classes(ImagePool(images, labels, augment=False), 4, 10)
