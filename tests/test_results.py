"""What the README reports is what its command prints from results/."""

import re
from pathlib import Path

import pytest

from akt_lab.cli import main
from akt_lab.results import read

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SHOWN = re.findall(r"akt-lab table --results (results/\w+\.jsonl)", README)


def test_there_is_something_to_check():
    assert SHOWN


@pytest.mark.parametrize("name", SHOWN)
def test_readme_shows_the_command_s_table(name, capsys):
    assert main(["table", "--results", str(ROOT / name)]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(rows) > 2
    for row in rows[2:]:  # below the heading
        assert row in README


@pytest.mark.parametrize("path", sorted((ROOT / "results").glob("*.jsonl")), ids=lambda p: p.stem)
def test_lines_are_whole_and_name_no_place(path):
    lines = read(path)
    assert len({line["run"] for line in lines}) == len(lines)
    assert "/" not in "".join(str(line["bench"][k]) for line in lines for k in ("data", "weights"))
    assert all(line["commit"] for line in lines)
