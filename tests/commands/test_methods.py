import json
from dataclasses import replace

from akt_lab.methods import METHODS


def test_every_method_with_its_source(run):
    _, printed, _ = run("methods", "--json")
    rows = json.loads(printed)
    assert [row["method"] for row in rows] == list(METHODS)
    assert all(row["source"] and row["equation"] for row in rows)
    assert "HAST, CVPR 2023" in run("methods")[1]


def test_a_new_method_is_one_entry(run, tmp_path, monkeypatch, digits):
    monkeypatch.setitem(METHODS, "mine", replace(METHODS["gdfq"], name="mine", batch_size=8))
    monkeypatch.setitem(METHODS, "mine+akt", METHODS["mine"].with_akt())
    assert "\nmine+akt\n" in run("methods")[1]
    sizes, out = ["--epochs", 2, "--steps", 2], tmp_path / "sweep"
    code, printed, _ = run(
        "quantize", "--method", "mine", *sizes, "--out", tmp_path / "a", "--json"
    )
    assert (code, json.loads(printed)["method"]) == (0, "mine")
    both = ["--methods", "mine", "mine+akt", "--workers", 0]
    assert run("sweep", *both, *sizes, "--out", out)[0] == 0
    code, printed, _ = run("table", "--results", out, "--format", "json")
    assert {row["method"] for row in json.loads(printed)} == {"mine", "mine+akt"}
    assert {row["student_images"] for row in json.loads(printed)} == {16}  # its own batch
