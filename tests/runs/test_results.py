"""What the README reports is what its command prints from results/."""

import re
from pathlib import Path

import pytest

from akt_lab.commands import main
from akt_lab.runs import results

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "results").glob("*.jsonl"))
PAGES = [(ROOT / name).read_text() for name in ("README.md", "results/README.md")]
SHOWN = [
    (page, name)
    for page in PAGES
    for name in re.findall(r"akt-lab table --results (results/\w+\.jsonl)", page)
]


def test_every_file_is_shown():
    assert {name for _, name in SHOWN} == {f"results/{p.name}" for p in FILES}


@pytest.mark.parametrize(("page", "name"), SHOWN, ids=[name for _, name in SHOWN])
def test_a_page_shows_the_command_s_table(page, name, capsys):
    assert main(["table", "--results", str(ROOT / name)]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(rows) > 2
    for row in rows[2:]:  # below the heading
        assert row in page


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_lines_are_whole_and_name_no_place(path):
    lines = results.read(path)
    assert len({(line["run"], line["settings"]["precision"]) for line in lines}) == len(lines)
    assert "/" not in "".join(str(line["bench"][k]) for line in lines for k in ("data", "weights"))
    assert all(line["commit"] for line in lines)


def test_runs_of_other_teachers_are_never_averaged():
    line = results.read(FILES[0])[0]  # older: it knows no fingerprints
    digests = ({"teacher": teacher, "images": "i"} for teacher in "aab")
    first, same, other = (results.row({**line, "fingerprints": each}) for each in digests)
    for key in ("same", "pair"):
        assert first[key] == same[key] != other[key]
        assert "fingerprint" not in results.row(line)[key]
