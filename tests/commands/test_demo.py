import json

from akt_lab.commands import demo
from akt_lab.figures import gallery
from akt_lab.runs.folder import find_runs
from akt_lab.runs.results import table


def test_the_page_s_commands_name_the_folders(run, monkeypatch, tmp_path, digits):
    """One run stands for the grid."""
    monkeypatch.setattr(gallery, "OF_RUNS", ["method", "accuracy_by_bits"])
    out, sizes = tmp_path / "runs", ["--batch-size", 8, "--epochs", 2, "--steps", 2]
    assert run("quantize", "--method", "ptq", *sizes, "--out", out / "ptq")[0] == 0
    runs = find_runs(out)
    monkeypatch.setattr(demo, "train", lambda *_: (table(runs), runs))
    code, printed, _ = run("demo", "--out", out, "--figures", tmp_path / "f")
    assert code == 0
    assert f"runs    {out}" in printed
    for name in gallery.OF_RUNS:
        command = json.loads((tmp_path / "f" / f"{name}.json").read_text())["command"]
        assert command == f"akt-lab figures {name} --runs {out} --out {tmp_path / 'f'}"
    assert (tmp_path / "f" / "demo_table.csv").exists()


def test_a_folder_for_figures_that_cannot_be(refused, tmp_path):
    (tmp_path / "file").touch()
    refused(1, "--figures", "demo", "--figures", tmp_path / "file")
