import json
import sys

import onnx
import pytest
import torch

from akt_lab import export
from akt_lab.benches import BenchSpec
from akt_lab.commands import export as of_command
from akt_lab.export import runtimes
from akt_lab.runs.folder import Run
from akt_lab.runs.training import train
from akt_lab.settings import Settings
from tests.conftest import SMALL, fake_run


@pytest.fixture(scope="module")
def made(digits, tmp_path_factory):
    """A run of adadfq at 3 bits."""
    run = Run.create(tmp_path_factory.mktemp("export") / "run")
    run.update_record(bench=BenchSpec().to_dict())
    train(digits, Settings(method="adadfq", **SMALL), run, progress=False)
    return run


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Times of a few rounds."""
    monkeypatch.setattr(runtimes, "SECONDS", 0.0)


def test_a_student_is_checked_timed_and_written(run, made, digits, tmp_path):
    file = tmp_path / "student.onnx"
    code, printed, error = run("export", made.folder, "--out", file, "--json")
    assert code == 0, error
    found = json.loads(printed)
    assert found["bytes"]["file"] == file.stat().st_size
    assert found["bytes"]["entropy_coded"] < found["bytes"]["accounted"] < found["bytes"]["file"]
    assert found["bytes"]["file"] < 0.4 * found["bytes"]["float32"]
    assert found["effective_bits"] == made.entry("effective_bits")
    assert set(found["runtimes"]) == {runtime.package for runtime in export.here()}
    for each in found["runtimes"].values():
        assert each["images"] == len(digits.images)
        assert each["accuracy"] == pytest.approx(each["student_accuracy"], abs=0.5)
        assert each["ms"] > 0
        assert each["ms_float32"] > 0
        assert len(each["in_integers"]) + len(each["in_float"]) == 10
    about = {p.key: p.value for p in onnx.load(file).metadata_props}
    assert about["bench"] == "digits"
    assert about["method"] == "adadfq"
    assert about["bits"] == "3w3a"
    assert json.loads(about["classes"]) == list("0123456789")
    assert json.loads(about["mean"]) == list(digits.mean)
    assert json.loads(about["std"]) == list(digits.std)
    assert about["run"] == "run"
    assert "commit" in about


def test_words_maps_and_int4(run, made, tmp_path):
    file = tmp_path / "student.onnx"
    how = ("--storage", "int4", "--maps")
    code, printed, _ = run("export", made.folder, "--out", file, *how)
    assert code == 0
    assert "ran in integers" in printed
    assert "ms an image on one thread, float32" in printed
    names = [output.name for output in onnx.load(file).graph.output]
    assert names == ["logits", *(f"map/unit{n}.body.4" for n in (1, 2, 3))]


def test_sums_of_8_bits_run_in_integers(run, made, tmp_path):
    file = tmp_path / "student.onnx"
    code, printed, _ = run("export", made.folder, "--out", file, "--sums", "8", "--json")
    assert code == 0
    found = json.loads(printed)
    assert found["sums"] == "8"
    ours = found["runtimes"]["onnxruntime"]
    assert ours["good"]
    assert ours["in_float"] == ["stem.0", "classifier"]  # images and pooled features are in float
    for name, each in found["runtimes"].items():
        assert each["good"] or name == "openvino"


def test_the_teacher(run, made, tmp_path):
    file = tmp_path / "teacher.onnx"
    code, printed, _ = run("export", made.folder, "--out", file, "--float", "--json")
    assert code == 0
    found = json.loads(printed)
    assert found["bits"] == "32"
    assert all(not each["in_integers"] for each in found["runtimes"].values())
    assert found["runtimes"]["onnxruntime"]["difference"] < 1e-5


def test_unchecked(run, made, tmp_path):
    file = tmp_path / "student.onnx"
    code, printed, _ = run("export", made.folder, "--out", file, "--no-check")
    assert code == 0
    assert printed.splitlines()[-1].split() == ["checked", "no"]
    assert file.exists()


def test_a_pt2_file_is_checked_without_onnx(run, made, digits, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setattr("akt_lab.export.exported.here", list)
    file = tmp_path / "student.pt2"
    code, printed, error = run("export", made.folder, "--out", file, "--json")
    assert code == 0, error
    found = json.loads(printed)
    assert found["bytes"]["file"] == file.stat().st_size
    assert (found["storage"], found["bits"]) == ("float", "3w3a")
    (each,) = found["runtimes"].values()
    assert each["images"] == len(digits.images)
    assert each["good"]
    assert "ms" not in each
    names = "bench method bits classes mean std run commit".split()
    about = dict.fromkeys(names, "")
    network = torch.export.load(file, extra_files=about).module()
    assert (about["bench"], about["method"], about["bits"]) == ("digits", "adadfq", "3w3a")
    assert json.loads(about["classes"]) == list("0123456789")
    assert json.loads(about["mean"]) == list(digits.mean)
    assert json.loads(about["std"]) == list(digits.std)
    assert about["run"] == "run"
    assert about["commit"]
    right = network(digits.normalise(digits.images)).argmax(1) == digits.labels
    assert 100 * right.float().mean().item() == pytest.approx(each["accuracy"])
    shown = " ".join(of_command._lines(found).values())
    assert "largest difference" in shown
    assert "one thread" not in shown


def test_a_pt2_file_that_is_not_good_is_not_written(refused, made, tmp_path, monkeypatch):
    run = export.TorchExport.run

    def wrong(self, images):
        return {name: 1.01 * values for name, values in run(self, images).items()}

    monkeypatch.setattr(export.TorchExport, "run", wrong)
    words = "not good, and was not written: in torch, 540 of 540 images"
    refused(1, words, "export", made.folder, "--out", tmp_path / "student.pt2")
    assert not list(tmp_path.iterdir())


def test_what_a_pt2_file_has_not(refused, made, digits, tmp_path):
    out = ("--out", tmp_path / "new.pt2")
    for option in (("--storage", "int8"), ("--sums", "float"), ("--maps",)):
        words = f"{option[0]} is of ONNX files"
        refused(2, words, "export", made.folder, *out, *option)
    live = Run.create(tmp_path / "live")
    live.update_record(bench=BenchSpec().to_dict())
    train(digits, Settings(method="granq", **SMALL), live, progress=False)
    refused(1, "live ranges (GranQ)", "export", live.folder, *out)
    assert not (tmp_path / "new.pt2").exists()


def test_a_file_that_is_not_good_is_not_written(refused, made, tmp_path, monkeypatch):
    run = export.OnnxRuntime.run

    def wrong(self, images):
        return {name: 1.01 * values for name, values in run(self, images).items()}

    monkeypatch.setattr(export.OnnxRuntime, "run", wrong)
    words = "not good, and was not written: in onnxruntime, 540 of 540 images"
    refused(1, words, "export", made.folder, "--out", tmp_path / "student.onnx")
    assert not list(tmp_path.iterdir())


def test_mistakes(refused, made, digits, tmp_path, monkeypatch):
    out = ("--out", tmp_path / "new.onnx")
    refused(1, "is not a run folder", "export", tmp_path / "none", *out)
    begun = fake_run(tmp_path / "begun")
    refused(1, "has no checkpoint yet", "export", begun.folder, *out)
    (tmp_path / "old.onnx").touch()
    refused(1, "exists already", "export", made.folder, "--out", tmp_path / "old.onnx")
    refused(1, "there is no folder", "export", made.folder, "--out", tmp_path / "a" / "b.onnx")
    refused(2, "drop --sums", "export", made.folder, *out, "--float", "--sums", "8")
    refused(2, "drop --storage", "export", made.folder, *out, "--float", "--storage", "int4")
    live = Run.create(tmp_path / "live")
    live.update_record(bench=BenchSpec().to_dict())
    train(digits, Settings(method="granq", **SMALL), live, progress=False)
    refused(1, "live ranges (GranQ)", "export", live.folder, *out)
    monkeypatch.setattr("akt_lab.export.exported.here", list)
    refused(1, "no runtime to check the file with", "export", made.folder, *out)
    monkeypatch.setitem(sys.modules, "onnx", None)
    refused(1, "onnx is not installed: pip install -e '.[export]'", "export", made.folder, *out)
    assert not (tmp_path / "new.onnx").exists()
