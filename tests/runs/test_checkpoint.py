import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from akt_lab.benches import Bench, BenchSpec
from akt_lab.errors import AktError, DamagedError
from akt_lab.files import load_tensors
from akt_lab.runs import checkpoint
from akt_lab.runs.checkpoint import put_back_record, resume, save
from akt_lab.runs.folder import Run
from akt_lab.runs.networks import load_generator, load_student, prepare
from akt_lab.runs.results import line_of
from akt_lab.runs.training import train
from akt_lab.runs.verified_json import read_lines
from akt_lab.settings import Settings
from tests.conftest import SMALL


@pytest.fixture
def colour():
    """A bench of three channels."""
    torch.manual_seed(0)
    teacher = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(),
        torch.nn.Conv2d(8, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 5),
    ).eval()  # fmt: skip
    images, labels = torch.arange(20 * 3 * 64).remainder(251).byte(), torch.arange(20) % 5
    rest = images.view(20, 3, 8, 8), labels, tuple("abcde"), (0.5,) * 3, (0.25,) * 3
    return Bench("colour", teacher, *rest, torch.device("cpu"))


LATER = {"epochs": 5, "schedule": "cosine", "average": 0.9, "low_pass": 2.0}


@pytest.mark.parametrize(
    "given",
    [
        {"method": "adadfq"},
        {"method": "hast", "pool": 8},
        {"method": "gdfq", "min_confidence": 0.2, **LATER},
        {"method": "hast", "pool": 8, **LATER},
    ],
)
def test_a_stopped_run_goes_on_to_the_same_bits(colour, tmp_path, monkeypatch, given):
    def stop(training, run):
        if training.epoch == settings.epochs - 1:
            raise AktError("no space left")
        save(training, run)

    settings = Settings(**{**SMALL, "pool_steps": 2, **given})
    alone, run = Run.create(tmp_path / "alone"), Run.create(tmp_path / "stopped")
    whole = train(colour, settings, alone, progress=False)
    with monkeypatch.context() as patch:
        patch.setattr("akt_lab.runs.training.save", stop)
        with pytest.raises(AktError, match="no space left"):
            train(colour, settings, run, progress=False)
    assert (run.record["status"], run.record["error"]) == ("stopped", "no space left")
    monkeypatch.setattr("akt_lab.runs.folder.provenance", lambda: {"commit": "later"})
    again = train(colour, settings, run, progress=False)
    assert run.history().equals(alone.history())
    for ours, theirs in zip(again.student.parameters(), whole.student.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(again.holdout, whole.holdout)
    assert again.holdout.is_contiguous(memory_format=torch.channels_last)
    assert "error" not in run.record
    stretches = run.record["stretches"]  # each with what it was made by; the last is the run's
    assert [stretch["from_epoch"] for stretch in stretches] == [0, settings.epochs - 2]
    assert stretches[0]["versions"] == alone.record["versions"] != run.record["versions"]
    assert stretches[1]["versions"] == run.record["versions"] == {"commit": "later"}
    run.update_record(bench=BenchSpec().to_dict())  # as a command does
    assert line_of(run)["commit"] == f"{alone.record['versions']['commit']} later"


def test_the_hold_out_comes_back_where_the_networks_are(digits, tmp_path, monkeypatch):
    """As on a GPU, whose images a checkpoint keeps as a processor's."""
    settings, run = Settings(method="ptq", **SMALL), Run.create(tmp_path / "run")
    train(digits, settings, run, progress=False)
    training = prepare(digits, settings)
    training.student.to("meta")
    monkeypatch.setattr(checkpoint, "freeze_ranges", lambda _: None)  # reads their values
    with pytest.warns(UserWarning, match="no-op"):
        resume(training, run)
    assert training.holdout.device == next(training.student.parameters()).device


def test_another_run_s_checkpoint_is_refused(digits, tmp_path):
    """A notebook's cell, changed and run again: not a line of the old run passes for the new."""
    run = Run.create(tmp_path / "run")
    train(digits, Settings(method="gdfq", **SMALL), run, progress=False)
    other = Settings(method="gdfq", weight_bits=2, **SMALL)
    with pytest.raises(AktError, match="made with weight_bits 3, not 2: use another run folder"):
        train(digits, other, run, progress=False)
    assert run.record["settings"]["weight_bits"] == 3


def test_another_run_s_files_are_refused_by_name(digits, tmp_path):
    """Each is whole, and in the wrong folder."""
    runs = [Run.create(tmp_path / f"run{bits}") for bits in (2, 4)]
    for run, bits in zip(runs, (2, 4), strict=True):
        settings = Settings(method="gdfq", weight_bits=bits, act_bits=bits, **SMALL)
        train(digits, settings, run, progress=False)
    ours, theirs = runs
    for name in ("student.safetensors", "checkpoint.safetensors"):
        shutil.copy(theirs / name, ours / name)
        with pytest.raises(AktError, match=rf"{name} is damaged \(its settings are another run's"):
            load_student(ours, digits)
        (ours / name).unlink()
    shutil.copy(theirs / "record.json", ours / "record.json")
    with pytest.raises(AktError, match=r"safetensors is damaged \(its settings are another run's"):
        load_student(ours, digits)


def test_an_unwritable_checkpoint_leaves_the_last_one_whole(digits, tmp_path, monkeypatch):
    run = Run.create(tmp_path / "run")
    synced = []

    def full(descriptor):
        synced.append(descriptor)
        if len(synced) > 4:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr("akt_lab.runs.folder.WRITE_EVERY", 1e9)  # at epochs' ends, however slow
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


# ---- damage -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def watched(digits, tmp_path_factory):
    """A run with three checkpoints behind it, of which two are kept."""
    run = Run.create(tmp_path_factory.mktemp("damage") / "run")
    train(digits, Settings(method="adadfq", **SMALL), run, progress=False, watch=True)
    return run


@pytest.fixture
def copy(watched, tmp_path):
    """It, as it was before its end."""
    run = Run(shutil.copytree(watched.folder, tmp_path / "run"))
    (run / "student.safetensors").unlink()
    ended = {"status", "accuracy", "evaluations", "effective_bits", "steps_done"}
    run.write_record({k: v for k, v in run.record.items() if k not in ended})
    return run


def hit(path):
    """Flip a bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


LAST, BEFORE = "checkpoint.safetensors", "checkpoint.previous.safetensors"


@pytest.mark.parametrize("harm", [hit, Path.unlink, lambda path: path.write_bytes(b"")])
def test_one_bad_checkpoint_costs_an_epoch(digits, watched, copy, capsys, harm):
    """And then the same bits come out. The whole one never makes way for the damaged one."""
    harm(copy / LAST)
    assert load_student(copy, digits)[1] == "the checkpoint of epoch 2"
    load_generator(copy, digits)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    for line in said:
        assert line.startswith(f"{copy / LAST} is ")
        assert line.endswith(f"{BEFORE} of epoch 2 is taken")
    again = prepare(digits, copy.settings)
    resume(again, copy)
    assert again.epoch == 2
    assert load_tensors(copy / LAST)[1]["epoch"] == 2
    assert not (copy / BEFORE).exists()
    train(digits, copy.settings, copy, progress=False, watch=True)
    for name in ("student.safetensors", "history.jsonl"):
        assert (copy / name).read_bytes() == (watched / name).read_bytes()
    same = {"accuracy", "evaluations", "steps_done", "lam"}
    assert {k: copy.record[k] for k in same} == {k: watched.record[k] for k in same}


def test_two_bad_checkpoints_are_both_named(digits, copy):
    hit(copy / LAST)
    hit(copy / BEFORE)
    for use in (
        lambda: load_student(copy, digits),
        lambda: load_generator(copy, digits),
        lambda: train(digits, copy.settings, copy, progress=False),
    ):
        with pytest.raises(DamagedError, match=r"delete what is damaged, and `.*` begins") as error:
            use()
        assert all(str(copy / name) in str(error.value) for name in (LAST, BEFORE))
    (copy / LAST).unlink()
    (copy / BEFORE).unlink()
    train(digits, copy.settings, copy, progress=False)  # it begins again
    assert copy.done


def test_a_folder_of_one_generation_is_that_of_an_older_version(digits, watched, copy):
    tensors, state = load_tensors(copy / LAST)
    state.pop("record")
    (copy / BEFORE).unlink()
    save_file(tensors, copy / LAST, {"state": json.dumps(state)})
    older = [json.dumps(row) + "\n" for _, row in read_lines(copy / "history.jsonl", "")]
    (copy / "history.jsonl").write_text("".join(older))
    (copy / "record.json").write_text(json.dumps(copy.record))
    train(digits, copy.settings, copy, progress=False, watch=True)
    ours, theirs = (run / "student.safetensors" for run in (copy, watched))
    assert ours.read_bytes() == theirs.read_bytes()
    hit(copy / "record.json")
    (copy / "record.json").write_text("{")
    with pytest.raises(DamagedError) as error:
        _ = copy.record
    save_file(tensors, copy / LAST, {"state": json.dumps(state)})
    with pytest.raises(AktError, match=r"record.json is damaged .* no checkpoint has a copy"):
        put_back_record(copy, error.value)


@pytest.mark.parametrize(
    "wrong",
    [{"epoch": "2"}, {"epoch": None}, {"evaluations": [3]}, {"seconds": []}, {"settings": 1}],
)
def test_an_older_checkpoint_of_wrong_types_is_refused_by_name(digits, copy, wrong):
    tensors, state = load_tensors(copy / LAST)
    (copy / BEFORE).unlink()
    save_file(tensors, copy / LAST, {"state": json.dumps({**state, **wrong})})
    for use in (load_student, load_generator):
        with pytest.raises(DamagedError, match=rf"{LAST} is damaged \(its {next(iter(wrong))}"):
            use(copy, digits)
    with pytest.raises(DamagedError, match=LAST):
        train(digits, copy.settings, copy, progress=False)


@pytest.mark.parametrize("missing", ["rng", "student.stem.0.weight", "student_optimizer.0.x.y"])
def test_an_older_checkpoint_of_other_tensors_is_refused_by_name(digits, copy, missing):
    tensors, state = load_tensors(copy / LAST)
    if missing in tensors:
        del tensors[missing]
    else:
        tensors[missing] = torch.ones(1)
    save_file(tensors, copy / LAST, {"state": json.dumps(state)})
    with pytest.raises(DamagedError, match=LAST):
        train(digits, copy.settings, copy, progress=False)


def test_a_kept_epoch_that_is_damaged_is_refused_by_name(digits, copy):
    hit(copy.epoch(2))
    (copy / "epochs" / "mine.safetensors").write_bytes(b"")
    assert copy.epochs == [1, 2, 3]
    for load in (load_student, load_generator):
        load(copy, digits, 3)
        with pytest.raises(DamagedError, match=r"0002.safetensors is damaged .*other epochs"):
            load(copy, digits, 2)
