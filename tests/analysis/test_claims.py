"""Claims are judged by what lies in files: another number there, another number here."""

import json
import math
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from akt_lab.analysis import claims
from akt_lab.analysis.claims import JUDGES, accuracy, comparisons, judge, of_figure, page
from akt_lab.analysis.verdicts import CONTRADICTED, SUPPORTED, UNDECIDED, decide
from akt_lab.commands import parser
from akt_lab.errors import AktError, DamagedError
from akt_lab.runs import experiments

ROOT = Path(__file__).parents[2]
PLAIN, CODE, *_ = experiments.accuracy(3).values()
NAME = "AKT `code` raises adadfq's accuracy at 3 bits"


def line(settings, last, seed=0, teacher="a", status="done", **others):
    settings = replace(settings, seed=seed)
    found = {
        "run": f"{settings.label}-{seed}", "status": status, "bench": {"bench": "cifar10"},
        "settings": settings.to_dict(), "teacher_accuracy": 86.8, "evaluation_images": 10000,
        "accuracy": {"last": last, "label_free": last - 1, "best": last + 1},
        "fingerprints": {"teacher": teacher}, **others,
    }  # fmt: skip
    return {k: v for k, v in found.items() if v is not None}


def pairs(gains, plain=PLAIN, akt=CODE, **others):
    return [
        line(settings, 78.0 + seed + gain, seed, **others)
        for seed, of in enumerate(gains) for settings, gain in ((plain, 0.0), (akt, of))
    ]  # fmt: skip


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()

    def write(*lines, name="runs.jsonl"):
        (folder / name).write_text("".join(json.dumps(each) + "\n" for each in lines))
        return folder

    return write


def row(results, name=NAME):
    return {v.claim.partition(" (")[0]: v for v in decide(accuracy(results))}[name]


# ---- accuracy -----------------------------------------------------------------------------------


def test_pairs_by_seed(results):
    """The seeds' own levels differ by points, their differences hardly."""
    found = row(results(*pairs([1.0, 1.1, 0.9, 1.05])))
    assert found.effect == pytest.approx(1.0125)
    assert (found.n, found.teachers, found.word) == (4, 1, SUPPORTED)
    assert found.more["paper"] == 1.87  # the paper's table
    assert found.more["images"] == 12_800
    assert found.more["best"][0] == pytest.approx(1.0125)
    assert found.claim == f"{NAME} (cifar10, 12,800 images)"
    assert row(results(*pairs([0.1, 0.05, -0.1, 0.02]))).word == CONTRADICTED
    alone = [line(CODE, 80.0, seed) for seed in range(3)]
    assert row(results(*alone)).n == 0  # without a partner


def test_another_number_in_the_file_is_another_in_the_row(results):
    lines = pairs([1.0, 1.1, 0.9])
    before = row(results(*lines))
    lines[1]["accuracy"]["last"] += 3
    after = row(results(*lines))
    assert after.effect == pytest.approx(before.effect + 1)
    assert after.word != before.word


def test_a_pair_may_lie_in_two_files_and_older_lines_have_no_fingerprint(results):
    lines = pairs([1.0, 1.1, 0.9])
    results(*(line(PLAIN, 78.0 + s, s, fingerprints=None) for s in range(3)), name="old.jsonl")
    folder = results(*lines[1::2], *pairs([0.8] * 4)[6:], name="new.jsonl")
    found = row(folder)
    assert (found.n, found.teachers) == (4, 1)
    assert found.file == f"{folder}/new.jsonl, {folder}/old.jsonl"
    assert found.effect == pytest.approx(0.95)


def test_what_is_of_another_kind_counts_for_nothing(results):
    lines = pairs([1.0, 1.1, 0.9])
    others = [replace(PLAIN, student_lr=1e-3), replace(CODE, ranges="pnorm")]
    more = [line(other, 50.0, seed) for other in others for seed in range(3)]
    stranger = pairs([9.0], bench={"bench": "cifar10", "weights": "other.pth"})[1:]
    found = row(results(*lines, *more, *stranger))
    assert (found.n, found.effect) == (3, pytest.approx(1.0))


def test_longer_runs_have_a_row_of_their_own(results):
    longer = {"epochs": 82, "milestones": (50, 66)}
    more = pairs([0.1, 0.2, 0.1], *(replace(s, **longer) for s in (PLAIN, CODE)))
    found = decide(accuracy(results(*pairs([1.0, 1.1, 0.9]), *more)))
    decided = {v.more["images"]: v.decide for v in found if v.claim.startswith(NAME)}
    assert decided[128_000].endswith(" --epochs 82 --milestones 50 66`")
    images = {v.more["images"]: v.effect for v in found if v.claim.startswith(NAME)}
    assert images == {12_800: pytest.approx(1.0), 128_000: pytest.approx(0.4 / 3)}


def test_teachers_are_the_unit_where_there_are_several(results):
    lines = [each for n, t in enumerate("abc") for each in pairs([n, n + 0.1], teacher=t)]
    found = row(results(*lines))
    assert (found.n, found.teachers, found.word) == (6, 3, UNDECIDED)


def test_a_diverged_run_is_not_left_out(results):
    lines = pairs([1.0, 1.1, 0.9, 1.0])
    lines[1]["status"], lines[1]["accuracy"] = "failed", {}
    found = row(results(*lines))
    assert (found.n, found.lost, found.word) == (3, 1, UNDECIDED)


def test_every_command_that_would_decide_is_one_of_ours(results):
    """Its options are read, and its runs are those that the row counts."""
    for v in decide(accuracy(results())):
        assert (v.word, v.n) == (UNDECIDED, 0)
        (command,) = re.findall("`(akt-lab .*)`", v.decide)
        words = shlex.split(command.replace("{0..15}", "0 1"))[1:]
        options = parser().parse_args(words)
        assert options.seeds == [0, 1]
    for c in comparisons():
        akt, plain = c.akt.to_dict(), c.plain.to_dict()
        of_akt = {"method", "variant", "lam"}
        assert {k for k in akt if akt[k] != plain[k]} <= of_akt
        kind = claims._kind(replace(c.akt, seed=3, epochs=82))
        assert kind == claims._kind(c.akt)


# ---- what figures show --------------------------------------------------------------------------


def gradients(at, seeds=3, steps=40, **columns):
    """Rows as in gradients_by_bits.csv; at: {(bits, loss): burst}, a little other for each seed."""
    return pd.DataFrame(
        [
            {"bits": bits, "loss": loss, "gradient": "identity", "ranges": "ema", "seed": seed,
             "steps": steps, "relative_norm": 2.0 ** (9 - bits), "explosion": burst + seed / 100,
             "explosion_later": 2.0 + seed / 100,
             **{name: of[loss] * (1 + seed / 100) for name, of in columns.items()}}
            for (bits, loss), burst in at.items() for seed in range(seeds)
        ]
    )  # fmt: skip


CALM = {(b, loss): 3.0 for b in (2, 3, 4, 5, 8) for loss in ("kd", "paper", "code")}


def words(table, folder, name="gradients_by_bits"):
    table.to_csv(folder / f"{name}.csv", index=False)
    return {v.claim.partition(" (")[0]: v for v in judge(folder)}


def test_bursts_are_held_against_those_at_many_bits(tmp_path):
    of = "plain distillation: bursts, the largest gradient over the usual one, are larger at 3 bits"
    calm = words(gradients(CALM), tmp_path)[f"{of} than at 8"]
    assert (calm.word, calm.n, calm.effect) == (CONTRADICTED, 3, pytest.approx(1, rel=0.01))
    burst = words(gradients({**CALM, (3, "kd"): 30.0}), tmp_path)[f"{of} than at 8"]
    assert (burst.word, burst.effect) == (SUPPORTED, pytest.approx(10, rel=0.01))
    akt = words(gradients({**CALM, (3, "code"): 30.0}), tmp_path)[f"{of} than at 8"]
    assert akt.word == CONTRADICTED  # AKT's runs say nothing of plain distillation
    of = "plain distillation: the usual gradient is larger at 4 bits than at 8"
    assert words(gradients(CALM), tmp_path)[of].effect == pytest.approx(16)


def test_runs_of_one_length_only_are_compared(tmp_path):
    """A maximum grows with the length of a run."""
    at8 = {key: burst for key, burst in CALM.items() if key[0] == 8}
    table = pd.concat([gradients(CALM), gradients(at8, steps=4000).assign(explosion=300.0)])
    found = words(table, tmp_path).values()
    assert {v.n for v in found if v.claim.startswith("plain")} == {3}
    low = {key: burst for key, burst in CALM.items() if key[0] != 8}
    longer = pd.concat([gradients(low), gradients(at8, steps=4000)])
    assert {v.n for v in words(longer, tmp_path).values() if v.claim.startswith("plain")} == {0}


def test_akt_calms_only_the_gradient_of_the_same_loss(tmp_path):
    of = "AKT `code` calms distillation's gradient at 3 bits: 99th percentile over median"
    before = words(gradients(CALM), tmp_path)[of]
    assert (before.word, before.n) == (UNDECIDED, 0)
    assert before.decide == "`akt-lab figures gradients_by_bits`"
    apart = {"kd": 4.0, "paper": 4.0, "code": 2.0}
    found = words(gradients(CALM, kd_tail=apart, kd_spread=apart), tmp_path)
    assert (found[of].word, found[of].effect) == (SUPPORTED, pytest.approx(2))
    assert found[of.replace("code", "paper")].word == CONTRADICTED


def test_growth_through_depth(tmp_path):
    table = pd.DataFrame(
        [{"loss": "kd", "layer": layer, "bits": bits, "seed": seed, "relative": size * grows}
         for bits, grows in ((8, 1.0), (3, 4.0)) for seed in (0, 1, 2)
         for layer, size in (("first", 2.0 + seed / 100), ("middle", 9.0), ("last", 1 / grows))]
    )  # fmt: skip
    found = [*words(table, tmp_path, "gradients_by_layer").values()]
    at3 = next(v for v in found if "at 3 bits" in v.claim)
    assert (at3.effect, at3.n, at3.word) == (pytest.approx(4), 3, SUPPORTED)
    medians = words(table.drop(columns="seed").drop_duplicates(), tmp_path, "gradients_by_layer")
    assert UNDECIDED in {v.word for v in medians.values()}


def test_whole_trainings_of_plain_runs_alone(tmp_path):
    def steps(method, bits, seed, last, length=20):
        norms = [1.0] * (length - 1) + [last + seed / 100]
        given = {"name": method, "method": method, "bits": bits, "seed": seed}
        return pd.DataFrame({**given, "gradient_norm": norms})

    runs = [
        steps("adadfq", b, seed, last) for b, last in ((3, 40.0), (8, 2.0)) for seed in range(3)
    ]
    akt = [steps("adadfq+akt", b, 0, 1000.0) for b in (3, 8)]
    longer = [steps("adadfq", 8, 9, 500.0, length=99), steps("adadfq", 3, 9, 2.0)]
    (found,) = words(pd.concat([*runs, *akt, *longer]), tmp_path, "training_by_bits").values()
    assert (found.effect, found.n, found.word) == (pytest.approx(20, rel=0.01), 3, SUPPORTED)
    (alone,) = words(pd.concat(runs[:3]), tmp_path, "training_by_bits").values()
    assert (alone.n, alone.word) == (0, UNDECIDED)
    assert "--methods adadfq --bits 3 8 --seeds {0..15}" in alone.decide


def test_costs_per_unit_and_in_sum(tmp_path):
    """Dear per unit is not dear in sum; and one batch decides nothing."""
    parts = {"spatial": (4.0, 1.0), "channel": (1.0, 1.0), "rest": (1.0, 2.0)}
    table = pd.DataFrame(
        [{"part": part, "layer": layer, "bits": bits, "seed": seed, "cost": cost + seed / 100,
          "against_random": unit * 4.0**layer}
         for part, (unit, cost) in parts.items() for layer in (0, 1) for bits in (2, 3)
         for seed in (0, 1, 2)]
    )  # fmt: skip
    of = "an error's spatial part, the map's own scale included, costs more than the rest at 3 bits"
    found = words(table, tmp_path, "error_cost")
    assert found[f"{of}, per unit"].word == SUPPORTED
    assert found[f"{of}, per unit"].effect == pytest.approx(4)
    assert found[f"{of}, in sum"].word == CONTRADICTED
    once = words(table[table["seed"] == 0].drop(columns="seed"), tmp_path, "error_cost")
    assert once[f"{of}, per unit"].effect == pytest.approx(4)
    assert (once[f"{of}, per unit"].n, once[f"{of}, per unit"].word) == (1, UNDECIDED)


@pytest.mark.parametrize("name", JUDGES)
def test_a_changed_number_in_a_figure_s_data_changes_a_row(name, tmp_path):
    """Of our own data, as they lie in figures/."""
    path = tmp_path / f"{name}.csv"
    shutil.copy(ROOT / "figures" / path.name, path)
    table = pd.read_csv(path)
    before = [v.row() for v in judge(tmp_path)]
    plain = table["bits"] == 3
    if name == "training_by_bits":  # the run at 3 bits is one at 8 now
        table.loc[plain & (table["method"] == "adadfq"), "bits"] = 8
    else:
        plain &= (table["loss"] == "kd") if "loss" in table else True
        column = {"gradients_by_layer": "relative", "error_cost": "cost"}.get(name, "explosion")
        table.loc[table.index[plain][0], column] *= 2
    table.to_csv(path, index=False)
    after = [v.row() for v in judge(tmp_path)]
    assert before
    assert before != after


def test_a_figure_that_was_not_drawn_has_its_rows(tmp_path):
    for name in JUDGES:
        rows = decide(of_figure(tmp_path / f"{name}.csv"))
        assert rows
        assert {(v.n, v.word) for v in rows} == {(0, UNDECIDED)}
        assert all(f"akt-lab figures {name}" in v.decide for v in rows)


def test_damaged_data_are_named(tmp_path):
    for text in ("", "bits\n3\n", "\0"):
        (tmp_path / "error_cost.csv").write_text(text)
        with pytest.raises(DamagedError, match=r"error_cost\.csv is damaged"):
            judge(tmp_path)


# ---- all of them --------------------------------------------------------------------------------


def test_figures_beside_the_results_count_once(tmp_path, results):
    folder = results(*pairs([1.0, 1.1]))
    for place in (tmp_path / "figures", tmp_path / "figures" / "more", folder):
        place.mkdir(exist_ok=True)
        gradients(CALM).to_csv(place / "gradients_by_bits.csv", index=False)
    files = [v.file for v in claims.claims(folder) if "gradients_by_bits" in v.file]
    assert {files.count(f) for f in files} == {len(judge(folder))}
    assert {Path(f).parent for f in files} == {
        folder, tmp_path / "figures", tmp_path / "figures" / "more"
    }  # fmt: skip
    with pytest.raises(AktError, match="is no folder"):
        claims.claims(tmp_path / "nowhere")


def test_a_page_of_what_was_measured_and_no_more(tmp_path):
    assert page(tmp_path) == ""
    gradients(CALM).to_csv(tmp_path / "gradients_by_bits.csv", index=False)
    found = page(tmp_path)
    assert found.startswith("## Verdicts")
    assert found.count("\n| ") == 2 + len(judge(tmp_path))
    assert "costs more than the rest" not in found
    assert "**contradicted** (margin 2)" in found
    assert "[gradients_by_bits](#gradients-by-bits)" in found


@pytest.mark.parametrize("folder", ["figures", "figures/photographs"])
def test_our_own_pages_say_what_their_data_say(folder, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert page(Path(folder)) in (ROOT / folder / "README.md").read_text()


def test_our_own_files_are_read():
    """Whatever they say by now: every row has a word, and no number comes from nowhere."""
    found = claims.claims(ROOT / "results")
    assert {v.word for v in found} <= {SUPPORTED, CONTRADICTED, UNDECIDED}
    assert all((v.n == 0) == math.isnan(v.effect) or v.lost for v in found)
    assert len({(v.claim, v.file) for v in found}) == len(found)
    known = {v.claim: v.n for v in found if v.n}
    assert any(claim.startswith(NAME) for claim in known)
