import io
import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from akt_lab.analysis import tables
from akt_lab.analysis.tables import reference, standing_of, summarise, verdict
from akt_lab.commands import main
from akt_lab.errors import AktError
from akt_lab.figures.table import dots
from akt_lab.settings import Settings

RNG = np.random.default_rng(0)
BENCH = {"bench": "digits", "teacher": None, "weights": None, "data": None}
SETTINGS = {
    "weight_bits": 3, "act_bits": 3, "epochs": 5, "steps": 10, "batch_size": 16,
    "warmup_epochs": 1, "student_lr": 1e-4, "variant": "paper", "alpha": 0.5, "lam": None,
}  # fmt: skip


def line(method, seed, last, *, images=540, teacher=99.0, status="done", bench=BENCH, **settings):
    return {
        "run": f"{method}-{seed}",
        "status": status,
        "bench": bench,
        "settings": {**SETTINGS, "method": method, "seed": seed, **settings},
        "accuracy": {"last": last, "label_free": last - 0.5, "best": last + 0.25},
        "teacher_accuracy": teacher,
        "evaluation_images": images,
        "effective_bits": {"weights": 3.324, "activations": 3.0},
        "commit": "abc1234",
    }


def write(path, *lines):
    path.write_text("".join(json.dumps(each) + "\n" for each in lines))
    return path


def cells_of(tmp_path, *lines):
    return summarise(tables.load([write(tmp_path / "results.jsonl", *lines)]))


def paper_lines(method="adadfq", values=(84.7, 84.9, 85.1), **changes):
    """Runs at the paper's budget on its bench; `best` is what its number is compared with."""
    bench = {**BENCH, "bench": "cifar10"}
    bits = {"weight_bits": 3, "act_bits": 3, "batch_size": 16, "epochs": 400, "steps": 200}
    settings = Settings(method=method, **bits).to_dict()
    own = {k: v for k, v in settings.items() if k not in ("method", "seed")}
    given = {"bench": bench, "images": 10_000, "teacher": 93.9, **own, **changes}
    return [line(method, seed, value - 0.25, **given) for seed, value in enumerate(values)]


def test_a_ceiling_is_called_one(tmp_path):
    both = [line("real", 0, 97.0), line("real+akt", 0, 96.0), line("adadfq", 0, 95.0)]
    note = "real, real+akt: trained on real images, a ceiling and not zero-shot."
    cells = cells_of(tmp_path, *both)
    assert note in tables.to_markdown(cells)
    assert set(cells["standing"]) == {"other bench"}
    gain = cells.set_index("method").loc["real+akt", "gain_last"]
    assert gain == pytest.approx(-1)  # against `real`
    assert "zero-shot" not in tables.to_markdown(cells_of(tmp_path, both[2]))
    assert note in dots(cells).caption


def test_verdicts():
    assert verdict(0.1, 2, 3) == "helps"
    assert verdict(-2, -0.1, 3) == "hurts"
    assert verdict(-0.1, 0.1, 3) == "cannot be told apart"
    assert verdict(math.nan, math.nan, 1) == "one seed"
    assert verdict(math.nan, math.nan, 0) == "no plain runs alike"


# ---- cells --------------------------------------------------------------------------------------


def test_a_gain_is_paired_by_seed(tmp_path):
    """Seeds differ far more than methods: only pairs can tell them apart."""
    plain, akt = [70.0, 80.0, 90.0], [71.0, 81.2, 90.9]
    lines = [line("adadfq", s, v) for s, v in enumerate(plain)]
    lines += [line("adadfq+akt", s, v) for s, v in enumerate(akt)]
    cells = cells_of(tmp_path, *reversed(lines)).set_index("method")
    row = cells.loc["adadfq+akt"]
    expected = stats.ttest_rel(akt, plain).confidence_interval(0.95)
    assert (row["gain_last_low"], row["gain_last_high"]) == pytest.approx(tuple(expected))
    assert row["verdict"] == "helps"
    assert row["pairs"] == 3
    for metric, shift in (("last", 0), ("label_free", -0.5), ("best", 0.25)):
        assert cells.loc["adadfq", metric] == pytest.approx(80 + shift)
    assert math.isnan(cells.loc["adadfq", "gain_last"])


def test_budgets_and_settings_are_not_mixed(tmp_path):
    lines = [line("adadfq", s, 80) for s in (0, 1)]
    lines += [line("adadfq", s, 90, epochs=9) for s in (0, 1)]  # more images
    lines += [line("adadfq", s, 60, student_lr=1e-3) for s in (0, 1)]
    lines += [line("adadfq", s, 50, batch_size=32, steps=5) for s in (0, 1)]  # as many images
    lines += [line("adadfq", s, 40, teacher=98.0) for s in (0, 1)]
    cells = cells_of(tmp_path, *lines)
    assert sorted(cells["last"]) == [40, 50, 60, 80, 90]
    assert set(cells["runs"]) == {2}
    by_accuracy = cells.set_index("last")
    assert by_accuracy.loc[90, "student_images"] == 8 * 10 * 16
    assert by_accuracy.loc[50, "student_images"] == by_accuracy.loc[80, "student_images"] == 640
    assert "student_lr=0.001" in by_accuracy.loc[60, "settings"]
    assert "batch_size=32" in by_accuracy.loc[50, "settings"]
    assert by_accuracy.loc[90, "settings"] == ""
    text = tables.to_markdown(cells)
    assert "1,280" in text
    assert "640" in text


def test_no_gain_over_another_budget(tmp_path):
    lines = [line("adadfq", s, 80 + s) for s in (0, 1)]
    lines += [line("adadfq+akt", s, 90 + s, epochs=9) for s in (0, 1)]
    row = cells_of(tmp_path, *lines).set_index("method").loc["adadfq+akt"]
    assert row["verdict"] == "no plain runs alike"
    assert math.isnan(row["gain_last"])


def test_variants_have_rows_of_their_own(tmp_path):
    lines = [line("adadfq", s, 80 + s) for s in (0, 1)]
    lines += [line("adadfq+akt", s, 70 + s, variant=v) for s in (0, 1) for v in ("paper", "code")]
    cells = cells_of(tmp_path, *lines)
    assert cells["variant"].tolist() == ["", "code", "paper"]
    assert cells["verdict"].tolist()[1:] == ["hurts", "hurts"]


def test_a_diverged_run_is_counted_and_not_averaged(tmp_path):
    lines = [line("adadfq", 0, 80), line("adadfq", 1, 10, status="failed")]
    cells = cells_of(tmp_path, *lines, line("adadfq+akt", 1, 85))
    row = cells.set_index("method").loc["adadfq"]
    assert (row["runs"], row["diverged"], row["last"]) == (1, 1, 80)
    assert "1 + 1 diverged" in tables.to_markdown(cells)
    assert cells.set_index("method").loc["adadfq+akt", "pairs"] == 0
    alone = cells_of(tmp_path, line("adadfq", 1, 10, status="failed"))
    assert "| – |" in tables.to_markdown(alone)


def test_a_run_in_two_files_counts_once(tmp_path):
    first = write(tmp_path / "a.jsonl", line("adadfq", 0, 80), line("adadfq", 1, 82))
    second = write(tmp_path / "b.jsonl", line("adadfq", 1, 82))
    assert summarise(tables.load([first, second]))["runs"].tolist() == [2]


# ---- the paper ----------------------------------------------------------------------------------


def test_reference_numbers_have_sources():
    rows = reference()
    assert len(rows) == 53
    assert all(row["source"] for row in rows)
    assert len({(r["bench"], r["method"], r["bits"], r["source"]) for r in rows}) == len(rows)
    cells = {(r["bench"], r["method"], r["bits"]): float(r["top1"]) for r in rows[:36]}
    assert cells["cifar10", "adadfq+akt", "3"] == 86.76
    assert cells["cifar100", "adadfq", "5"] == 69.93
    later = {(r["bench"], r["method"], r["bits"]): r["top1"] for r in rows[37:]}
    assert [later["cifar10", name, "3"] for name in ("synq", "plf", "texq", "hast")] == [
        "88.11", "88.04", "86.47", "86.34",
    ]  # fmt: skip
    assert all(f"{float(row['top1']):.2f}" == row["top1"] for row in rows)
    budgets = {r["method"]: r["student_images"] for r in rows}
    assert budgets["adadfq"] == str((400 - 4) * 200 * 16)
    assert budgets["adadfq+akt"] == str((200 - 4) * 200 * 200)


def test_reproduced_only_where_all_is_the_paper_s(tmp_path):
    def standing(lines):
        return cells_of(tmp_path, *lines)["standing"].iloc[0]

    assert standing(paper_lines()) == "reproduced"
    assert standing(paper_lines(values=(80.0, 80.1, 80.2))) == "not reproduced"
    assert standing(paper_lines(values=(84.7, 85.1))) == "too few seeds"
    assert standing(paper_lines(values=(83, 85, 87))) == "interval too wide"
    assert standing(paper_lines(teacher=93.6)) == "other teacher"
    assert standing(paper_lines(teacher=math.nan)) == "other teacher"  # and the row is there
    assert standing(paper_lines(epochs=200)) == "other budget"
    as_many_images = (
        {"steps": 1, "batch_size": 3200},
        {"epochs": 202, "steps": 400},
        {"epochs": 397, "warmup_epochs": 1},
        {"milestones": ()},
    )
    for budget in as_many_images:
        assert standing(paper_lines(**budget)) == "other budget"
    assert standing(paper_lines(images=1000)) == "other images"
    assert standing(paper_lines(teacher=90.0, epochs=20)) == "other teacher, other budget"
    assert standing(paper_lines(first_bits=8, last_bits=8)) == "other settings"
    assert standing(paper_lines(gradient="clipped")) == "other settings"
    assert standing(paper_lines(student_lr=3e-4)) == "other settings"
    assert standing(paper_lines("adadfq+akt", variant="published")).startswith("other settings")
    own = [{**each, "bench": {**each["bench"], "data": "mine"}} for each in paper_lines()]
    assert standing(own) == "other settings"
    assert standing(paper_lines("hast")) == "paper's budget unknown"
    assert standing(paper_lines("ptq")) == "no number"
    assert standing([line("adadfq", s, 84.9) for s in range(3)]) == "other bench"
    diverged = {**paper_lines()[0], "status": "failed"}
    diverged["settings"] = {**diverged["settings"], "seed": 9}
    assert standing([*paper_lines(), diverged]) == "not reproduced"


CELL = {"evaluation_images": 10_000, "student_images": 1_267_200, "runs": 35, "diverged": 0,
        "teacher": 94.0, "best": 85.0, "best_high": 85.05, "as_published": True,
        "budget_as_published": True}  # fmt: skip
ADADFQ = next(row for row in reference() if row["method"] == "adadfq")


def test_one_published_run_must_lie_where_one_more_of_ours_would():
    """Not inside the interval of our mean, which shrinks to nothing with more seeds."""
    assert standing_of(CELL, {**ADADFQ, "top1": "84.75"}) == "reproduced"
    assert standing_of(CELL, {**ADADFQ, "top1": "84.65"}) == "not reproduced"
    assert standing_of({**CELL, "best_high": 85.2}, ADADFQ) == "interval too wide"


def test_where_runs_diverged_the_others_prove_nothing(tmp_path):
    plain = [line("adadfq", s, 80 + s) for s in range(5)]
    akt = [line("adadfq+akt", s, 81 + s, status="done" if s < 2 else "failed") for s in range(5)]
    cell = cells_of(tmp_path, *plain, *akt).set_index("method").loc["adadfq+akt"]
    assert cell["verdict"] == "3 of 5 diverged"
    assert cell["gain_last"] == pytest.approx(1)
    plain[0]["status"] = "failed"
    cell = cells_of(tmp_path, *plain, *akt).set_index("method").loc["adadfq+akt"]
    assert cell["verdict"] == "4 of 5 diverged"


def test_the_teacher_may_differ_by_0_2():
    cell = {**CELL, "runs": 3, "best_high": 85.5}
    assert standing_of({**cell, "teacher": 94.08}, ADADFQ) == "reproduced"
    assert standing_of({**cell, "teacher": 94.10}, ADADFQ) == "other teacher"


def test_every_source_is_printed(tmp_path):
    text = tables.to_markdown(cells_of(tmp_path, *paper_lines("gdfq", (72.0, 72.5))))
    assert "72.23†" in text
    assert "AKT, arXiv 2412.19125, Table 2, the authors' re-run" in text
    assert "75.11 in AdaDFQ, CVPR 2023, its table" in text
    text = tables.to_markdown(cells_of(tmp_path, *paper_lines("hast", (84.0, 84.5))))
    assert "| 84.11† | " in text  # by AKT's authors, who compare with it; HAST's own is told, too
    assert "86.34 in HAST, CVPR 2023, as quoted in SynQ, ICLR 2025, Table 1" in text


# ---- formats and the command --------------------------------------------------------------------


@pytest.fixture
def results(tmp_path):
    lines = [line("adadfq", s, 80 + s) for s in range(3)]
    lines += [line("adadfq+akt", s, 81 + 1.1 * s) for s in range(3)]
    return write(tmp_path / "results.jsonl", *lines, *paper_lines())


def test_csv_and_json_hold_every_number(results, capsys, tmp_path):
    cells = summarise(tables.load([results]))
    assert main(["table", "--results", str(results), "--format", "csv"]) == 0
    from_csv = pd.read_csv(io.StringIO(capsys.readouterr().out))
    out = tmp_path / "new" / "table.json"
    assert main(["table", "--results", str(tmp_path), "--format", "json", "--out", str(out)]) == 0
    from_json = pd.DataFrame(json.loads(out.read_text()))
    numbers = cells.select_dtypes("number").columns
    assert {"last", "last_low", "best_high", "gain_last", "paper", "runs"} <= set(numbers)
    for got in (from_csv, from_json):
        assert list(got.columns) == list(cells.columns)
        np.testing.assert_allclose(got[numbers].astype(float), cells[numbers].astype(float))
        assert got["standing"].tolist() == cells["standing"].tolist()


def test_markdown_to_stdout(results, capsys, monkeypatch, tmp_path):
    (tmp_path / "results").mkdir()
    results.rename(tmp_path / "results" / "mine.jsonl")
    monkeypatch.chdir(tmp_path)
    assert main(["table"]) == 0
    text = capsys.readouterr().out
    rows = [r for r in text.splitlines() if r.startswith("|")]
    assert {row.count("|") for row in rows} == {15}
    assert (
        "| digits | 3w3a | 3.32, 3.00 | adadfq+akt `paper` | 99.00 | 640 | 3 | 82.10 ± 2.73 |"
        in text
    )
    assert "reproduced" in text


def test_mistakes_are_one_line(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.jsonl").write_text('{"run": "x"}\n')
    (tmp_path / "worse.jsonl").write_text("[1]\n")
    (tmp_path / "empty.jsonl").write_text("")
    for arguments, words in (
        ([], "no results/*.jsonl here"),
        (["--results", "none.jsonl"], "cannot be read"),
        (
            ["--results", "bad.jsonl"],
            "bad.jsonl, line 1, is damaged (not a run's: no accuracy, bench, evaluation_images",
        ),
        (["--results", "worse.jsonl"], "worse.jsonl, line 1, is damaged (no JSON object)"),
        (["--results", "empty.jsonl"], "no runs in empty.jsonl"),
    ):
        assert main(["table", *arguments]) == 1
        error = capsys.readouterr().err
        assert words in error
        assert len(error.splitlines()) == 1
    with pytest.raises(AktError, match="cannot be read"):
        tables.load([tmp_path])
