import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pandas as pd
import pytest
import torch

from akt_lab.errors import AktError, DivergedError
from akt_lab.files import load_tensors
from akt_lab.graph import capture_maps, residual_bodies
from akt_lab.runs import folder as runs
from akt_lab.runs import training
from akt_lab.runs.folder import Run
from akt_lab.runs.networks import load_generator, load_student
from akt_lab.runs.training import evaluate, train
from akt_lab.settings import Settings

SMALL = {"batch_size": 8, "epochs": 3, "steps": 3, "warmup_epochs": 1}


def test_published_is_the_plain_method_bit_for_bit(digits):
    def last(method, **values):
        run = train(digits, Settings(method=method, **values, **SMALL), progress=False)
        return run.student.state_dict()

    plain, published = last("adadfq"), last("adadfq+akt", variant="published")
    assert all(torch.equal(plain[k], v) for k, v in published.items())


def test_a_student_learns(digits):
    """Training beats the ranges alone at 3 bits, and the teacher is 98% or better."""
    values = {"weight_bits": 3, "act_bits": 3, "batch_size": 32, "steps": 30}
    floor = train(digits, Settings(method="ptq", epochs=1, **values), progress=False)
    plain = train(digits, Settings(method="adadfq", epochs=4, **values), progress=False)
    assert evaluate(digits.teacher, digits) >= 98
    assert training.summary(plain)["last"] > training.summary(floor)["last"]
    assert training.summary(plain)["last"] > 90


def test_a_run_s_folder(digits, tmp_path):
    run = Run.create(tmp_path / "run")
    run.update_record(bench={"bench": "digits", "teacher": None})
    settings = Settings(method="adadfq+akt", **SMALL)
    done = train(digits, settings, run, progress=False)
    record, history = run.record, run.history()
    assert record["status"] == "done"
    assert Settings.from_dict(record["settings"]) == settings
    assert record["lam"] == done.lam
    assert {"torch", "python", "threads", "commit"} <= record["versions"].keys()
    assert record["accuracy"]["last"] == history["accuracy"].dropna().iloc[-1]
    assert record["projected_seconds"] == pytest.approx(record["seconds"], abs=1)
    assert len(history) == 9
    assert history["student/spatial"].isna().sum() == 3  # the warm-up
    student, _ = load_student(run, digits)
    assert evaluate(student, digits) == record["accuracy"]["last"]


def test_a_watched_run_keeps_its_epochs_and_changes_no_number(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "WRITE_EVERY", 0)  # after every step
    settings = Settings(method="adadfq", **SMALL)
    plain, watched = Run.create(tmp_path / "plain"), Run.create(tmp_path / "watched")
    once = train(digits, settings, plain, progress=False)
    again = train(digits, settings, watched, progress=False, watch=True)
    weights = again.student.state_dict()
    assert all(torch.equal(weights[k], v) for k, v in once.student.state_dict().items())
    assert (plain.epochs, watched.epochs) == ([], [1, 2, 3])

    history = watched.history()
    by_layer = [c for c in history if c.startswith("gradient/")]
    assert history.drop(columns=by_layer).equals(plain.history())
    assert {f"gradient/{n}" for n, w in again.student.named_parameters() if w.ndim > 1} == set(
        by_layer
    )
    weights_alone = (history[by_layer] ** 2).sum(axis=1) ** 0.5  # no biases, no batch norms
    share = (weights_alone / history["student/gradient_norm"]).dropna()
    assert len(share) == 6
    assert share.between(0.5, 1).all()

    first, source = load_student(watched, digits, epoch=2)
    last, _ = load_student(watched, digits, epoch=3)
    assert source == "epoch 2"
    assert all(torch.equal(last.state_dict()[k], v) for k, v in weights.items())
    assert any(not torch.equal(first.state_dict()[k], v) for k, v in weights.items())
    images = [load_generator(watched, digits, e).state_dict()["linear.weight"] for e in (1, 3)]
    assert not torch.equal(*images)
    with pytest.raises(AktError, match="has not kept epoch 1"):
        load_student(plain, digits, epoch=1)


def test_a_loaded_student_keeps_the_maps_of_a_network_without_sums(digits, tmp_path):
    torch.manual_seed(0)
    plain = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 10),
    ).eval()  # fmt: skip
    bench, run = replace(digits, teacher=plain), Run.create(tmp_path / "run")
    train(bench, Settings(method="adadfq", **SMALL), run, progress=False)
    student, _ = load_student(run, bench)
    with torch.inference_mode(), capture_maps(student, residual_bodies(student)) as maps:
        student(digits.normalise(digits.images[:4]))
    assert min(x.min().item() for x in maps.values()) < 0  # before the ReLU, not after it


def test_another_run_s_checkpoint_is_refused(digits, tmp_path):
    """A notebook's cell, changed and run again: not a line of the old run passes for the new."""
    run = Run.create(tmp_path / "run")
    train(digits, Settings(method="gdfq", **SMALL), run, progress=False)
    other = Settings(method="gdfq", weight_bits=2, **SMALL)
    with pytest.raises(AktError, match="made with weight_bits 3, not 2: use another run folder"):
        train(digits, other, run, progress=False)
    assert run.record["settings"]["weight_bits"] == 3


def test_scores_that_are_not_finite_stop_a_run(digits, monkeypatch):
    monkeypatch.setattr(training, "_agreement", lambda _: {"synthetic_kl": math.nan})
    with pytest.raises(DivergedError, match="synthetic_kl not finite"):
        train(digits, Settings(method="gdfq", **SMALL), progress=False)


def test_divergence_names_the_term_and_keeps_the_checkpoint(digits, tmp_path):
    run = Run.create(tmp_path / "run")
    settings = Settings(method="gdfq", student_lr=1e6, batch_size=8, epochs=4, steps=4)
    with pytest.raises(AktError, match=r"diverged: .*student/.* not finite at epoch \d, step \d"):
        train(digits, settings, run, progress=False)
    _, state = load_tensors(run / "checkpoint.safetensors")
    assert state["epoch"] >= 1
    assert run.record["status"] == "failed"
    assert not (run / "student.safetensors").exists()
    last = run.history().filter(like="student/").iloc[-1]
    assert not last.map(math.isfinite).all()  # the history shows where it broke


def test_terms_may_wait_on_the_device(digits, tmp_path, monkeypatch):
    """As on a GPU: the same history and the same last row, fetched several steps at a time."""
    runs = {wait: Run.create(tmp_path / str(wait)) for wait in (1, 5)}
    far = Settings(method="gdfq", student_lr=1e6, batch_size=8, epochs=4, steps=7)
    for wait, run in runs.items():
        monkeypatch.setitem(training.FETCH_AFTER, "cpu", wait)
        with pytest.raises(DivergedError):
            train(digits, far, run, progress=False)
    pd.testing.assert_frame_equal(*(run.history() for run in runs.values()))


def test_an_unwritable_checkpoint_leaves_the_last_one_whole(digits, tmp_path, monkeypatch):
    run = Run.create(tmp_path / "run")
    synced = []

    def full(descriptor):
        synced.append(descriptor)
        if len(synced) > 4:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(AktError, match=r"no space left to write .*--resume"):
        train(digits, Settings(method="adadfq", **SMALL), run, progress=False)
    load_tensors(run / "checkpoint.safetensors")
    assert not list((tmp_path / "run").glob("*.tmp"))


def test_history_is_on_the_disk_before_the_checkpoint_that_counts_on_it(digits, tmp_path):
    run = Run.create(tmp_path / "run")
    train(digits, Settings(method="adadfq", **SMALL), run, progress=False)
    _, state = load_tensors(run / "checkpoint.safetensors")
    assert len(run.history()) == state["epoch"] * SMALL["steps"]
    assert run.record["seconds"] == pytest.approx(state["seconds"], abs=0.1)


def start(out, *extra):
    command = [sys.executable, "-m", "akt_lab.commands", "quantize", "--method", "adadfq+akt"]
    sizes = ["--batch-size", "8", "--epochs", "5", "--steps", "6", "--threads", "1"]
    return subprocess.Popen(
        [*command, *sizes, "--out", str(out), *extra],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.mark.slow
def test_killed_and_resumed_to_the_same_bits(tmp_path, digits):
    """SIGKILL at five random points; each run is then resumed to its end."""
    left_alone = tmp_path / "alone"
    assert start(left_alone).wait() == 0
    expected, _ = load_tensors(left_alone / "student.safetensors")
    rng, killed = random.Random(0), 0
    out = tmp_path / "killed"
    process = start(out)
    while killed < 5:
        target = rng.randrange(5 * killed + 1, 5 * killed + 6)  # spread over the 30 steps
        rows = out / "history.jsonl"
        while process.poll() is None:
            done = len(rows.read_bytes().splitlines()) if rows.exists() else 0
            if done >= target:
                break
            time.sleep(0.005)
        if process.poll() is None:
            time.sleep(rng.random() * 0.1)
            process.send_signal(signal.SIGKILL)
        process.wait()
        killed += 1
        process = start(out, "--resume")
    assert process.wait() == 0
    got, _ = load_tensors(out / "student.safetensors")
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[name], tensor) for name, tensor in expected.items())
    assert Run(out).history().equals(Run(left_alone).history())
    records = [Run(folder).record for folder in (left_alone, out)]
    assert json.dumps(records[0]["accuracy"]) == json.dumps(records[1]["accuracy"])


def test_bf16_trains(digits):
    run = train(digits, Settings(method="adadfq+akt", precision="bf16", **SMALL), progress=False)
    assert all(torch.isfinite(w).all() for w in run.student.parameters())
    assert all(w.dtype == torch.float32 for w in run.student.parameters())
