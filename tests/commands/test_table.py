"""The command alone; what a table holds is in tests/analysis/test_tables.py."""


def test_mistakes(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(1, "no results/*.jsonl here", "table")
    refused(1, "cannot be read", "table", "--results", tmp_path)
