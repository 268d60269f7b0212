"""The command alone; what a sweep does is in tests/runs/test_sweep.py."""

from akt_lab.commands.sweep import RESULTS
from akt_lab.runs.results import read


def test_the_grid_and_what_its_runs_share(run, refused, tmp_path):
    sweep = ["sweep", "--dry-run", "--out", tmp_path / "s"]
    grid = ["--bits", 2, 3, "--act-bits", 8, "--variants", "paper", "code"]
    code, printed, _ = run(*sweep, *grid)
    kinds = ("adadfq", "adadfq+akt-paper", "adadfq+akt-code")
    assert code == 0
    assert printed.split() == [f"digits-{kind}-{b}w8a-0" for b in (2, 3) for kind in kinds]
    refused(2, "--pool is not read by adadfq", *sweep, *grid, "--pool", 8)
    refused(2, "batch_size must be at least 1, not 0", *sweep, *grid, "--batch-size", 0)
    assert not list(tmp_path.iterdir())


def test_an_experiment_by_its_name(run, refused, tmp_path):
    sweep = ["sweep", "--experiment", "accuracy", "--out", tmp_path / "s"]
    code, printed, _ = run(*sweep, "--dry-run")
    assert code == 0
    assert len(printed.split()) == 6 * 16
    assert printed.split()[1] == "cifar10-adadfq+akt-code-3w3a-0"
    _, printed, _ = run(*sweep, "--dry-run", "--bits", 4, "--seeds", 7, "--bench", "digits")
    assert printed.split() == ["digits-adadfq-4w4a-7", "digits-adadfq+akt-code-4w4a-7"]
    refused(2, "has its own: drop --methods", *sweep, "--methods", "gdfq")
    refused(2, "drop --lam", *sweep, "--lam", 3)
    refused(2, "did you mean 'accuracy'", *sweep[:1], "--experiment", "acuracy", *sweep[3:])
    assert not list(tmp_path.iterdir())


def test_an_experiment_goes_on_where_it_was_stopped(run, tmp_path, digits):
    """The same command with a seed more: what has ended stays, and one file has all."""
    small = ["--bench", "digits", "--bits", 4, "--epochs", 2, "--steps", 2, "--warmup-epochs", 1]
    small += ["--batch-size", 8, "--workers", 0, "--out", tmp_path]
    sweep = ["sweep", "--experiment", "accuracy", *small, "--seeds", 0]
    assert run(*sweep)[0] == 0
    first = read(tmp_path / RESULTS)
    code, printed, _ = run(*sweep, 1)
    assert code == 0
    assert f"akt-lab verdicts --results {tmp_path}" in printed
    lines = read(tmp_path / RESULTS)
    assert lines[: len(first)] == first
    assert [line["settings"]["seed"] for line in lines] == [0, 0, 1, 1]
