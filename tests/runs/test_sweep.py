import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace

import psutil
import pytest
import torch
from PIL import Image
from torch import nn

from akt_lab import __version__
from akt_lab.analysis import tables
from akt_lab.benches import BenchSpec
from akt_lab.benches.teacher import call_factory
from akt_lab.commands import main
from akt_lab.errors import AktError
from akt_lab.files import claim, load_tensors, save_tensors
from akt_lab.runs import cluster, found, jobs, networks, sweep
from akt_lab.runs.cluster import ClusterLost
from akt_lab.runs.folder import Run
from akt_lab.runs.jobs import jobs_of
from akt_lab.runs.results import Results
from akt_lab.settings import Settings
from tests.benches.test_bench import write_images
from tests.faults.brought import tiny

SIZES = ["--batch-size", "8", "--epochs", "2", "--steps", "3"]
GRID = ["--methods", "ptq", "adadfq", "adadfq+akt", "--bits", "3", "4"]


def go(*arguments):
    return main(["sweep", *map(str, arguments)])


def lines(out):
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def numbers(out):
    """What must not depend on where and how often a sweep ran."""
    kept = ("settings", "bench", "accuracy", "teacher_accuracy", "student_images", "lam", "status")
    return {line["run"]: {name: line[name] for name in kept} for line in lines(out)}


def the_table(out):
    return tables.to_markdown(tables.summarise(tables.load([out / "results.jsonl"])))


@pytest.fixture(scope="module")
def undisturbed(digits, tmp_path_factory):
    """The grid, one run after the other in this process."""
    out = tmp_path_factory.mktemp("undisturbed")
    assert go(*GRID, *SIZES, "--workers", 0, "--out", out) == 0
    return out


def test_a_dry_run_lists_and_does_nothing(capsys, tmp_path, undisturbed):
    out = tmp_path / "new"
    arguments = [*GRID, "--variants", "paper", "code", *SIZES, "--dry-run", "--out"]
    assert go(*arguments, out) == 0
    assert len(capsys.readouterr().out.splitlines()) == 8
    assert not out.exists()
    assert go(*arguments, undisturbed) == 0
    assert capsys.readouterr().out.count("(ended)") == 6


# ---- in this process ----------------------------------------------------------------------------


def test_a_grid_with_real_images_beside_others(tmp_path, capsys):
    """They are in the records of those runs that see them: the others' are as without them."""
    data, train = (write_images(tmp_path / name) for name in ("data", "train"))
    Image.new("RGB", (8, 8)).save(train / "cat" / "0.png")
    torch.save(tiny().state_dict(), tmp_path / "w.pth")
    own = ["--teacher", "tests.faults.brought:tiny", "--weights", tmp_path / "w.pth"]
    own += ["--data", data, "--mean", *[0.5] * 3, "--std", *[0.25] * 3]
    out, here = tmp_path / "out", ["--workers", 0, *SIZES, "--out"]
    assert go("--methods", "adadfq", *own, *here, out) == 0
    both = ["--methods", "adadfq", "real", *own]
    assert go(*both, *here, out) == 2
    assert "give --train-data DIR" in capsys.readouterr().err
    assert go("--methods", "adadfq", *own, "--train-data", train, *here, out) == 2
    assert "--train-data is not read by adadfq" in capsys.readouterr().err
    both += ["--train-data", train]
    assert go(*both, "--dry-run", *here, out) == 0
    assert capsys.readouterr().out.count("(ended)") == 1
    assert go(*both, *here, out) == 0
    plain, real = lines(out)
    assert (plain["bench"]["train_data"], real["bench"]["train_data"]) == (None, "train")
    assert set(real["fingerprints"]) - set(plain["fingerprints"]) == {"training"}
    assert "real: trained on real images" in the_table(out)
    assert go(*both, *here, out) == 0  # all has ended
    assert len(lines(out)) == 2
    shutil.rmtree(train)
    assert main(["evaluate", str(Run(out / lines(out)[1]["run"]).folder)]) == 0
    capsys.readouterr()
    assert go(*both, *here, out) == 1
    assert f"--train-data {train}: no such folder" in capsys.readouterr().err


def side_by_side(out, at_once, **changes):
    """The grid in this process, so many students at a time; a run's settings may be others."""
    sizes = {"batch_size": 8, "epochs": 2, "steps": 3}
    methods = ["ptq", "adadfq", "adadfq+akt"]
    grid = jobs_of(out, BenchSpec(), methods, [3, 4], [0], [], sizes)
    grid = [replace(j, settings=replace(j.settings, **changes.get(j.name, {}))) for j in grid]
    place = sweep.Place(0, side_by_side=at_once)
    return sweep.run_grid(grid, progress=False, place=place, results_file=out / "results.jsonl")


@pytest.mark.parametrize("at_once", [2, 6])
def test_side_by_side_as_alone(at_once, undisturbed, tmp_path):
    """A step of each student in turn: their numbers, and all that their folders hold."""
    side_by_side(tmp_path, at_once)
    assert numbers(tmp_path) == numbers(undisturbed)
    for line in lines(tmp_path):
        mine, alone = (Run(out / line["run"]) for out in (tmp_path, undisturbed))
        assert mine.history().equals(alone.history())
        students = [load_tensors(run / "student.safetensors")[0] for run in (mine, alone)]
        assert all(torch.equal(tensor, students[1][name]) for name, tensor in students[0].items())


def test_side_by_side_with_one_that_diverges(undisturbed, tmp_path):
    """The others neither stop nor move."""
    bad = "digits-adadfq-3w3a-0"
    side_by_side(tmp_path, 3, **{bad: {"student_lr": 1e6}})
    ours, alone = numbers(tmp_path), numbers(undisturbed)
    assert ours.pop(bad)["status"] == "failed"
    del alone[bad]
    assert ours == alone
    assert "not finite" in Run(tmp_path / bad).record["error"]


def test_side_by_side_stopped_in_the_middle(undisturbed, tmp_path, monkeypatch):
    """Each goes on from its own checkpoint, or from its beginning."""
    steps, doing = 0, sweep.doing

    def stopped(*arguments):
        nonlocal steps
        for _ in doing(*arguments):
            steps += 1
            if steps == 14:
                raise KeyboardInterrupt
            yield

    with monkeypatch.context() as patched:
        patched.setattr(sweep, "doing", stopped)
        with pytest.raises(KeyboardInterrupt):
            side_by_side(tmp_path, 3)
    begun = [Run(folder.parent).record["status"] for folder in tmp_path.glob("*/record.json")]
    assert {"running", "done"} >= set(begun) >= {"running"}
    side_by_side(tmp_path, 3)
    assert numbers(tmp_path) == numbers(undisturbed)


KILLED = """
import os, signal, sys
from pathlib import Path
from akt_lab.runs import sweep
from tests.runs.test_sweep import side_by_side

left, doing = int(sys.argv[2]), sweep.doing

def killed(*arguments):
    global left
    for _ in doing(*arguments):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        yield

sweep.doing = killed
side_by_side(Path(sys.argv[1]), 3)
"""


def test_side_by_side_killed_again_and_again(undisturbed, tmp_path):
    """Nothing can be tidied up then: the whole group goes on from what was on the disk."""
    for steps in (11, 8):
        child = [sys.executable, "-c", KILLED, str(tmp_path), str(steps)]
        assert subprocess.run(child, check=False).returncode == -signal.SIGKILL
        records = [Run(folder.parent).record for folder in tmp_path.glob("*/record.json")]
        assert "running" in {record["status"] for record in records}
    side_by_side(tmp_path, 3)
    assert numbers(tmp_path) == numbers(undisturbed)
    for line in lines(tmp_path):
        histories = [Run(out / line["run"]).history() for out in (tmp_path, undisturbed)]
        assert histories[0].equals(histories[1])


def test_side_by_side_each_in_a_stream_of_its_own(undisturbed, tmp_path, monkeypatch):
    """As on a GPU: a run's work, from its first network to its last file, is done in its place."""
    inside, made, doing = [], [], sweep.doing

    class Stream:
        def __init__(self):
            made.append(self)

        def __enter__(self):
            inside.append(self)

        def __exit__(self, *_):
            inside.pop()

    seen = {}

    def watched(job, *rest):
        for _ in doing(job, *rest):
            seen.setdefault(job.name, set()).update(inside)
            yield

    monkeypatch.setattr(sweep, "doing", watched)
    monkeypatch.setitem(sweep.OWN_STREAM, "cpu", Stream)
    side_by_side(tmp_path, 2)
    assert len(made) == 2
    assert len(seen) == 6
    assert {len(streams) for streams in seen.values()} == {1}
    assert set.union(*seen.values()) == set(made)
    assert inside == []


def test_side_by_side_what_a_gpu_is_given(digits, monkeypatch):
    """A process a GPU, this one where there is one alone; as many students as have room."""
    gpus, free = 1, 2**40
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (free, 2**40))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    runs = [(digits, Settings(method="adadfq", seed=seed, steps=9)) for seed in range(40)]

    def chosen(**given):
        place, line = sweep.on_gpus(sweep.Place(device="cuda", **given), runs)
        return place.workers, place.side_by_side, line

    line = "gpu       a card: 16 students at once (--side-by-side)"
    assert chosen() == (0, 16, line)
    assert chosen(side_by_side=30)[:2] == (0, 30)
    assert chosen(side_by_side=99)[:2] == (0, 40)
    gpus = 2
    assert chosen()[:2] == (2, 16)
    assert chosen()[2].startswith("gpu       2 x a card: 16 students at once in each of 2 proc")
    assert chosen(side_by_side=30)[:2] == (2, 20)
    one = found.memory_of_a_run(*runs[0])
    free = 3.5 * one / sweep.SHARE
    assert chosen()[:2] == (2, 3)
    assert chosen(workers=4)[:2] == (4, 1)  # two on each
    free = 1000
    assert chosen()[1] == 1
    large = found.memory_of_a_run(digits, Settings(method="gdfq"))  # 200 images a step, not 16
    assert one < large < 200 / 16 * one
    runs.append((digits, Settings(method="gdfq")))
    free = 1.5 * large / sweep.SHARE
    assert chosen()[1] == 1


def test_side_by_side_with_too_little_memory(tmp_path, monkeypatch, capsys):
    def full(*_):
        yield
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")

    monkeypatch.setattr(sweep, "doing", full)
    assert go("--workers", 0, *SIZES, "--out", tmp_path) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "goes on with a smaller --side-by-side" in said
    assert said.endswith("(CUDA out of memory)")


def test_side_by_side_is_ignored_on_a_processor(undisturbed, tmp_path, capsys):
    assert go(*GRID, *SIZES, "--workers", 0, "--side-by-side", 3, "--device", "cpu", "--out",
              tmp_path) == 0  # fmt: skip
    assert "--side-by-side is ignored: it fills a GPU" in capsys.readouterr().err
    assert numbers(tmp_path) == numbers(undisturbed)
    with pytest.raises(SystemExit):
        go(*GRID, *SIZES, "--side-by-side", 0, "--out", tmp_path)


def test_side_by_side_on_workers(undisturbed, tmp_path):
    """Each is given two at a time; their numbers are those of one after the other."""
    sizes = {"batch_size": 8, "epochs": 2, "steps": 3}
    methods = ["ptq", "adadfq", "adadfq+akt"]
    grid = jobs_of(tmp_path, BenchSpec(), methods, [3, 4], [0], [], sizes)
    place = sweep.Place(2, side_by_side=2)
    sweep.run_grid(grid, progress=False, place=place, results_file=tmp_path / "results.jsonl")
    assert numbers(tmp_path) == numbers(undisturbed)


def test_a_worker_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda gpu: ([3, 9, 5][gpu], 10))
    assert [sweep._gpu_of(worker, 3) for worker in (0, 1, 2, 3, "again-1")] == [0, 1, 2, 0, 1]


def test_a_shared_graph_is_made_once_a_sweep(tmp_path, monkeypatch):
    """Of the four students that train, two share each: their losses are the same."""
    made = []
    monkeypatch.setattr(torch, "compile", lambda graph, **_: made.append(graph) or graph)
    sizes = {"batch_size": 8, "epochs": 2, "steps": 3, "compile": True}
    grid = jobs_of(tmp_path, BenchSpec(), ["ptq", "gdfq", "adadfq"], [3], [0, 1], [], sizes)
    runs = sweep.run_grid(grid, progress=False, place=sweep.Place(0, side_by_side=3))
    assert all(run.done for run in runs)
    assert len(made) == 2


def test_what_a_line_holds(undisturbed):
    rows = lines(undisturbed)
    assert len(rows) == len({row["run"] for row in rows}) == 6
    by_name = {row["run"]: row for row in rows}
    assert by_name["digits-adadfq-3w3a-0"]["student_images"] == 1 * 3 * 8
    assert by_name["digits-ptq-3w3a-0"]["student_images"] == 0
    for row in rows:
        record = Run.open(undisturbed / row["run"]).record
        assert Settings.from_dict(row["settings"]) == Settings.from_dict(record["settings"])
        assert row["accuracy"] == record["accuracy"]
        assert {"last", "best", "label_free"} <= row["accuracy"].keys()
        for score in row["evaluations"]:
            assert score.keys() >= {"epoch", "accuracy", "synthetic_kl"}
        assert row["evaluations"][-1]["accuracy"] == row["accuracy"]["last"]
        assert row["effective_bits"]["weights"] > row["settings"]["weight_bits"]
        assert row["teacher_accuracy"] >= 90
        assert row["versions"]["threads"] == 1
        assert {"commit", "seconds", "device", "status"} <= row.keys()
    assert "| digits | 4w4a | 4.33, 4.00 | adadfq+akt `paper` |" in the_table(undisturbed)


def test_the_same_sweep_again_does_nothing(undisturbed, monkeypatch):
    before = (undisturbed / "results.jsonl").read_bytes()
    monkeypatch.setattr(jobs, "stepwise", lambda *_: pytest.fail("a run was done again"))
    monkeypatch.setattr(sweep, "_on_dask", lambda *_: pytest.fail("workers were started"))
    assert go(*GRID, *SIZES, "--workers", 0, "--out", undisturbed) == 0
    with pytest.raises(pytest.fail.Exception, match="workers"):
        go(*GRID, *SIZES, "--seeds", 1, "--out", undisturbed)
    assert (undisturbed / "results.jsonl").read_bytes() == before


def test_what_was_killed_between_a_run_s_end_and_its_line(undisturbed, tmp_path, monkeypatch):
    out = tmp_path / "copy"
    shutil.copytree(undisturbed, out)
    kept = (out / "results.jsonl").read_text().splitlines(keepends=True)
    (out / "results.jsonl").write_text("".join(kept[:3]) + kept[3][:40])  # cut while writing
    shutil.rmtree(out / lines(undisturbed)[0]["run"])  # its line is enough
    monkeypatch.setattr(jobs, "stepwise", lambda *_: pytest.fail("a run was done again"))
    assert go(*GRID, *SIZES, "--workers", 0, "--out", out) == 0
    assert len(lines(out)) == 6
    assert numbers(out) == numbers(undisturbed)


def test_a_student_that_is_damaged_or_gone_has_not_ended(undisturbed, tmp_path, capsys):
    """It is made again from its checkpoint, to the same bits; and missed where there is none."""
    out, harmed = tmp_path / "copy", sorted(run["run"] for run in lines(undisturbed))[:2]
    shutil.copytree(undisturbed, out)
    students = [out / name / "student.safetensors" for name in harmed]
    before = [student.read_bytes() for student in students]
    students[0].write_bytes(before[0][:-1] + b"9")
    students[1].unlink()
    assert go(*GRID, *SIZES, "--workers", 0, "--out", out, "--dry-run") == 0
    assert capsys.readouterr().out.count("(ended)") == 4
    assert go(*GRID, *SIZES, "--workers", 0, "--out", out) == 0
    said = capsys.readouterr().err
    assert f"{students[0]} is damaged (its content is not what was written): made again" in said
    assert f"{students[1]} is not there: made again" in said
    assert [student.read_bytes() for student in students] == before
    assert numbers(out) == numbers(undisturbed)
    students[0].unlink()
    for checkpoint in students[0].parent.glob("checkpoint*"):
        checkpoint.unlink()
    assert go(*GRID, *SIZES, "--workers", 0, "--out", out) == 1
    assert f"{students[0]} is not there, and no checkpoint is left" in capsys.readouterr().err


def test_another_teacher_is_refused(undisturbed, digits, tmp_path, monkeypatch, capsys):
    """The file behind a bench's teacher was exchanged: what it made is not the old one's."""
    name, cell = "digits-ptq-3w3a-0", ["--methods", "ptq", *SIZES, "--workers", 0, "--out"]
    shutil.copytree(undisturbed / name, run := tmp_path / name)
    Run(run).update_record(status="stopped")
    other = {name: tensor + 1 for name, tensor in digits.teacher.state_dict().items()}
    save_tensors(tmp_path / "digits-teacher-1.safetensors", other, {})
    monkeypatch.setenv("AKT_LAB_CACHE", str(tmp_path))
    for arguments in (
        ["sweep", *cell, undisturbed],
        ["sweep", *cell, undisturbed, "--dry-run"],
        ["quantize", "--resume", "--out", run],
        ["evaluate", run],
    ):
        assert main(list(map(str, arguments))) == 1
        assert "the teacher's weights are not those that" in capsys.readouterr().err
    assert go(*cell, tmp_path / "new") == 0  # loaded anew in the same process
    fingerprints = [lines(out)[0]["fingerprints"] for out in (undisturbed, tmp_path / "new")]
    assert fingerprints[0]["teacher"] != fingerprints[1]["teacher"]
    assert fingerprints[0]["images"] == fingerprints[1]["images"]


def test_a_first_download_shows_and_what_stays_in_float(tmp_path, monkeypatch, capsys, digits):
    asked = []
    monkeypatch.setattr(sweep, "load_bench", lambda *_, progress: asked.append(progress) or digits)
    monkeypatch.setattr(networks, "stays_in_float", lambda student: ["positions"])
    monkeypatch.setattr(sweep, "_here", lambda *_: iter(()))
    jobs = jobs_of(tmp_path, BenchSpec(), ["ptq"], [3, 4], [0], [], {})
    monkeypatch.setattr(sweep, "closing", nullcontext)
    for progress in (True, False):
        sweep.run_grid(jobs, 0, progress)
    assert asked == [True, False]
    said = capsys.readouterr().err
    for once in ("digits: stays in float: positions", "teacher   digits", "networks  10 layers"):
        assert said.count(once) == 1


def test_a_diverged_run_is_a_result_and_stops_no_other(tmp_path, capsys, digits):
    grid = ["--methods", "gdfq", "ptq", "--batch-size", 8, "--epochs", 4, "--steps", 4]
    assert go(*grid, "--student-lr", "1e6", "--workers", 0, "--out", tmp_path) == 0
    failed, done = lines(tmp_path)
    assert failed["status"] == "failed"
    assert "the run diverged: student/" in failed["error"]
    assert 0 < failed["student_images"] <= 3 * 4 * 8
    assert done["status"] == "done"
    assert "failed: the run diverged" in capsys.readouterr().err
    assert "0 + 1 diverged" in the_table(tmp_path)


def test_a_full_disk_is_no_divergence(tmp_path, monkeypatch, digits):
    def full(*_):
        raise AktError("no space left to write it")

    arguments = ["--methods", "adadfq", *SIZES, "--workers", 0, "--out", tmp_path]
    with monkeypatch.context() as patch:
        patch.setattr("akt_lab.runs.training.save", full)
        assert go(*arguments) == 1
    assert Run.open(tmp_path / "digits-adadfq-3w3a-0").record["status"] == "stopped"
    assert go(*arguments) == 0
    assert [line["status"] for line in lines(tmp_path)] == ["done"]


def test_mistakes_are_one_line(undisturbed, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cluster, "PATIENCE", 0.5)
    same = [*GRID, "--out", undisturbed]
    new = ["--out", tmp_path]
    for code, words, arguments in (
        (1, "was made with epochs 2, not 3", [*same, *SIZES[:2], "--epochs", 3, "--steps", 3]),
        (2, "did you mean 'adadfq'", [*new, "--methods", "adadq"]),
        (2, "did you mean 'paper'", [*new, "--variants", "papr"]),
        (2, "2 to 8, not 9", [*new, "--bits", 9]),
        (2, "--lam is not read by ptq: it has no AKT, nor by gdfq", [
            *new, "--methods", "ptq", "gdfq", "--lam", 1,
        ]),
        (2, "--teacher nets:none needs --weights FILE", [
            *new, "--teacher", "nets:none", "--data", tmp_path, "--mean", 0, "--std", 1,
        ]),
        (2, "at least 0, not -1", [*new, "--workers", -1]),
        (2, "--threads must be at least 1", [*new, "--threads", 0]),
        (2, "exclude each other", [*new, "--workers", 1, "--scheduler", "tcp://127.0.0.1:9"]),
        (2, "--wait takes minutes, more than 0, not nan", [*new, "--wait", "nan"]),
        (2, "--wait is for a cluster's workers", [*new, "--wait", 5]),
        (2, "not '127.0.0.1'", [*new, "--scheduler", "127.0.0.1"]),
        (2, "not 'tcp://'", [*new, "--scheduler", "tcp://"]),
        (1, "no Dask scheduler answers", [*new, "--scheduler", "tcp://127.0.0.1:9"]),
    ):  # fmt: skip
        assert go(*arguments) == code
        error = [e for e in capsys.readouterr().err.splitlines() if e.startswith("akt-lab sweep:")]
        assert len(error) == 1
        assert words in error[0]
    assert not (tmp_path / "results.jsonl").exists()


def test_one_sweep_at_a_time_in_a_folder(tmp_path, capsys):
    with claim(tmp_path):
        assert go("--out", tmp_path) == 1
    assert "another process is writing" in capsys.readouterr().err


def test_a_lost_run_is_named_and_the_others_are_kept(tmp_path, monkeypatch, digits):
    jobs = jobs_of(tmp_path, BenchSpec(), ["ptq"], [3, 4], [0], ["paper"], {"steps": 2})

    def one_is_lost(todo, place, live):
        yield todo[0], MemoryError("its worker was killed")
        yield from sweep.run_jobs(todo[1:2], place, live.tell, "")

    monkeypatch.setattr(sweep, "_here", one_is_lost)
    with pytest.raises(AktError, match=r"1 run did not end.* goes on: digits-ptq-3w3a-0 \(Mem"):
        sweep.run_grid(jobs, 0, False, results_file=tmp_path / "results.jsonl")
    assert list(Results(tmp_path / "results.jsonl").lines) == ["digits-ptq-4w4a-0"]


def test_all_that_a_lost_cluster_leaves_is_named(tmp_path, monkeypatch, digits):
    jobs = jobs_of(tmp_path, BenchSpec(), ["ptq"], [2, 3, 4, 5], [0], ["paper"], {"steps": 2})

    def lost(todo, place, live):
        yield from sweep.run_jobs(todo[:1], place, live.tell, "")
        yield todo[2], RuntimeError("out of paper\nat line 3")
        raise ClusterLost("the scheduler is gone")

    monkeypatch.setattr(sweep, "_here", lost)
    with pytest.raises(AktError) as error:
        sweep.run_grid(jobs, 0, False, results_file=tmp_path / "results.jsonl")
    assert str(error.value) == (
        "3 runs did not end; the same command goes on: digits-ptq-4w4a-0 (RuntimeError: out of "
        "paper); digits-ptq-3w3a-0, digits-ptq-5w5a-0 (the scheduler is gone)"
    )
    assert list(Results(tmp_path / "results.jsonl").lines) == ["digits-ptq-2w2a-0"]


# ---- on Dask ------------------------------------------------------------------------------------


class Imports:
    """A task for a worker that lacks a module."""

    def __init__(self, given):
        self.given = given

    def __reduce__(self):
        return importlib.import_module, ("akt_lab.nowhere",)


@pytest.mark.slow
def test_a_cluster_that_is_there(undisturbed, tmp_path, capsys, monkeypatch):
    """Its workers have two threads each; runs in one process must not disturb each other."""
    from distributed import LocalCluster

    quiet = {"silence_logs": 60, "dashboard_address": "127.0.0.1:0", "memory_limit": 0}
    with LocalCluster(n_workers=1, threads_per_worker=2, **quiet) as cluster:
        arguments = [*GRID, *SIZES, "--scheduler", cluster.scheduler_address]
        assert go(*arguments, "--out", tmp_path) == 0
        (tmp_path / "results.jsonl").unlink()
        assert go(*arguments, "--out", tmp_path) == 0  # its runs have ended all the same
        if not torch.cuda.is_available():  # a worker's mistake is one line here
            assert go(*arguments, "--device", "cuda", "--out", tmp_path / "gpu") == 1
            assert "finds no CUDA device on" in capsys.readouterr().err.splitlines()[-1]
        for name, instead, words in (
            ("__version__", "0.0.0", f"has AKT Lab {__version__}, not 0.0.0"),
            ("_signs", lambda *_: nullcontext(), f"does not see {tmp_path / 'new'}"),
            ("_Task", Imports, "a worker cannot work (No module named 'akt_lab.nowhere')"),
        ):
            with monkeypatch.context() as patch:
                patch.setattr(sweep, name, instead)
                assert go(*arguments, "--out", tmp_path / "new") == 1
            assert words in capsys.readouterr().err.splitlines()[-1]
        assert sorted(p.name for p in (tmp_path / "new").iterdir()) == [".lock"]
    assert numbers(tmp_path) == numbers(undisturbed)


LONGER = ["--methods", "adadfq+akt", "--seeds", "0", "1", "2", "--batch-size", "8"]
LONGER += ["--epochs", "4", "--steps", "10"]


@pytest.fixture(scope="module")
def longer(digits, tmp_path_factory):
    out = tmp_path_factory.mktemp("longer")
    assert go(*LONGER, "--workers", 0, "--out", out) == 0
    return out


def start(out, *arguments):
    command = [sys.executable, "-m", "akt_lab.commands", "sweep", *LONGER, "--workers", "2"]
    return subprocess.Popen(
        [*command, "--out", str(out), *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=heard,
    )


def heard():
    """Signals that a shell in the background, or nohup, has its children ignore."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def wait_for(condition, process, seconds=900):  # what hangs, not what is slow
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def workers_of(process):
    children = psutil.Process(process.pid).children(recursive=True)
    return [c for c in children if any("spawn_main" in part for part in c.cmdline())]


@pytest.mark.slow
def test_killed_workers_lose_and_double_nothing(longer, tmp_path):
    process = start(tmp_path)
    wait_for(lambda: len(list(tmp_path.glob("*/checkpoint.safetensors"))) >= 2, process)
    victims = workers_of(process)
    assert len(victims) == 2
    for victim in victims:
        victim.kill()
    _, error = process.communicate(timeout=900)
    assert process.returncode == 0, error
    assert "its worker was lost: " in error
    assert "Traceback" not in error
    assert len(lines(tmp_path)) == 3
    assert numbers(tmp_path) == numbers(longer)
    assert the_table(tmp_path) == the_table(longer)


DYING = """
import multiprocessing, os, signal
from torch import nn

def net():
    if multiprocessing.current_process().name != "MainProcess":
        os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does where memory is short
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(),
                         nn.Linear(8 * 36, 2))
"""


@pytest.mark.slow
def test_a_run_that_kills_its_workers_is_lost_alone(tmp_path, monkeypatch, capsys, digits):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dying.py").write_text(DYING)
    own = BenchSpec(None, "dying:net", "net.pth", "data", mean=(0.5,), std=(0.5,))
    a_bench(tmp_path, call_factory("dying:net"))
    small = {"epochs": 2, "steps": 2, "warmup_epochs": 1, "batch_size": 8}
    out = tmp_path / "out"
    grid = [
        job
        for spec, seeds in ((own, [0]), (BenchSpec(), [0, 1]))
        for job in jobs_of(out, spec, ["gdfq"], [4], seeds, [], small)
    ]
    with pytest.raises(AktError) as error:
        sweep.run_grid(grid, 1, results_file=out / "results.jsonl")
    assert str(error.value) == (
        "1 run did not end; the same command goes on: dying.net-gdfq-4w4a-0 (its worker was lost "
        "again and again: killed, or out of memory)"
    )
    assert [line["run"] for line in lines(out)] == ["digits-gdfq-4w4a-0", "digits-gdfq-4w4a-1"]


GRID_SCRIPT = """
print("once")
from pathlib import Path
from akt_lab.benches import BenchSpec
from akt_lab.benches.teacher import call_factory
from akt_lab.runs.jobs import jobs_of
from akt_lab.runs.sweep import run_grid

small = dict(epochs=2, steps=2, warmup_epochs=1, batch_size=8)
runs = run_grid(jobs_of(Path("out"), BenchSpec(), ["gdfq"], [4], [0], [], small), workers=1)
print(runs[0].done)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["script.py", "-"])
def test_a_plain_script_without_a_main_guard(how, tmp_path, digits):
    """Nor is it run a second time, in the worker."""
    (tmp_path / "script.py").write_text(GRID_SCRIPT)
    own = {"text": True, "capture_output": True, "cwd": tmp_path}
    typed = GRID_SCRIPT if how == "-" else ""
    done = subprocess.run([sys.executable, how], input=typed, **own, check=False)
    assert done.stdout.split() == ["once", "True"]
    assert "Traceback" not in done.stderr
    assert done.returncode == 0


OWN_SCRIPT = """
from pathlib import Path
import torch
from torch import nn
from akt_lab.benches import BenchSpec
from akt_lab.runs.jobs import jobs_of
from akt_lab.runs.sweep import run_grid

def net():
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(),
                         nn.Linear(8 * 36, 2))

small = dict(epochs=2, steps=2, warmup_epochs=1, batch_size=8)
spec = BenchSpec(None, "__main__:net", "net.pth", "data", mean=(0.5,), std=(0.5,))
jobs = jobs_of(Path("out"), spec, ["gdfq"], [4], [0], [], small)
GUARD
    run_grid(jobs, workers=1)
"""


@pytest.mark.slow
@pytest.mark.parametrize("guard", [True, False])
def test_a_script_that_holds_its_own_teacher(guard, tmp_path):
    """Workers need it, so it is run anew there: it must have a main guard."""
    a_bench(tmp_path, nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
                                    nn.Flatten(), nn.Linear(8 * 36, 2)))  # fmt: skip
    line = 'if __name__ == "__main__":' if guard else "if True:"
    (tmp_path / "script.py").write_text(OWN_SCRIPT.replace("GUARD", line))
    own = {"text": True, "capture_output": True, "cwd": tmp_path}
    done = subprocess.run([sys.executable, "script.py"], **own, check=False)
    if guard:
        assert done.returncode == 0, done.stderr
    else:
        assert done.stderr.count("Traceback") == 1  # of the AktError, which is not caught here
        assert "call run_grid under `if __name__ == '__main__':`" in done.stderr


def a_bench(folder, network):
    """A network's weights, and an image of each of two classes."""
    torch.save(network.state_dict(), folder / "net.pth")
    for label in ("a", "b"):
        (folder / "data" / label).mkdir(parents=True)
        Image.new("L", (8, 8)).save(folder / "data" / label / "1.png")


@pytest.mark.slow
def test_stopped_then_killed_then_done(longer, tmp_path):
    """Ctrl-C, then SIGKILL of the whole sweep, and the same command once more."""
    process = start(tmp_path)
    wait_for(lambda: list(tmp_path.glob("*/checkpoint.safetensors")), process)
    workers = workers_of(process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert error.splitlines()[-1].endswith("the same command goes on from it")
    assert "Traceback" not in error
    psutil.wait_procs(workers, timeout=30)
    assert not [each for each in workers if each.is_running()]

    process = start(tmp_path)
    wait_for(lambda: (tmp_path / "results.jsonl").exists(), process)
    workers = workers_of(process)
    process.kill()
    process.communicate(timeout=60)
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive
    assert go(*LONGER, "--workers", 0, "--out", tmp_path) == 0
    assert len(lines(tmp_path)) == 3
    assert numbers(tmp_path) == numbers(longer)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_to_the_sweep_alone_ends_its_workers_too(tmp_path, digits, name):
    number = getattr(signal, name)
    process = start(tmp_path)
    wait_for(lambda: list(tmp_path.glob("*/history.jsonl")), process)
    workers = workers_of(process)
    process.send_signal(number)
    _, error = process.communicate(timeout=180)
    assert process.returncode == 128 + number, error
    assert error.splitlines()[-1].startswith(f"stopped by {name}; what was saved is kept, and")
    assert "Traceback" not in error
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert workers
    assert not alive
