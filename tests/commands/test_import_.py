import json

import pytest
import torch

from akt_lab.explorers import attention_explorer
from akt_lab.export import runtimes
from akt_lab.runs.folder import Run
from tests.runs.test_released import bench, bench_spec, entries, images  # noqa: F401


@pytest.fixture
def on(bench_spec):  # noqa: F811
    return "--bench", "cifar10", "--weights", bench_spec.weights, "--data", bench_spec.data


def test_from_a_file_to_evaluate_explore_and_export(
    run, bench, entries, on, tmp_path, monkeypatch  # noqa: F811
):  # fmt: skip
    monkeypatch.setattr(runtimes, "SECONDS", 0.0)
    file, out = tmp_path / "model.pth", tmp_path / "released"
    torch.save({"state_dict": entries}, file)
    how = ("--method", "hast", "--bits", 3, "--out", out, "--json")
    code, printed, error = run("import", file, *how, *on)
    assert code == 0, error
    assert "the student's weights are those of 'state_dict'" in error
    made = json.loads(printed)
    assert (made["method"], made["bits"], made["images"]) == ("hast", "3w3a", 20)
    code, printed, _ = run("evaluate", out, "--json")
    assert code == 0
    found = json.loads(printed)
    assert found["student_accuracy"] == made["student_accuracy"]
    assert found["teacher_accuracy"] == made["teacher_accuracy"]
    assert attention_explorer([Run(out)], bench).message.value == ""
    code, printed, error = run("export", out, "--out", tmp_path / "student.onnx", "--json")
    assert code == 0, error
    assert all(each["good"] for each in json.loads(printed)["runtimes"].values())
    code, printed, _ = run("quantize", "--resume", "--out", out, "--json")  # it has ended
    assert json.loads(printed)["student_accuracy"] == made["student_accuracy"]


def test_mistakes(refused, entries, on, tmp_path):  # noqa: F811
    file, out = tmp_path / "model.pth", tmp_path / "released"
    torch.save(entries, file)
    whose = ("--method", "gdfq", "--out", out)
    refused(2, "does not say its bits: give --bits", "import", file, *whose, *on)
    refused(2, "give --bits", "import", file, *whose, "--act-bits", 3, *on)
    refused(2, "from 2 to 8, not 9", "import", file, *whose, "--bits", 9, *on)
    refused(1, "No such file", "import", tmp_path / "none", *whose, "--bits", 3, *on)
    words = "give the network that it was trained from"
    refused(1, words, "import", file, *whose, "--bits", 3)  # digits
    assert not out.exists()
    out.mkdir()
    (out / "mine").touch()
    refused(1, "already exists", "import", file, *whose, "--bits", 3, *on)
