"""The command alone; what a table holds is in tests/analysis/test_tables.py."""

from pathlib import Path


def test_mistakes(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(1, "no results/*.jsonl here", "table")
    refused(1, "cannot be read", "table", "--results", tmp_path)


def test_a_plot_onto_a_file_is_one_line(refused, tmp_path):
    (tmp_path / "file").write_text("")
    results = Path(__file__).parents[2] / "results" / "digits.jsonl"
    for place in ("file", "file/more"):
        table = ["table", "--results", results]
        refused(1, f"--plot {tmp_path / place}: ", *table, "--plot", tmp_path / place)
        refused(1, "--out", *table, "--out", tmp_path / "file" / "more")
