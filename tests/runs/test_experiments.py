import importlib
from pathlib import Path

import pytest

from akt_lab.benches import BenchSpec
from akt_lab.errors import UsageError
from akt_lab.runs import experiments
from akt_lab.runs.experiments import BUDGET, accuracy, jobs_of_experiment


def test_arms_differ_in_akt_alone():
    arms = accuracy(3)
    assert [*arms] == [
        "adadfq", "adadfq+akt-code", "adadfq+akt-paper-15", "adadfq+akt-paper-30",
        "adadfq+akt-paper-60", "adadfq+akt-placebo",
    ]  # fmt: skip
    plain = arms["adadfq"].to_dict()
    for name, settings in arms.items():
        differ = {k for k, v in settings.to_dict().items() if v != plain[k]}
        assert differ <= {"method", "variant", "lam"}, name
    assert [s.lam for s in arms.values()] == [None, None, 15, 30, 60, None]
    assert [*accuracy(4)] == ["adadfq", "adadfq+akt-code"]
    assert {s.bits for s in accuracy(5).values()} == {"5w5a"}


def test_its_budget_is_that_of_the_recipe_s_runs(monkeypatch):
    """One budget, where the recipe was chosen and where it is compared."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    recipe = dict(importlib.import_module("recipe").BUDGET)
    assert recipe.pop("method") == "adadfq"
    assert {k: BUDGET[k] for k in recipe if k != "eval_every"} == {
        k: v for k, v in recipe.items() if k != "eval_every"
    }


def test_jobs_go_seed_by_seed(tmp_path):
    jobs = jobs_of_experiment("accuracy", tmp_path, BenchSpec(), (3, 4), (0, 7), {"steps": 2})
    assert len(jobs) == len({job.name for job in jobs}) == 2 * (6 + 2)
    assert [job.settings.seed for job in jobs] == [0] * 8 + [7] * 8
    assert jobs[2].name == "digits-adadfq+akt-paper-15-3w3a-0"
    assert {job.settings.steps for job in jobs} == {2}
    assert {job.folder.parent for job in jobs} == {tmp_path}


def test_mistakes(tmp_path):
    given = (tmp_path, BenchSpec(), (3,), (0,))
    with pytest.raises(UsageError, match="did you mean 'accuracy'"):
        jobs_of_experiment("acuracy", *given, {})
    for name in experiments.OF_ARMS:
        with pytest.raises(UsageError, match=f"drop --{name}"):
            jobs_of_experiment("accuracy", *given, {name: 1.0})
