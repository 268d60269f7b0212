"""The students that explorers can show: by name, kept while they last, of one bench."""

import shutil

import pytest
import torch

from akt_lab.analysis.gradients import Case, make_student
from akt_lab.errors import AktError
from akt_lab.explorers import attention_explorer, generator_explorer
from akt_lab.explorers.image_source import BENCH, FILE
from akt_lab.explorers.students import OBSERVED, ROUNDED, Kept, Students, bench_of, by_name
from akt_lab.runs.folder import CHECKPOINT, Run
from tests.conftest import fake_run
from tests.explorers.conftest import touch


def test_a_run_that_was_deleted(digits, runs, tmp_path):
    moved = Run(shutil.copytree(runs[0].folder, tmp_path / "gone"))
    pair = [runs[2], moved]
    for make in (attention_explorer, generator_explorer):
        explorer = make(pair, digits)
        shutil.rmtree(moved.folder, ignore_errors=True)
        name = "method" if make is attention_explorer else "run"
        explorer.controls[name].value = "adadfq"
        assert f"{moved.folder} is no longer there" in explorer.message.value
        shutil.copytree(runs[0].folder, moved.folder)


def test_runs_of_two_benches_are_not_mixed(digits, runs, tmp_path):
    other = Run(shutil.copytree(runs[1].folder, tmp_path / "other"))
    other.update_record(bench={**other.entry("bench"), "bench": "cifar10"})
    for make in (attention_explorer, generator_explorer):
        with pytest.raises(AktError, match="several benches"):
            make([runs[0], other], digits)


def test_the_bench_is_the_given_one_or_the_runs_own_or_digits(digits, runs):
    assert bench_of(runs, digits) is digits
    for found in (bench_of(runs, None), bench_of([], None)):
        assert found.images.equal(digits.images)


def test_runs_on_ready_images_have_no_generator(digits, runs, tmp_path):
    pooled = Run(shutil.copytree(runs[0].folder, tmp_path / "pooled"))
    pooled.update_record(settings={**pooled.entry("settings"), "method": "zeroq"})
    offered = attention_explorer([pooled], digits).controls["source"].options
    assert offered == (BENCH, FILE)
    with pytest.raises(AktError, match="akt-lab demo"):
        generator_explorer([pooled], digits)


def test_a_run_that_went_on_is_loaded_anew(digits, runs, tmp_path):
    run = Run(shutil.copytree(runs[0].folder, tmp_path / "run"))
    students = Students(digits, [run])
    first = students.load("adadfq", 2)
    assert students.load("adadfq", 2) is first
    run.update_record(status="running")
    second = students.load("adadfq", 2)
    assert second is not first
    touch(run / CHECKPOINT)  # the record is written before the networks
    assert students.load("adadfq", 2) is not second


def test_whose_teacher_was_equalized(digits, tmp_path):
    for number, equalized in enumerate((False, True)):
        run = fake_run(tmp_path / str(number), equalize=equalized)
        assert Students(digits, [run]).equalized("adadfq", 3) is equalized
    assert not Students(digits, []).equalized(ROUNDED, 3)


def test_few_networks_are_kept(runs):
    loaded = []
    kept = Kept(lambda run, epoch: loaded.append(epoch) or object())
    for epoch in ("end", *range(12), 11):
        kept(runs[0], epoch)
    assert loaded == [None, *range(12)]
    kept(runs[0])
    assert loaded[-1] is None


def test_ranges_of_a_rounded_student_are_those_of_many_batches(digits):
    chosen = torch.linspace(0, len(digits.images) - 1, OBSERVED).long()
    images = digits.normalise(digits.images[chosen])
    many = make_student(digits.teacher, Case(3), [(images, images)]).state_dict()
    once = Students(digits, []).load(ROUNDED, 3).state_dict()
    changed = {name.rpartition(".")[2] for name in many if not many[name].equal(once[name])}
    assert changed == {"updates"}


def test_students_by_name(runs):
    named = by_name([*runs, runs[0], runs[0]])
    assert list(named) == ["adadfq", "adadfq+akt", "adadfq-2", str(runs[0].folder)]
    assert set(named["adadfq"]) == {2, 3}


def test_runs_of_one_name_differ_in_their_bits_alone(runs, tmp_path):
    changes = {
        "code": {"variant": "code"},
        "seed": {"seed": 1, "weight_bits": 2},
        "wide": {"weight_bits": 4},
        "both": {"weight_bits": 4, "act_bits": 4},
    }
    made = [Run(shutil.copytree(runs[2].folder, tmp_path / name)) for name in changes]
    for run, changed in zip(made, changes.values(), strict=True):
        run.update_record(settings={**run.entry("settings"), **changed})
    named = by_name([runs[2], *made])
    assert {name: set(group) for name, group in named.items()} == {
        "adadfq+akt": {3, 4}, "adadfq+akt code": {3}, "seed": {2}, "wide": {4},
    }  # fmt: skip
    assert named["adadfq+akt"][4] is made[-1]
