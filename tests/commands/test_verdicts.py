"""The command alone; what a claim rests on is in tests/analysis/test_claims.py."""

import json
import shutil
from pathlib import Path

RESULTS = Path(__file__).parents[2] / "results"


def test_rows_as_json_come_from_the_file(run, tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    shutil.copy(RESULTS / "photographs.jsonl", folder)
    code, printed, _ = run("verdicts", "--json", "--results", folder)
    rows = json.loads(printed)
    assert code == 0
    wanted = {"claim", "effect", "low", "high", "n", "teachers", "word", "file"}
    assert all(wanted <= row.keys() for row in rows)
    lines = [json.loads(line) for line in (folder / "photographs.jsonl").read_text().splitlines()]
    changed = next(line for line in lines if line["settings"]["variant"] == "code")
    changed["accuracy"]["last"] -= 6
    (folder / "photographs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    later = json.loads(run("verdicts", "--json", "--results", folder)[1])
    (moved,) = [(a, b) for a, b in zip(rows, later, strict=True) if a["effect"] != b["effect"]]
    assert moved[1]["effect"] - moved[0]["effect"] + 6 / moved[0]["n"] < 1e-9
    assert moved[0]["file"] == str(folder / "photographs.jsonl")


def test_a_table_to_read(run, refused, tmp_path):
    code, printed, _ = run("verdicts", "--results", tmp_path)
    assert code == 0
    head, _, *rows = printed.splitlines()
    assert head.startswith("| claim | effect | interval | n | teachers | word |")
    assert all("**undecided**" in row and "`akt-lab " in row for row in rows)
    refused(1, "is no folder: name one with results", "verdicts", "--results", tmp_path / "none")
