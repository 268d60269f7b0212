import json
import shlex

from akt_lab.commands import demo


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
