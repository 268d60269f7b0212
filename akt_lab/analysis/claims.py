"""The paper's claims, each tested on what lies in files: results of sweeps, and data of figures.

No number is written here: an effect comes from a file, and another file gives another. Claims for
which nothing is stored have a row, too, that names the command which would decide them.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from akt_lab.analysis.gradients import FIRST_STEPS, explosion
from akt_lab.analysis.intervals import mean_interval
from akt_lab.analysis.tables import as_text, reference
from akt_lab.analysis.verdicts import Evidence, Verdict, decide
from akt_lab.benches import BenchSpec
from akt_lab.errors import AktError
from akt_lab.files import damaged
from akt_lab.methods import get_method
from akt_lab.runs import experiments
from akt_lab.runs.results import METRICS, Line, read, row
from akt_lab.settings import Settings

# Margins: effects below them, nobody would mind. Each word is shown for others, too.
POINTS = 0.25  # of accuracy
BURST, CALM, COST = 2.0, 1.25, 1.25  # times
PAPERS_BITS, BEYOND = (3, 4, 5), (2,)
MANY_BITS = 8


# ---- accuracy -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """AKT in one form, against the same without it.

    Attributes:
        name: of the form with AKT.
        akt, plain: settings of both, seed 0.
        command: what makes the runs.
    """

    name: str
    akt: Settings
    plain: Settings
    command: str


def comparisons() -> Iterator[Comparison]:
    """The experiment's arms; and `paper` with balanced lambdas, GDFQ's, and AKT on our recipe."""
    given = "--weights FILE --data DIR"
    for bits in (3, 4, 5):
        plain, *arms = experiments.accuracy(bits).values()
        command = f"akt-lab sweep --experiment accuracy --bits {bits} --seeds {{seeds}} {given}"
        for akt in arms:
            lam = f", lambda {akt.lam:g}" if akt.lam else ""
            name = f"AKT `{akt.variant}`{lam}"
            if akt.variant == "placebo":
                name = "a placebo (the maps' mean squared error)"
            yield Comparison(name, akt, plain, f"{command} --out runs/accuracy")
    budget: dict[str, Any] = {**experiments.BUDGET, "weight_bits": 3, "act_bits": 3}
    options = " ".join(
        f"--{name.replace('_', '-')} {' '.join(map(str, value)) if name == 'milestones' else value}"
        for name, value in experiments.BUDGET.items()
    )
    for base, variant, name in (
        ("adadfq", "paper", "AKT `paper`, lambda balanced for each seed"),
        ("gdfq", "paper", "AKT `paper`, lambda balanced for each seed"),
        ("adadfq-lsq", "code", "AKT `code`, on top of the recipe"),
    ):
        command = (
            f"akt-lab sweep --bench cifar10 --bits 3 --methods {base} {base}+akt --variants "
            f"{variant} --seeds {{seeds}} {options} {given} --out runs/{base}"
        )
        yield Comparison(
            name,
            Settings(**budget, method=f"{base}+akt", variant=variant),
            Settings(**budget, method=base),
            command,
        )


LENGTH = ("epochs", "milestones")  # in these, a longer run of the same kind may differ
NO_MATTER = ("seed", "eval_every", "compile", "deterministic")


def _kind(settings: Settings) -> str:
    """What runs have in common that differ in seed and length alone."""
    values = {k: v for k, v in settings.to_dict().items() if k not in (*LENGTH, *NO_MATTER)}
    return json.dumps(values, sort_keys=True)


def _runs(results: Path) -> pd.DataFrame:
    """Every run of results/*.jsonl: its kind, what its partner must share, and what came out."""
    found = [(path, line) for path in sorted(results.glob("*.jsonl")) for line in read(path)]
    teachers = {
        _teacher(line): prints["teacher"]
        for _, line in found if "teacher" in (prints := line.get("fingerprints", {}))
    }  # fmt: skip
    rows: list[dict[str, Any]] = []
    for path, line in found:
        settings, about = Settings.from_dict(line["settings"]), row(line)
        spec = {**BenchSpec.from_dict(line["bench"]).to_dict(), "train_data": None}
        known = teachers.get(_teacher(line), str(line["teacher_accuracy"]))
        teacher = line.get("fingerprints", {}).get("teacher", known)
        pair = [spec, teacher, line["evaluation_images"], settings.epochs, settings.milestones]
        rows.append(
            {"kind": _kind(settings), "file": str(path), "teacher": teacher,
             "partner": json.dumps([settings.seed, *pair]),
             "length": json.dumps([about["bench"], settings.epochs, settings.milestones]),
             **{name: about[name] for name in ("bench", "student_images", "images", "ended")},
             **{metric: about[metric] for metric in METRICS}}
        )  # fmt: skip
    return pd.DataFrame(rows)


def _teacher(line: Line) -> str:
    """Tells teachers apart where older lines have no fingerprint: name and accuracy."""
    spec = BenchSpec.from_dict(line["bench"])
    return json.dumps([spec.name, spec.weights, line["teacher_accuracy"]])


def accuracy(results: Path) -> list[Evidence]:
    """AKT minus plain in points, by the last epoch, paired by seed; see `comparisons`.

    Runs of another length have a row of their own. Runs of another kind count for nothing.
    """
    runs = _runs(results)
    found: list[Evidence] = []
    for c in comparisons():
        if runs.empty:
            found.append(_gain(c, pd.DataFrame(), results))
            continue
        akt, plain = (runs[runs["kind"] == _kind(settings)] for settings in (c.akt, c.plain))
        shared = ["partner", "length", "bench", "teacher", "student_images"]
        pairs = akt.merge(plain, on=shared, suffixes=("", "_plain"))
        pairs = pairs.drop_duplicates("partner", keep="last")
        if pairs.empty:
            found.append(_gain(c, pairs, results))
        found += [_gain(c, alike, results) for _, alike in pairs.groupby("length", sort=False)]
    return found


def _gain(c: Comparison, pairs: pd.DataFrame, results: Path) -> Evidence:
    """What one comparison's pairs of one length say."""
    base, bits = get_method(c.akt.method).plain, c.akt.weight_bits
    bench, images, length = experiments.BENCH, _student_images(c.akt), ""
    values: list[float] = []
    teachers: list[str] = []
    files, command, grain = [str(results / "*.jsonl")], c.command, 0.0
    more: dict[str, Any] = {"bits": bits, "paper": _paper_s_gain(c, bench)}
    if not pairs.empty:
        bench, images = pairs["bench"].iloc[0], int(pairs["student_images"].iloc[0])
        both = pairs["ended"] & pairs["ended_plain"]
        gains = {m: (pairs[m] - pairs[f"{m}_plain"]).where(both) for m in METRICS}
        values, teachers = gains["last"].tolist(), pairs["teacher"].tolist()
        files = sorted({*pairs["file"], *pairs["file_plain"]})
        grain = 100 / float(pairs["images"].iloc[0]) * math.sqrt(2)
        for metric in METRICS[1:]:  # the other readings, each interval for itself
            more[metric] = [*mean_interval(gains[metric].dropna().tolist(), grain)]
        more |= {"plain": float(pairs["last_plain"][both].mean()), "images": images}
        more["paper"] = _paper_s_gain(c, bench)
        length = pairs["length"].iloc[0]
        _, epochs, milestones = json.loads(length)
        if epochs != c.akt.epochs:
            command += f" --epochs {epochs} --milestones {' '.join(map(str, milestones))}"
    return Evidence(
        claim=f"{c.name} raises {base}'s accuracy at {bits} bits ({as_text(bench)}, "
        f"{images:,} images)",
        values=values,
        unit="points",
        margin=POINTS,
        file=", ".join(files),
        command=command,
        teachers=teachers,
        family=f"accuracy {length}",
        grain=grain,
        more={k: _no_nan(v) for k, v in more.items()},
    )


def _student_images(s: Settings) -> int:
    return (s.epochs - s.warmup_epochs) * s.steps * s.batch_size


def _paper_s_gain(c: Comparison, bench: str) -> float | None:
    """AKT minus plain as published, in points; None where it is not."""
    top1 = {
        r["method"]: float(r["top1"]) for r in reversed(reference())  # the first of a cell counts
        if r["bench"] == bench and r["bits"] == str(c.akt.weight_bits)
    }  # fmt: skip
    if c.akt.variant == "placebo" or not {c.akt.method, c.plain.method} <= top1.keys():
        return None
    return round(top1[c.akt.method] - top1[c.plain.method], 2)


def _no_nan(value: Any) -> Any:
    if isinstance(value, list):
        return [_no_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# ---- what figures show --------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """A figure's data: its table, its file, and the command that makes both."""

    table: pd.DataFrame
    file: str
    command: str


def _ratios(
    table: pd.DataFrame, value: str, over: str, high: Any, low: Any, pair: Sequence[str]
) -> tuple[list[float], list[str]]:
    """How many times the value is at `high` what it is at `low`, pair by pair, and their teachers.

    A pair shares its teacher, where the table names teachers, and all that `pair` names.
    """
    keys = [k for k in ("teacher", *pair) if k in table]
    both = [table[table[over] == side].set_index(keys)[value] for side in (high, low)]
    joined = pd.concat(both, axis=1, join="inner", keys=["high", "low"])
    teachers = (
        [str(t) for t in joined.index.get_level_values("teacher")] if "teacher" in keys else []
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        return [float(v) for v in joined["high"] / joined["low"]], teachers


MEASURES = {  # columns of gradients_by_bits, in words
    "relative_norm": "the usual gradient is larger at {} bits than at 8 (as the loss itself is)",
    "explosion": "bursts, the largest gradient over the usual one, are larger at {} bits than at 8",
    "explosion_later": f"bursts after the first {FIRST_STEPS} steps are larger at {{}} bits than "
    "at 8",
}
CALMS = {
    "kd_tail": "99th percentile over median",
    "kd_spread": "spread of its logarithm",
}


def of_gradients(source: Source) -> Iterator[Evidence]:
    """From gradients_by_bits: do plain distillation's gradients explode, and does AKT calm them?

    Runs of one length, seed by seed. Of AKT the same quantity as of plain distillation: the norm of
    the distillation loss's gradient alone, along the way that its student takes.
    """
    table = source.table
    usual = (table["gradient"] == "identity") & (table["ranges"] == "ema")
    table, plain = table[usual], table[usual & (table["loss"] == "kd")]
    for (value, words), bits in product(MEASURES.items(), (*PAPERS_BITS, *BEYOND)):
        values, teachers = _ratios(plain, value, "bits", bits, MANY_BITS, ["seed", "steps"])
        yield Evidence(
            f"plain distillation: {words.format(bits)}", values, "times", BURST, source.file,
            source.command, teachers, f"{source.file} {value}",
        )  # fmt: skip
    measured = {*CALMS} <= {*table}  # older data have not: a row a variant says so
    places, measures = ((3, 2), [*CALMS.items()]) if measured else ((3,), [*CALMS.items()][:1])
    for variant, bits, (value, words) in product(("paper", "code"), places, measures):
        at = table[table["bits"] == bits]
        values, teachers = [], []
        if measured:
            values, teachers = _ratios(at, value, "loss", "kd", variant, ["seed", "steps"])
        yield Evidence(
            f"AKT `{variant}` calms distillation's gradient at {bits} bits: {words}", values,
            "times", CALM, source.file, source.command, teachers, f"{source.file} {value}",
        )  # fmt: skip


def of_layers(source: Source) -> Iterator[Evidence]:
    """From gradients_by_layer: do gradients grow on their way back through the network?"""
    plain = source.table[source.table["loss"] == "kd"]
    keys = [k for k in ("teacher", "seed", "bits") if k in plain]
    ends = plain.groupby(keys, sort=False)["relative"].agg(["first", "last"])
    ends = (ends["first"] / ends["last"]).rename("growth").reset_index()
    ends = ends if "seed" in ends else ends.assign(seed="median of its seeds")
    for bits in (*PAPERS_BITS, *BEYOND):
        values, teachers = _ratios(ends, "growth", "bits", bits, MANY_BITS, ["seed"])
        yield Evidence(
            "plain distillation: the gradient grows more from the last layer to the first at "
            f"{bits} bits than at 8", values, "times", BURST, source.file, source.command,
            teachers, source.file,
        )  # fmt: skip


def of_trainings(source: Source) -> Iterator[Evidence]:
    """From training_by_bits: bursts of whole plain trainings, with a generator that learns."""
    plain = source.table[~source.table["method"].astype(str).str.endswith("+akt")]
    keys = [k for k in ("teacher", "name", "method", "bits", "seed") if k in plain]
    norms = plain.groupby(keys, sort=False)["gradient_norm"]
    bursts = norms.agg(burst=lambda steps: explosion(steps).ratio, length="size").reset_index()
    methods = dict(zip(bursts["name"], bursts["method"], strict=True)) or {"adadfq": "adadfq"}
    for name, method in methods.items():
        of_name = bursts[bursts["name"] == name]
        there = [b for b in (*PAPERS_BITS, *BEYOND) if (of_name["bits"] == b).any()] or [3]
        for bits in there:
            values, teachers = _ratios(
                of_name, "burst", "bits", bits, MANY_BITS, ["seed", "length"]
            )
            command = (
                f"akt-lab sweep OPTIONS --methods {method} --bits {bits} 8 --seeds {{seeds}} --out "
                "runs/bits; akt-lab figures training_by_bits --runs runs/bits --out figures/bits"
            )
            yield Evidence(
                f"plain {as_text(str(name))}, a whole training: bursts are larger at {bits} bits "
                "than at 8", values, "times", BURST, source.file, command, teachers,
                f"{source.file} {name}",
            )  # fmt: skip


def of_costs(source: Source) -> Iterator[Evidence]:
    """From error_cost: do errors that change attention cost more than the rest?

    Per unit of squared error (geometric mean over layers), and in sum. A batch of images is one
    value: layers of one network are no sample of anything.
    """
    table = source.table if "seed" in source.table else source.table.assign(seed=0)
    keys = [k for k in ("teacher", "seed", "bits", "part") if k in table]
    log = table.assign(unit=np.log(table["against_random"].where(table["against_random"] > 0)))
    of = log.groupby(keys).agg(unit=("unit", "mean"), sum=("cost", "sum")).reset_index()
    of["unit"] = np.exp(of["unit"])
    for (how, words), bits, part in product(
        {"unit": "per unit", "sum": "in sum"}.items(), (3, 2), ("spatial", "channel")
    ):
        at = of[of["bits"] == bits]
        values, teachers = _ratios(at, how, "part", part, "rest", ["seed"])
        yield Evidence(
            f"an error's {part} part, the map's own scale included, costs more than the rest at "
            f"{bits} bits, {words}", values, "times", COST, source.file, source.command, teachers,
            f"{source.file} {how}",
        )  # fmt: skip


@dataclass(frozen=True)
class Judge:
    """What a figure's data say: the function, the columns that it reads, who sets its seeds."""

    of: Callable[[Source], Iterator[Evidence]]
    columns: Sequence[str]
    seeds_by: str = ""


EFFORT = "`effort` in akt_lab/analysis/studies.py"
JUDGES: Mapping[str, Judge] = {
    "gradients_by_bits": Judge(
        of_gradients, ("bits", "loss", "gradient", "ranges", "seed", "steps", *MEASURES), EFFORT
    ),
    "gradients_by_layer": Judge(of_layers, ("bits", "loss", "layer", "relative"), EFFORT),
    "training_by_bits": Judge(of_trainings, ("name", "method", "bits", "seed", "gradient_norm")),
    "error_cost": Judge(
        of_costs, ("bits", "layer", "part", "cost", "against_random"),
        "`COST_SEEDS` in akt_lab/analysis/studies.py",
    ),
}  # fmt: skip


def of_figure(path: Path) -> list[Evidence]:
    """What one figure's data say; where the file is not there, its claims without a value.

    Raises:
        DamagedError: if it is not such data.
    """
    judge, command = JUDGES[path.stem], f"akt-lab figures {path.stem}"
    try:
        table = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=[*judge.columns])
        if missing := {*judge.columns} - {*table}:
            raise ValueError(f"no column {sorted(missing)[0]}")
        found = judge.of(Source(table, str(path), _command(path) or command))
        return [replace(evidence, seeds_by=judge.seeds_by) for evidence in found]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise damaged(path, error, f"draw it again: {command}") from error


def _command(path: Path) -> str:
    """By which a figure was drawn, as it stands beside its data; empty where nothing does."""
    try:
        return str(json.loads(path.with_suffix(".json").read_bytes()).get("command", ""))
    except (OSError, ValueError, AttributeError):
        return ""


# ---- all of them --------------------------------------------------------------------------------


def judge(folder: Path) -> list[Verdict]:
    """A verdict on every claim of whose figure the data lie in `folder`.

    Raises:
        DamagedError: if it is not such data.
    """
    paths = (folder / f"{name}.csv" for name in JUDGES)
    return decide(e for path in paths if path.exists() for e in of_figure(path))


def claims(results: Path) -> list[Verdict]:
    """A verdict on every claim, from results/*.jsonl and figures' data in or beside the folder.

    Figures' data may lie in `results` itself, in results/figures or in figures/ beside it, or one
    folder further down.

    Raises:
        AktError: if there is no such folder.
        DamagedError: if a file is not what was written.
    """
    if not results.is_dir():
        raise AktError(f"{results} is no folder: name one with results by --results")
    beside = results.parent / "figures"
    return decide(
        [*accuracy(results), *_of_figures((results, results / "figures", beside), beside)]
    )


def _of_figures(folders: Iterable[Path], usual: Path) -> Iterator[Evidence]:
    """Of every such file in these folders and one further down; of a figure without one, too."""
    for name in JUDGES:
        places = [p for f in folders for p in (f, *sorted(f.glob("*/")))]
        paths = {p.resolve(): p for place in places if (p := place / f"{name}.csv").exists()}
        for path in paths.values() or [usual / f"{name}.csv"]:
            yield from of_figure(path)


def page(folder: Path) -> str:
    """The verdicts of a folder of figures as Markdown, or nothing where there is no data."""
    found = judge(folder)
    if not found:
        return ""
    note = (
        "A claim is *supported* where the whole interval lies above its margin, *contradicted* "
        "where it lies below, *undecided* in between. Intervals are 95%, corrected where one "
        "question is asked at several bit-widths (Holm). `akt-lab verdicts` prints all claims."
    )
    return f"## Verdicts\n\n{note}\n\n{to_markdown(found, on_page=True)}"


def to_markdown(found: Sequence[Verdict], on_page: bool = False) -> str:
    """A table to read: a row a claim; on a folder's page with links to its figures."""

    def source(v: Verdict) -> str:
        name = Path(v.file).stem
        return f"[{name}](#{name.replace('_', '-')})" if on_page else v.file

    head = ["claim", "effect", "interval", "n", "teachers", "word", "other margins", "to decide"]
    head += ["figure" if on_page else "file"]
    rows = [[*_cells(v), source(v)] for v in found]
    lines = (f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))
    return "\n".join(lines)


def _cells(v: Verdict) -> list[str]:
    form = "+.2f" if v.unit == "points" else ".3g"
    effect = "–" if math.isnan(v.effect) else f"{v.effect:{form}} {v.unit}"
    ends = "–" if math.isnan(v.low) else f"{v.low:{form}} to {v.high:{form}}"
    margin = f"**{v.word}** (margin {v.margin:g})"
    return [v.claim, effect, ends, str(v.n), str(v.teachers), margin, v.limits, v.decide]
