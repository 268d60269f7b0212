import json
import os
import shutil

import pytest
import torch

from akt_lab.commands import main
from akt_lab.files import claim
from akt_lab.runs.folder import Run
from tests.benches.test_bench import write_images
from tests.faults.brought import tiny

SMALL = ["--batch-size", "8", "--epochs", "2", "--steps", "3"]


def test_quantize_and_evaluate(run, refused, tmp_path, digits):
    out = tmp_path / "run"
    code, printed, _ = run("quantize", "--bits", 4, *SMALL, "--out", out, "--json")
    assert code == 0
    made = json.loads(printed)
    code, printed, _ = run("evaluate", out, "--json")
    assert code == 0
    judged = json.loads(printed)
    assert judged["student_accuracy"] == made["student_accuracy"]
    assert judged["teacher_accuracy"] == made["teacher_accuracy"] >= 90
    assert judged["images"] == 540
    refused(1, "already exists", "quantize", *SMALL, "--out", out)
    resume = ["quantize", "--resume", "--out", out]
    refused(2, "was made with weight_bits 4, not 3", *resume, "--bits", 3)
    refused(2, "has ended without --watch", *resume, "--watch")
    code, _, _ = run("quantize", "--out", out, "--resume", "--bits", 4)
    assert code == 0  # ended: nothing to do
    made = Run(out)
    made.update_record(fingerprints={**made.entry("fingerprints"), "teacher": "another's"})
    refused(1, "the teacher's weights are not those that", *resume)  # ended or not


def test_real_images(run, refused, tmp_path, digits):
    out = tmp_path / "run"
    code, printed, said = run("quantize", "--method", "real", *SMALL, "--out", out, "--json")
    assert code == 0
    assert "training  1257 real images: a ceiling, not zero-shot" in said
    made = json.loads(printed)
    judged = json.loads(run("evaluate", out, "--json")[1])
    assert judged["student_accuracy"] == made["student_accuracy"]
    resume = ["quantize", "--resume", "--out", out]
    assert run(*resume)[0] == 0
    refused(2, "was made with train_data None, not", *resume, "--train-data", "x")
    record = Run(out)
    record.update_record(fingerprints={**record.entry("fingerprints"), "training": "other"})
    refused(1, "the training images are not those that", *resume)


def test_resumed_as_it_began(run, tmp_path, digits, monkeypatch):
    """Sums round differently with another number of threads, or on another device."""
    out, before = tmp_path / "run", torch.get_num_threads()
    try:
        assert run("quantize", *SMALL, "--threads", 1, "--out", out)[0] == 0
        torch.set_num_threads(2)
        assert run("quantize", "--out", out, "--resume")[0] == 0
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_one_process_at_a_time_in_a_run(run, refused, tmp_path, digits):
    out = tmp_path / "run"
    with claim(out):
        refused(1, "another process is writing", "quantize", *SMALL, "--out", out)
    assert run("quantize", *SMALL, "--out", out)[0] == 0  # the lock's file is no run


def test_killed_between_the_student_and_the_record(run, tmp_path, digits):
    out = tmp_path / "run"
    assert run("quantize", *SMALL, "--out", out)[0] == 0
    record = json.loads((out / "record.json").read_text())
    Run(out).write_record({k: v for k, v in Run(out).record.items() if k not in ("lam", "seconds")})
    Run(out).update_record(status="running", accuracy={})
    assert run("quantize", "--out", out, "--resume")[0] == 0
    again = json.loads((out / "record.json").read_text())
    assert again["accuracy"] == record["accuracy"]
    assert again["seconds"] == record["seconds"]


@pytest.fixture(scope="module")
def ended(digits, tmp_path_factory):
    """A run that ended."""
    out = tmp_path_factory.mktemp("ended") / "run"
    assert main(["quantize", *SMALL, "--epochs", "3", "--out", str(out)]) == 0
    return out


def hit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize(
    "harmed",
    [["student"], ["student", "checkpoint"], ["record"], ["record", "student", "checkpoint"]],
    ids="-".join,
)
def test_what_is_damaged_is_made_again_to_the_same_bits(run, refused, ended, tmp_path, harmed):
    """And said in one line each; who only reads refuses it by name."""
    out = tmp_path / "run"
    shutil.copytree(ended, out)
    names = {"record": "record.json"}
    files = [out / names.get(name, f"{name}.safetensors") for name in harmed]
    for file in files:
        hit(file)
    refused(1, f"{files[0]} is damaged", "evaluate", out)
    code, _, error = run("quantize", "--out", out, "--resume")
    assert code == 0
    assert all(f"{file} is damaged" in error for file in files if file.stem != "student")
    assert "Traceback" not in error
    student, record = "student.safetensors", Run(ended).record
    assert (out / student).read_bytes() == (ended / student).read_bytes()
    again = Run(out).record
    for name in ("status", "accuracy", "evaluations", "lam", "steps_done", "fingerprints"):
        assert again[name] == record[name]
    if "checkpoint" not in harmed:
        assert again["stretches"] == record["stretches"]  # nothing was trained
        assert run("quantize", "--out", out, "--resume")[2].count("damaged") == 0


def test_a_record_that_is_gone_is_put_back(run, refused, ended, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(ended, out)
    (out / "record.json").unlink()
    refused(1, "record.json is damaged (it is not there)", "evaluate", out)
    code, _, error = run("quantize", "--out", out, "--resume")
    assert code == 0
    assert "record.json is damaged (it is not there): it is put back from" in error
    assert Run(out).record["accuracy"] == Run(ended).record["accuracy"]


def test_a_student_that_is_gone_is_made_again_or_missed(run, refused, ended, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(ended, out)
    student = out / "student.safetensors"
    student.unlink()
    code, _, error = run("quantize", "--out", out, "--resume")
    assert code == 0
    assert f"{student} is not there: made again from the last checkpoint\n" in error
    assert student.read_bytes() == (ended / "student.safetensors").read_bytes()
    for checkpoint in out.glob("checkpoint*"):
        checkpoint.unlink()
    hit(student)
    resume = ["quantize", "--out", out, "--resume"]
    refused(1, f"{student} is damaged (its content is not what was written), and no", *resume)
    hit(out / "record.json")
    refused(1, "record.json is damaged", *resume)


def test_a_damaged_history_can_be_gone_without(run, refused, ended, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(ended, out)
    (out / "student.safetensors").unlink()
    history, resume = out / "history.jsonl", ["quantize", "--out", out, "--resume"]
    history.write_bytes(history.read_bytes()[:-40])
    words = f"{history} is damaged (it ends 1 steps before the checkpoint): delete it to go on"
    refused(1, words, *resume)
    hit(history)
    refused(1, "history.jsonl, line 6, is damaged", *resume)
    history.unlink()
    assert run(*resume)[0] == 0
    assert (out / "student.safetensors").read_bytes() == (
        ended / "student.safetensors"
    ).read_bytes()


def test_default_folders_are_numbered(run, tmp_path, monkeypatch, digits):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert run("quantize", "--method", "ptq", *SMALL)[0] == 0
    assert sorted(os.listdir("runs")) == ["digits-ptq-3w3a-0", "digits-ptq-3w3a-0-2"]


@pytest.mark.parametrize(
    ("code", "words", "arguments"),
    [
        (2, "2 to 8, not 9", ["--bits", "9"]),
        (2, "2 to 8, not 1", ["--weight-bits", "1"]),
        (2, "did you mean 'adadfq+akt'", ["--method", "adadfq+atk"]),
        (2, "did you mean 'digits'", ["--bench", "digts"]),
        (2, "needs --weights FILE and --data DIR", ["--teacher", "a:b"]),
        (2, "--bench imagenet needs --data DIR", ["--bench", "imagenet"]),
        (1, "no file /nowhere/w.pth", ["--bench", "cifar10", "--weights", "/nowhere/w.pth"]),
        (1, "/nowhere: no such folder", ["--bench", "cifar10", "--data", "/nowhere"]),
        (2, "exclude each other", ["--bench", "cifar10", "--teacher", "a:b"]),
        (2, "--resume goes on with the run in --out", ["--resume"]),
        (1, "is not a run folder", ["--resume", "--out", "/nowhere"]),
        (2, "--threads must be at least 1", ["--threads", "0"]),
        (2, "--device takes cpu or cuda", ["--device", "tpu"]),
        (2, "leaves nothing", ["--epochs", "1"]),
        (2, "batch_size must be at least 1, not 0", ["--batch-size", "0"]),
        (2, "student_lr must be positive, not 0", ["--student-lr", "0"]),
        (2, "unknown ranges ''", ["--ranges", ""]),
        (2, "did you mean 'spatial'", ["--parts", "spacial"]),
        (2, "--alpha is not read by adadfq", ["--method", "adadfq", "--alpha", "0.3"]),
        (2, "--train-data is not read by hast", ["--method", "hast", "--train-data", "x"]),
        (2, "drop --train-data", ["--method", "real", "--train-data", "x"]),
        (
            2,
            "method real trains on real images: give --train-data DIR, a folder of images a class",
            ["--method", "real+akt", "--bench", "imagenet", "--data", "x"],
        ),
        (2, "--generator-lr is not read by real", ["--method", "real", "--generator-lr", "0.1"]),
    ],
)
def test_quantize_s_mistakes(refused, tmp_path, monkeypatch, code, words, arguments):
    monkeypatch.chdir(tmp_path)
    refused(code, words, "quantize", *arguments)
    assert not os.path.exists("runs")


def test_a_diverged_run_has_ended(run, refused, tmp_path, digits):
    out, sizes = tmp_path / "a", ["--batch-size", "8", "--epochs", "4", "--steps", "4"]
    arguments = ["--method", "gdfq", "--student-lr", "1e6", *sizes, "--out", out]
    refused(1, "the run diverged", "quantize", *arguments)
    code, printed, _ = run("evaluate", out, "--json")
    assert code == 0
    assert "checkpoint of epoch" in json.loads(printed)["student"]
    before = {path: path.read_bytes() for path in out.iterdir()}
    refused(1, "into another --out", "quantize", "--resume", "--out", out)
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_a_stopped_run_goes_on_with_its_own_settings(run, refused, tmp_path, digits):
    out = tmp_path / "a"
    assert run("quantize", *SMALL, "--preset", "quick", "--out", out)[0] == 0
    record = json.loads((out / "record.json").read_text())
    Run(out).update_record(status="stopped", error="full")
    refused(2, "drop --preset", "quantize", "--resume", "--preset", "quick", "--out", out)
    assert run("quantize", "--resume", "--out", out)[0] == 0
    again = json.loads((out / "record.json").read_text())
    assert (again["status"], again["settings"]) == ("done", record["settings"])


PTQ = ["--method", "gdfq", *SMALL]
LOUD = """
from tests.faults.brought import Tiny
print("imported")

class Loud(Tiny):
    def forward(self, x):
        if not hasattr(x, "node"):  # not while it is traced
            print("forward")
        return super().forward(x)
"""


def test_it_says_what_it_found_before_it_trains(run, tmp_path, monkeypatch):
    """On standard error: what --json prints is JSON, whatever a network prints."""
    (tmp_path / "loud_network.py").write_text(LOUD)
    data = write_images(tmp_path / "data", classes=[str(n) for n in (10, 9)])
    (data / "9" / "note.txt").write_text("")
    torch.save({"model": tiny().half().state_dict()}, tmp_path / "w.pth")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    own = ["--teacher", "loud_network:Loud", "--weights", "w.pth", "--data", "data"]
    scale = ["--mean", *[0.5] * 3, "--std", *[0.25] * 3]
    code, printed, said = run("quantize", *own, *scale, *PTQ, "--json", "--out", "a")
    assert code == 0
    assert json.loads(printed)["images"] == 6
    order = [
        "imported", "the teacher's weights are those of 'model'",
        "weights are float16 in the file, used as float32",
        "in the order of numbers (9, 10), not of text (10, 9)", "left out: 1 .txt",
        "teacher   loud_network:Loud, right on", "images    8 x 8 in colour, mean 0.5 0.5 0.5",
        "classes   2: 0 9, 1 10", "networks  2 layers", "maps      none distilled", "step/s",
    ]  # fmt: skip
    places = [said.index(words) for words in order]
    assert places == sorted(places)
    assert "forward" in said
    code, printed, said = run("evaluate", "a", "--json")
    assert code == 0
    assert json.loads(printed)["images"] == 6
    assert "left out: 1 .txt" in said
    grid = ["--methods", "gdfq", "--seeds", 0, 1, "--workers", 0, "--out", "s"]
    code, _, said = run("sweep", *own, *scale, *grid, *SMALL)
    assert code == 0
    for words in order[1:-1]:
        assert said.count(words) == 1  # once for all runs
