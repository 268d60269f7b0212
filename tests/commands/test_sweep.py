"""The command alone; what a sweep does is in tests/runs/test_sweep.py."""


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
