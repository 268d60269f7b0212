import pytest

from akt_lab.benches import BenchSpec
from akt_lab.errors import UsageError
from akt_lab.runs import jobs
from akt_lab.runs.folder import Run
from akt_lab.runs.jobs import Job, choose_device, do, jobs_of
from akt_lab.settings import Settings


def test_each_cell_once(tmp_path):
    grid = [["ptq", "adadfq", "adadfq+akt"], [3, 4], [0, 1, 1], ["paper", "code"]]
    jobs = jobs_of(tmp_path, BenchSpec(), *grid, {"epochs": 8})
    assert len({job.settings for job in jobs}) == len({job.name for job in jobs}) == len(jobs) == 16
    assert jobs[0].name == "digits-ptq-3w3a-0"
    assert {job.settings.seed for job in jobs[:8]} == {0}  # seed by seed
    assert "digits-adadfq+akt-code-4w4a-1" in {job.name for job in jobs}
    assert all(job.settings.epochs in (8, job.settings.warmup_epochs) for job in jobs)
    code = {"preset": "code", "epochs": 3}
    preset = jobs_of(tmp_path, BenchSpec(), ["adadfq+akt"], [3], [0], [], code)
    assert [job.settings.variant for job in preset] == ["code"]  # the preset's own
    named = jobs_of(tmp_path, BenchSpec(), ["adadfq+akt"], [3], [0], ["paper"], code)
    assert [job.settings.variant for job in named] == ["paper"]
    mixed = jobs_of(tmp_path, BenchSpec(), ["ptq"], [2, 3], [0], ["paper"], {"act_bits": 8})
    assert [job.name for job in mixed] == ["digits-ptq-2w8a-0", "digits-ptq-3w8a-0"]


def test_places():
    with pytest.raises(UsageError, match="cpu or cuda, not 'tpu'"):
        choose_device("tpu")


def test_what_has_failed_is_not_done_again(digits, tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(jobs, "stepwise", lambda *_: done.append("trained") or iter(()))
    monkeypatch.setattr(jobs, "keep_freed_memory", lambda: done.append("freed memory kept"))
    job, run = Job(Settings(method="ptq"), BenchSpec(), tmp_path), Run(tmp_path)
    do(job, run, digits, 98.0, progress=False)
    assert done == ["freed memory kept", "trained"]
    run.update_record(status="failed")
    do(job, run, digits, 98.0, progress=False)
    assert len(done) == 2
