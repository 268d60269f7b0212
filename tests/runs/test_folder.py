import json
import subprocess
from importlib.metadata import PackageNotFoundError

import pytest
import torch

from akt_lab.errors import AktError, DamagedError
from akt_lab.runs import folder
from akt_lab.runs.folder import Run
from tests.conftest import fake_run


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


# ---- damage -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"status": 3}, {"accuracy": [1]}, {"accuracy": {"last": 1.0}}, {"seconds": "3"},
        {"evaluations": {}}, {"evaluations": [{"epoch": 1, "accuracy": float("nan")}]},
        {"stretches": [1]}, {"stretches": [{"from_epoch": "x", "versions": {}, "device": ""}]},
        {"versions": None}, {"fingerprints": {"teacher": 3}},
        {"settings": {"method": "ptq", "x": 1}}, {"settings": {"epochs": []}},
        {"bench": {"x": 1}}, {"bench": 3}, {"images": "540"},
    ],
)  # fmt: skip
def test_an_older_record_of_wrong_types_is_refused_by_name(tmp_path, wrong):
    run = fake_run(tmp_path / "run")
    (run / "record.json").write_text(json.dumps({**run.record, **wrong}))
    for read in (lambda: run.record, lambda: run.settings, lambda: run.done, run.history):
        with pytest.raises(DamagedError, match=r"^[^\n]*record.json is damaged \(.*--resume` puts"):
            read()


def test_a_changed_record_is_noticed(tmp_path):
    run = fake_run(tmp_path / "run")
    text = (run / "record.json").read_text()
    (run / "record.json").write_text(text.replace("90.0", "91.0", 1))
    with pytest.raises(DamagedError, match="its content is not what was written"):
        _ = run.record
    (run / "record.json").write_bytes(
        text.replace("\n", "\r\n").encode()
    )  # as another system keeps text
    assert "digest" not in run.record


def rows(first, last, steps=50):
    return [{"epoch": n // steps, "step": n % steps, "loss": 1.0} for n in range(first, last)]


def test_a_history_must_have_each_step_once_and_in_order(tmp_path):
    for number, wrong in enumerate(
        ([*rows(0, 3), *rows(4, 6)], [*rows(0, 3), *rows(2, 6)], [*rows(0, 1), {"epoch": 0}],
         [{"epoch": 0, "step": "0"}], [{"epoch": 0, "step": 0, "loss": None}])
    ):  # fmt: skip
        run = fake_run(tmp_path / str(number), history=wrong)
        with pytest.raises(DamagedError, match=r"history.jsonl, line \d, is damaged .*: delete it"):
            run.history()


def test_a_history_ends_where_its_run_did(tmp_path):
    run = fake_run(tmp_path / "run", history=rows(0, 120))
    run.update_record(status="running", steps_saved=119)  # the epoch is not over
    assert len(run.history()) == 120
    run.update_record(status="done", steps_done=120)
    assert len(run.history()) == run.steps_in_history() == 120
    lines = (run / "history.jsonl").read_bytes().splitlines(keepends=True)
    for left in (lines[:-1], []):
        (run / "history.jsonl").write_bytes(b"".join(left))
        with pytest.raises(DamagedError, match="it does not end with step 120, as the run"):
            run.history()
    run.update_record(steps_done=0)
    (run / "history.jsonl").write_bytes(b"".join(lines[:-2]))
    with pytest.raises(DamagedError, match="it ends before step 119, the checkpoint's"):
        run.history()
    run.update_record(steps_done=120)
    (run / "history.jsonl").write_bytes(b"".join(lines[100:]))  # it was deleted, and began late
    assert run.history()["step"].tolist() == list(range(20))
    (run / "history.jsonl").unlink()
    assert run.history().empty


def test_only_what_the_checkpoint_counts_on_must_be_whole(tmp_path):
    run = fake_run(tmp_path / "run", history=rows(0, 120))
    path, lines = run / "history.jsonl", (run / "history.jsonl").read_bytes().splitlines(True)
    broken = b'{"epoch"\n'
    for left in ([*lines[:100], broken, *lines[101:]], [*lines[:110], broken], lines[:100]):
        path.write_bytes(b"".join(left))
        run.cut_history(2)
        assert path.read_bytes() == b"".join(lines[:100])
    for left in ([*lines[:99], broken, *lines[100:]], lines[:99], []):
        path.write_bytes(b"".join(left))
        with pytest.raises(DamagedError, match="delete it to go on without its curves"):
            run.cut_history(2)
        assert path.read_bytes() == b"".join(left)
    path.unlink()
    run.cut_history(2)
    for first in (100, 110):  # begun after it was deleted; nothing is left of it
        path.write_bytes(b"".join(lines[first:]))
        run.cut_history(2)
        assert not path.exists()
    path.write_bytes(b"".join(lines[60:]))
    run.cut_history(2)
    assert path.read_bytes() == b"".join(lines[60:100])
