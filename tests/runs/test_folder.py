import subprocess
from importlib.metadata import PackageNotFoundError

import pytest
import torch

from akt_lab.errors import AktError
from akt_lab.runs import folder
from akt_lab.runs.folder import Run


def test_folders(tmp_path):
    run = Run.create(tmp_path / "a")
    with pytest.raises(AktError, match="not a run folder"):
        Run.open(tmp_path / "a")
    run.update_record(x=1)
    run.update_record(y=2)
    assert Run.open(tmp_path / "a").record == {"x": 1, "y": 2}
    with pytest.raises(AktError, match="already exists"):
        Run.create(tmp_path / "a")
    (tmp_path / "file").write_text("")
    with pytest.raises(AktError, match="already exists"):
        Run.create(tmp_path / "file")
    (run / "record.json").write_text("{")
    with pytest.raises(AktError, match=r"record.json is damaged \(.*--resume` puts it back"):
        _ = run.record


def test_what_one_killed_at_its_start_left_is_in_nobodys_way(tmp_path):
    for name in (".lock", ".record.json.1234.tmp"):
        (tmp_path / name).write_text("{")
        assert folder.is_free(Run.create(tmp_path).folder)
    (tmp_path / "letter.tmp").write_text("")
    with pytest.raises(AktError, match="already exists"):
        Run.create(tmp_path)


def test_history_is_cut_to_what_the_checkpoint_knows(tmp_path):
    run = Run.create(tmp_path / "a")
    run.update_record(settings={"steps": 2})
    run.append_history([{"epoch": 0, "step": 0, "loss": 1.5}])
    run.append_history([{"epoch": 0, "step": 1, "loss": float("nan")}])
    run.append_history([{"epoch": 1, "step": 0, "loss": 1.0}])
    with open(run / "history.jsonl", "a") as file:
        file.write('{"epoch": 1, "step": 1, "lo')  # killed while writing
    run.cut_history(1)
    assert run.history()["step"].tolist() == [0, 1]
    assert run.history()["loss"].isna().tolist() == [False, True]


def test_a_new_status_takes_the_old_error_away(tmp_path):
    run = Run(tmp_path)
    run.update_record(status="stopped", error="no space left")
    run.update_record(seconds=1.0)
    assert run.get("error") == "no space left"
    run.update_record(status="running")
    assert run.record == {"status": "running", "seconds": 1.0}


def test_a_run_of_before_there_were_stretches_keeps_its_first(tmp_path, monkeypatch):
    run, older = Run(tmp_path), {"versions": {"commit": "old"}, "device": "cuda"}
    run.update_record(**older)
    monkeypatch.setattr(folder, "provenance", lambda: {"commit": "new"})
    run.begin(2, "cpu")
    new = {"from_epoch": 2, "versions": {"commit": "new"}, "device": "cpu"}
    assert run.get("stretches") == [{"from_epoch": 0, **older}, new]


def test_provenance(monkeypatch):
    found = folder.provenance()
    assert found["torch"] == torch.__version__
    assert found["threads"] >= 1

    def none(_):
        raise PackageNotFoundError

    monkeypatch.setattr(folder, "version", none)  # a source tree that is not installed
    assert folder.provenance() == {**found, "torchvision": None}


def test_the_commit_is_that_of_our_own_repository(tmp_path, monkeypatch):
    """Not of one that encloses the environment in which the package is installed."""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "a"]):
        subprocess.run([*git, *command], check=True)
    for home, project, ours in (
        (tmp_path / ".venv", "", False),
        (tmp_path / "vendored", 'name = "akt-lab"', False),
        (tmp_path, 'name = "another"', False),
        (tmp_path, 'name = "akt-lab"', True),
    ):
        home.mkdir(exist_ok=True)
        (home / "pyproject.toml").write_text(project)
        monkeypatch.setattr(folder, "__file__", str(home / "akt_lab" / "runs" / "folder.py"))
        assert bool(folder.provenance()["commit"]) == ours
