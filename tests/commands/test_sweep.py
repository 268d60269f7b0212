"""The command alone; what a sweep does is in tests/runs/test_sweep.py."""


def listed(run, tmp_path, *arguments):
    code, printed, _ = run("sweep", "--dry-run", "--out", tmp_path / "s", *arguments)
    assert code == 0
    return printed.splitlines()


def test_the_grid_and_what_its_runs_share(run, tmp_path):
    names = listed(run, tmp_path, "--bits", 2, 3, "--act-bits", 8, "--variants", "paper", "code")
    kinds = ("adadfq", "adadfq+akt-paper", "adadfq+akt-code")
    assert names == [f"digits-{kind}-{b}w8a-0" for b in (2, 3) for kind in kinds]
    assert listed(run, tmp_path, "--methods", "ptq") == ["digits-ptq-3w3a-0"]
    assert not list(tmp_path.iterdir())


def test_mistakes(refused, tmp_path):
    def no(words, *arguments):
        refused(2, words, "sweep", "--out", tmp_path / "s", *arguments)

    no("--alpha is not read by adadfq", "--methods", "adadfq", "--alpha", 0.3)
    no("batch_size must be at least 1, not 0", "--batch-size", 0)
    no("2 to 8, not 9", "--bits", 9)
    no("did you mean 'quick'", "--preset", "quik")
