import json
import shlex

import pytest

from akt_lab.commands import demo
from tests.conftest import fake_run


def test_no_run(refused, tmp_path):
    refused(1, "no runs under", "figures", "--runs", tmp_path)
    (tmp_path / "record.json").write_text("{}")
    refused(
        1,
        "no 'bench': the run was not made by",
        "figures",
        "--runs",
        tmp_path,
        "--out",
        tmp_path / "f",
    )


def test_names_are_looked_at_before_anything_is_trained(refused, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "train", None)  # would fail
    refused(2, "did you mean 'curvature'", "figures", "method", "curvatur")


def test_the_page_s_commands_name_the_folders(run, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my runs").mkdir()
    (tmp_path / "my runs" / "record.json").write_text("{}")
    assert run("figures", "method", "--runs", "my runs", "--out", "f")[0] == 0
    command = json.loads((tmp_path / "f" / "method.json").read_text())["command"]
    assert shlex.split(command)[1:] == ["figures", "method", "--runs", "my runs", "--out", "f"]
    assert run(*shlex.split(command)[1:])[0] == 0


@pytest.mark.parametrize("status", ["running", "stopped", "failed"])
def test_a_run_that_was_stopped_in_its_first_epoch(refused, tmp_path, status):
    history = [{"epoch": 0, "step": 0, "generator/ce": 1.0}]
    run = fake_run(tmp_path / "runs" / "a", None, history=history, status=status)
    with open(run / "history.jsonl", "a") as file:
        file.write('{"epoch": 0, "st')
    out = ["--runs", tmp_path / "runs", "--out", tmp_path / "f"]
    for name, words in (
        ("accuracy_by_bits", "needs a run that was evaluated"),
        ("training_by_bits", "needs a run that trained a student, and has its history"),
        ("attention_side_by_side", "has no checkpoint yet"),
        ("synthetic_images", "has no checkpoint yet"),
        ("attention_by_bits", "needs a run that trained a student to its end"),
    ):
        refused(1, words, "figures", name, *out)


def test_what_lies_in_the_folder_may_be_damaged(run, refused, monkeypatch, tmp_path):
    (tmp_path / "record.json").write_text("{}")
    (tmp_path / "file").write_text("")
    method = ["figures", "method", "--runs", tmp_path, "--out"]
    refused(1, "file: it is a file, not a folder", *method, tmp_path / "file")
    assert run(*method, tmp_path / "f")[0] == 0
    for name, text in (("ablations.json", "{"), ("ablations.json", "[]")):
        (tmp_path / "f" / name).write_text(text)
        refused(1, "ablations.json is damaged", *method, tmp_path / "f")
    (tmp_path / "f" / "ablations.json").unlink()
    for text in ("", "x,y\n1", "\x00"):
        (tmp_path / "f" / "error_cost.csv").write_text(text)
        refused(1, "error_cost.csv is damaged", *method, tmp_path / "f")
