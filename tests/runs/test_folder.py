import pytest
import torch

from akt_lab.errors import AktError
from akt_lab.runs import folder as runs
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
    with pytest.raises(AktError, match="cannot be read"):
        _ = run.record


def test_history_is_cut_to_what_the_checkpoint_knows(tmp_path):
    run = Run.create(tmp_path / "a")
    run.append_history([{"step": 0, "loss": 1.5}, {"step": 1, "loss": float("nan")}])
    with open(run / "history.jsonl", "a") as file:
        file.write('{"step": 2, "lo')  # killed while writing
    run.cut_history(2)
    assert run.history()["step"].tolist() == [0, 1]
    assert run.history()["loss"].isna().tolist() == [False, True]


def test_provenance():
    found = runs.provenance()
    assert found["torch"] == torch.__version__
    assert found["threads"] >= 1
