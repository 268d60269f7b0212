import argparse
import importlib
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torchvision import models

from akt_lab.benches import BenchSpec, load_bench
from akt_lab.runs import agreement
from akt_lab.runs.folder import Run
from akt_lab.runs.jobs import Job, do
from akt_lab.runs.training import evaluate
from akt_lab.settings import OF_METHOD, Settings
from tests.conftest import SMALL, fake_run
from tests.faults import brought

STEP = Path(__file__).parents[1] / "benchmarks" / "step.py"


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_step_against_the_plain_reference(precision):
    """Same losses to 1e-4 in float32 (the script refuses to compare otherwise), and a ratio."""
    sizes = ["--batch", "8", "--repeats", "3", "--threads", "1"]  # it may not be alone
    command = [sys.executable, str(STEP), *sizes, "--json", "--precision", precision]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert row["batch"] == 8
    assert row["precision"] == precision
    assert row["ratio"] == pytest.approx(row["reference_seconds"] / row["seconds"], rel=0.02)
    assert row["peak_mb"] > 100
    if precision == "fp32":
        assert row["largest_loss_difference"] < 1e-4


def test_gpu_on_a_processor(monkeypatch, tmp_path, capsys):
    """All of the script but recording and compiling, and it says so."""
    monkeypatch.syspath_prepend(STEP.parent)
    gpu = importlib.import_module("gpu")
    sizes = ["--steps", "2", "--batch", "4", "--side-by-side", "1", "2", "--images", "20"]
    table = gpu.main(["--device", "cpu", *sizes, "--csv", str(tmp_path / "gpu.csv")])
    kinds = ["reference", "eager", "evaluation", "not recorded", "not recorded"]
    assert list(table["how"]) == kinds
    assert list(table["side_by_side"]) == [1, 1, 1, 1, 2]
    assert table["loss_difference"][0] < 1e-4
    assert (table["ms_a_round"] > 0).all()
    kept = pd.read_csv(tmp_path / "gpu.csv")
    assert list(kept["ms_a_round"]) == list(table["ms_a_round"])
    assert "benchmarks/step.py measures there" in capsys.readouterr().out
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit, match="--device cpu"):
            gpu.main([])


MODELS = "resnet18", "mobilenet_v3_small", "efficientnet_b0", "squeezenet1_1", "swin_t"


@pytest.mark.slow
def test_models_are_quantized_right_or_refused(tmp_path):
    """By PyTorch's own observers and kernels the logits are the same, to the last digits."""
    command = [sys.executable, str(STEP.with_name("models.py")), *MODELS, "--csv"]
    done = subprocess.run([*command, str(tmp_path / "m.csv")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "m.csv").set_index("model")
    assert list(table.index) == list(MODELS)
    assert "applies a weight by a function call" in table["refused"].pop("swin_t")
    table = table.drop(index="swin_t")
    assert table["refused"].isna().all()
    assert (table["control"] < 1e-4).all()
    assert (table["error"] < 6 * table["noise"]).all()
    assert (table["matched"] == table["batch_norms"]).all()
    assert table["float_activations"].to_dict() == {
        "resnet18": 0, "mobilenet_v3_small": 9, "efficientnet_b0": 16, "squeezenet1_1": 0,
    }  # fmt: skip


def test_every_classification_model_has_its_row():
    """results/models.csv is whole: each model is quantized right, or refused with a reason."""
    table = pd.read_csv(STEP.parents[1] / "results" / "models.csv").set_index("model")
    assert list(table.index) == models.list_models(module=models)
    right = table["refused"].isna()
    assert (table[right]["control"] < 1e-4).all()
    assert (table[right]["layers"] > 0).all()
    assert table[~right]["layers"].isna().all()


# ---- the common pool ----------------------------------------------------------------------------


@pytest.fixture
def script(monkeypatch, tmp_path):
    """The script as a module, with a pool of few images in few steps."""
    monkeypatch.setenv("AKT_LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(agreement, "COMMON", 8)
    monkeypatch.setattr(agreement, "COMMON_STEPS", 2)
    monkeypatch.syspath_prepend(STEP.parent)
    return importlib.import_module("common_pool")


def photographs(folder, seed):
    rng = np.random.default_rng(seed)
    for name, brightness in (("cat", 60), ("dog", 120)):
        (folder / name).mkdir(parents=True)
        for i in range(20):
            pixels = rng.integers(0, 100, (8, 8, 3)) + brightness
            Image.fromarray(pixels.astype("u1")).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture
def made(tmp_path):
    """A bench's spec, and its runs at three bit-widths, among others that cannot be judged."""
    data, weights = photographs(tmp_path / "test", 0), tmp_path / "w.pth"
    torch.save(brought.tiny().state_dict(), weights)
    own = {"bench": None, "teacher": "tests.faults.brought:tiny", "weights": str(weights)}
    spec = BenchSpec(**own, data=str(data), mean=(0.5,) * 3, std=(0.25,) * 3)
    bench = load_bench(spec, progress=False)
    for bits in (2, 4, 8):
        settings = Settings(method="ptq", weight_bits=bits, act_bits=bits, **SMALL)
        job = Job(settings, spec, tmp_path / "runs" / f"of-{bits}")
        do(job, Run.create(job.folder), bench, 50.0, progress=False)
    fake_run(tmp_path / "runs" / "stopped", status="stopped")
    fake_run(tmp_path / "runs" / "of-digits")
    return spec


def test_a_row_for_each_run_that_ended_and_none_twice(script, made, tmp_path, capsys, monkeypatch):
    tune, out = photographs(tmp_path / "tune", 1), tmp_path / "new" / "common.csv"
    command = [str(tmp_path / "runs"), "--data", str(tune), "--out", str(out), "--device", "cpu"]
    script.main(command)
    table, said = pd.read_csv(out), capsys.readouterr().out
    assert list(table["run"]) == ["of-2", "of-4", "of-8"]
    assert "stopped is left out: its status is 'stopped'" in said
    assert "of-digits is left out: --bench digits has its own" in said
    assert re.search(r" all +3 ", said)
    assert table["student"].nunique() == 3

    bench = load_bench(BenchSpec(**made.to_dict() | {"data": str(tune)}), progress=False)
    images = agreement.common_pool(bench)
    for row in table.to_dict("records"):
        run = Run(tmp_path / "runs" / row["run"])
        student, _ = script.load_student(run, bench)
        expected = agreement.common_kl(student, bench.teacher, images)
        assert {name: row[name] for name in expected} == pytest.approx(expected)
        assert row["accuracy"] == evaluate(student, bench)
        assert row["synthetic_kl"] == run.record["evaluations"][-1]["synthetic_kl"]
        bits = f"{run.settings.weight_bits}w{run.settings.act_bits}a"
        assert (row["method"], row["bits"], row["ranges"]) == ("ptq", bits, "ema")

    shutil.copytree(tmp_path / "runs" / "of-4", tmp_path / "runs" / "of-4-again")
    judged, new = script.judged, []
    monkeypatch.setattr(script, "judged", lambda run, *on: new.append(run) or judged(run, *on))
    script.main(command)
    assert [run.folder.name for run in new] == ["of-4-again"]
    pd.testing.assert_frame_equal(pd.read_csv(out)[:3], table)


def test_evaluation_images_judge_nothing_else(script, made, tmp_path, capsys):
    copy = shutil.copytree(made.data, tmp_path / "copy")
    (tmp_path / "link").symlink_to(made.data)
    out = tmp_path / "common.csv"
    for data in (Path(made.data), copy, tmp_path / "link"):
        with pytest.raises(SystemExit, match=r"--data .*of-2 was evaluated on these images"):
            script.main([str(tmp_path / "runs"), "--data", str(data), "--out", str(out)])
    assert not out.exists()
    with pytest.raises(SystemExit, match="no such folder"):
        script.main([str(tmp_path / "runs"), "--data", str(tmp_path / "none")])


def test_rank_correlations_by_hand(script):
    """In each method the own KL orders by accuracy, and not across methods, as the common one."""
    rows = [
        {"bench": "b", "pool": "p", "data": "d", "bits": "3w3a", "label": label, "accuracy": str(a),
         "common_kl": str(100 - a), "synthetic_kl": str(scale * (100 - a))}
        for label, scale, accuracies in (("gdfq", 1, (70, 71, 72)), ("hast", 9, (80, 81, 82)))
        for a in accuracies
    ]  # fmt: skip
    other = {**rows[0], "bits": "4w4a", "data": "others"}  # nothing to compare it with
    table = script.correlations(pd.DataFrame([*rows, other])).set_index("runs")
    assert list(table.index) == ["all", "3w3a", "gdfq", "hast"]
    assert list(table["number"]) == [6, 6, 3, 3]
    assert (table["common_kl"] == 1).all()
    assert list(table.loc[["gdfq", "hast"], "synthetic_kl"]) == [1, 1]
    assert table.loc["all", "synthetic_kl"] < 0


def test_a_recipe_s_runs_are_told_apart(monkeypatch):
    monkeypatch.syspath_prepend(STEP.parent)
    recipe = importlib.import_module("recipe")
    given = argparse.Namespace(
        weights="w", data="d", bits=3, seed=0, bench="cifar10", runs=Path("runs"), switches=None
    )
    plain = recipe.jobs(given, {})
    on = recipe.jobs(given, recipe.given_on(["ranges=pnorm", "equalize", "range_epochs=4"]))
    assert plain["nothing"].settings.ranges == "ema"
    assert "chosen again" not in plain
    assert on["cosine"].settings.schedule == "cosine"
    assert all(job.settings.equalize for job in on.values())
    assert on["nothing"].settings.range_epochs == (4,)
    folders = [job.folder for job in (*plain.values(), *on.values())]
    assert len(set(folders)) == len(folders)
    assert len({job.settings for job in on.values()}) == len(on)  # nothing is done twice


def test_what_the_recipe_and_its_pieces_are_worth(monkeypatch):
    """Its pieces are what it differs in from AdaDFQ; differences are of the same seeds."""
    monkeypatch.syspath_prepend(STEP.parent)
    pieces = importlib.import_module("pieces")
    found = pieces.arms(3)
    differs = [name for name in OF_METHOD if f"{name} alone" in found]
    ours, plain = (found[name] for name in (pieces.RECIPE, pieces.PLAIN))
    assert {n for n in OF_METHOD if getattr(ours, n) != getattr(plain, n)} == set(differs)
    for name in differs:
        alone, without = found[f"{name} alone"], found[f"without {name}"]
        assert (alone.method, without.method) == (pieces.PLAIN, pieces.RECIPE)
        assert getattr(alone, name) == getattr(ours, name) != getattr(without, name)
    assert len(set(found.values())) == len(found)
    longer = pieces.arms(3, 10)[pieces.RECIPE]
    assert longer.epochs - longer.warmup_epochs == 10 * (ours.epochs - ours.warmup_epochs)

    def line(arm, seed, last, **more):
        s = replace(found[arm], seed=seed, **more)
        return {"settings": s.to_dict(), "status": "done", "student_images": 12_800,
                "accuracy": {"last": last}}  # fmt: skip

    lines = [line(pieces.PLAIN, seed, 70 + seed, eval_every=5) for seed in (0, 1, 2)]
    lines += [line(pieces.RECIPE, seed, 74 + 2 * seed) for seed in (0, 1)]
    lines += [line(pieces.RECIPE, 0, 99, epochs=99), {**lines[0], "status": "failed"}]
    table = pieces.table(lines).set_index("arm")
    assert list(table.index) == [pieces.PLAIN, pieces.RECIPE]
    assert list(table["runs"]) == [3, 2]
    ours = table.loc[pieces.RECIPE]
    assert ours["top-1"].startswith("75.00 ± 12.7")
    assert ours[f"− {pieces.PLAIN}"].startswith("+4.50 ± 6.3")  # 4 and 5, of the same seeds
    assert table.loc[pieces.PLAIN, f"− {pieces.RECIPE}"].startswith("-4.50")
    assert ours[f"− {pieces.RECIPE}"] == ""
    assert pieces.to_markdown(pieces.table(lines)).count("\n") == 3


# ---- other teachers -----------------------------------------------------------------------------


def test_a_row_for_each_teacher_and_rule(monkeypatch, digits, tmp_path, capsys):
    """Teachers of other seeds are others; each rule rounds the same ones."""
    monkeypatch.syspath_prepend(STEP.parent)
    steady = importlib.import_module("steady")
    monkeypatch.setattr("akt_lab.benches.digits.DIGITS_EPOCHS", 2)
    sizes = ["--teachers", "2", "--steps", "2", "--bits", "2", "--rules", "ema", "pnorm"]
    out = tmp_path / "steady.csv"
    monkeypatch.setattr(sys, "argv", ["steady.py", *sizes, "--out", str(out)])
    steady.main()
    table = pd.read_csv(out)
    assert list(table["ranges"]) == ["ema", "pnorm"] * 2
    by_teacher = table.groupby("teacher")["teacher_accuracy"]
    assert (by_teacher.nunique() == 1).all()
    assert by_teacher.first().nunique() == 2
    found = steady.summary(table)
    assert found.loc["ema", "gain"] == 0
    means = table.groupby("ranges")["accuracy"].mean()
    assert found.loc["pnorm", "gain"] == pytest.approx(means["pnorm"] - means["ema"])
    assert "pnorm" in capsys.readouterr().out
