"""A history that is followed: each line is read once, and what is held does not grow with it."""

import pytest

from akt_lab.explorers.history import History
from akt_lab.runs.folder import Run
from tests.explorers.conftest import steps, write


def test_a_follower_reads_each_line_once_and_waits_for_half_a_line(tmp_path):
    follower = History(tmp_path / "history.jsonl", 2)
    assert not follower.read()
    write(follower.path, steps(3))
    with open(follower.path, "a") as file:
        file.write('{"epoch": 0, "st')
    assert follower.read()
    assert follower.rows == 3
    first = follower.points[0]
    assert not follower.read()
    with open(follower.path, "a") as file:
        file.write('ep": 3, "generator/bns": 5.0, "gradient/conv.weight": 1.0}\n')
    assert follower.read()
    assert follower.points[0] is first
    assert follower.last == {"epoch": 0, "step": 3, "generator/bns": 5.0}
    assert follower.broken == 0


def test_a_follower_starts_over_when_a_resume_has_cut_the_file(tmp_path):
    run = Run(tmp_path)
    run.update_record(settings={"steps": 50})
    write(tmp_path / "history.jsonl", steps(120))
    follower = History(tmp_path / "history.jsonl", 2)
    follower.read()
    run.cut_history(2)
    write(tmp_path / "history.jsonl", steps(150, norm=2.0)[100:])  # longer than it was
    assert follower.read()
    assert follower.rows == 150
    assert follower.last["student/gradient_norm"] == 2.0


@pytest.mark.parametrize("line", ["{", "[1]", '{"epoch": 1}', '{"epoch": 0, "step": "x"}', "\x00"])
def test_a_broken_line_is_left_out_and_counted(tmp_path, line):
    path = tmp_path / "history.jsonl"
    path.write_text(line + "\n")
    write(path, steps(2))
    follower = History(path, 2)
    follower.read()
    assert (follower.broken, follower.rows) == (1, 2)
