import json
import os

import pytest
import torch

from akt_lab.files import claim
from akt_lab.runs.folder import Run

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
