import csv

from tests.course.test_submissions import cell, hand_in

FIXED = "def pack(q, bits):\n    return q"


def test_a_table_and_a_csv(run, tmp_path):
    folder, out = tmp_path / "class", tmp_path / "grades.csv"
    hand_in(folder / "ada" / "8-to-the-edge.ipynb", cell(FIXED), cell("x = 1", tags=["prediction"]))
    hand_in(folder / "bob" / "8-to-the-edge.ipynb", cell("✓ pack: yes", "markdown"))
    (folder / "broken.ipynb").write_text("{")
    code, shown, said = run("grade", folder, "--out", out, "--jobs", 1)
    assert code == 0
    assert "0 of 16" in shown
    assert "✗ ada" in shown
    assert "! bob" in shown
    assert "left out" in said
    with out.open(encoding="utf-8-sig") as file:
        rows = {(row["student"], row["exercise"]): row for row in csv.DictReader(file)}
    assert len(rows) == 32
    assert rows["ada", "pack"]["predictions"] == "x = 1"


def test_mistakes(refused, tmp_path):
    refused(1, "no such folder", "grade", tmp_path / "none")
    refused(1, "no .ipynb in it", "grade", tmp_path)
    (tmp_path / "a.ipynb").write_text("{}")
    refused(1, "none of its notebooks can be read", "grade", tmp_path)
