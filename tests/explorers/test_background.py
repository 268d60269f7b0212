"""A run in a process of its own."""

import os
import subprocess
import sys

import psutil
import pytest

from akt_lab.explorers import background
from akt_lab.explorers.background import Background


def test_progress_bars_are_rare_and_only_the_last_words_are_read(monkeypatch):
    started = {}

    def popen(words, **options):
        started.update(options)
        return subprocess.Popen([sys.executable, "-c", ""], env=options["env"])

    monkeypatch.setattr(background.psutil, "Popen", popen)
    run = Background([])
    monkeypatch.setattr(run, "_each", lambda action: None)
    assert started["env"]["TQDM_MININTERVAL"] == "60"
    assert started["env"].items() >= os.environ.items()
    run.errors.write(b"akt-lab: long ago\n" + 10**5 * b"\rstep" + b"\nthe last words\n")
    assert run.close() == "the last words"


@pytest.mark.slow
def test_a_run_ends_with_the_process_that_started_it(tmp_path):
    script = (
        "from akt_lab.explorers.background import Background\n"
        "print(Background(['--out', 'run']).process.pid)"
    )
    words = [sys.executable, "-c", script]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not psutil.pid_exists(int(done.stdout))
