r"""What the recipe is worth on evaluation images, and each of its pieces: alone, and left out.

    python benchmarks/pieces.py --weights FILE --data TEST_IMAGES --train-data TRAINING_SPLIT
    python benchmarks/pieces.py --table results/recipe.jsonl results/photographs.jsonl

The recipe is a method of the package, chosen by benchmarks/recipe.py; what is run here chooses
nothing. Its pieces are the settings in which it differs from AdaDFQ, as the two methods have them.
A run's line is kept in --out as it ends, and what stands there is not done again. The table gives
each arm's accuracy after the last epoch, and how much that is above three others with the same
seeds: means and 95% t-intervals, in points.
"""

import argparse
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from recipe import BUDGET

from akt_lab.analysis.intervals import mean_interval
from akt_lab.benches import BenchSpec
from akt_lab.errors import AktError
from akt_lab.methods import get_method
from akt_lab.runs.jobs import Job
from akt_lab.runs.results import read
from akt_lab.runs.sweep import Place, run_grid
from akt_lab.settings import OF_METHOD, Settings

RECIPE, PLAIN = "adadfq-lsq", "adadfq"
AKT = {"variant": "code"}
AGAINST = [PLAIN, f"{PLAIN}+akt", RECIPE]


def arms(bits: int, times: int = 1) -> dict[str, Settings]:
    """What is compared, by name, at so many times the images of the experiment on photographs."""
    ours, plain = get_method(RECIPE), get_method(PLAIN)
    budget = {**BUDGET, "weight_bits": bits, "act_bits": bits}
    first = BUDGET["warmup_epochs"]

    def later(epoch: int) -> int:  # the warm-up stays as long as it is
        return first + times * (epoch - first)

    budget["epochs"] = later(BUDGET["epochs"])
    budget["milestones"] = tuple(map(later, BUDGET["milestones"]))
    budget["eval_every"] = 2 * times

    def arm(method: str, **others: Any) -> Settings:
        return Settings(**{**budget, "method": method, **others})

    found = {name: arm(name) for name in (PLAIN, RECIPE)}
    found |= {f"{name}+akt": arm(f"{name}+akt", **AKT) for name in (PLAIN, RECIPE)}
    for name in OF_METHOD:
        with_it, without = getattr(ours, name), getattr(plain, name)
        if with_it != without:
            found[f"{name} alone"] = arm(PLAIN, **{name: with_it})
            found[f"without {name}"] = arm(RECIPE, **{name: without})
    for name, ranges in (("pnorm", "pnorm"), ("ranges alone", ours.ranges)):  # and AKT on them
        found[name] = arm(PLAIN, ranges=ranges)
        found[f"{name}+akt"] = arm(f"{PLAIN}+akt", **AKT, ranges=ranges)
    pieces = {name: getattr(ours, name) for name in OF_METHOD if name != "pool"}
    return found | {"real": arm("real"), "real, recipe": arm("real", **pieces)}


def jobs(given: argparse.Namespace) -> list[Job]:
    """A run for each arm and seed, seed by seed."""
    files = {n: os.path.abspath(p) for n in ("weights", "data") if (p := getattr(given, n))}
    train = os.path.abspath(given.train_data) if given.train_data else None
    found = arms(given.bits, given.times)
    if unknown := set(given.arms or ()) - set(found):
        raise AktError(f"no arm {sorted(unknown)[0]!r}: there are {', '.join(found)}")
    made = []
    for seed in given.seeds:
        for name in given.arms or found:
            s = replace(found[name], seed=seed)
            spec = BenchSpec(given.bench, train_data=train if s.method == "real" else None, **files)
            slug = name.replace(", ", "-").replace(" ", "-")
            folder = f"{given.bench}-{slug}-{s.bits}-{given.times}x-{seed}"
            made.append(Job(s, spec, given.runs / folder))
    return made


def table(lines: list[dict[str, Any]]) -> pd.DataFrame:
    """A row an arm, bit-width and budget: accuracy and differences, each with its interval."""
    rows = []
    for line in lines:
        s = Settings.from_dict(line["settings"])
        alike = replace(s, seed=0)
        times = (s.epochs - s.warmup_epochs) // (BUDGET["epochs"] - BUDGET["warmup_epochs"])
        found = arms(s.weight_bits, max(1, times))
        names = [n for n, arm in found.items() if arm == replace(alike, eval_every=arm.eval_every)]
        if names and line["status"] == "done":
            about = {"bits": s.bits, "images": line["student_images"], "arm": names[0]}
            rows.append({**about, "seed": s.seed, "last": line["accuracy"]["last"]})
    runs = pd.DataFrame(rows, columns=["bits", "images", "arm", "seed", "last"])
    cells = []
    for (bits, images), group in runs.groupby(["bits", "images"]):
        by_arm = {arm: rows.set_index("seed")["last"] for arm, rows in group.groupby("arm")}
        for arm in [name for name in arms(3) if name in by_arm]:
            own = by_arm[arm]
            cell: dict[str, Any] = {"bits": bits, "images": images, "arm": arm, "runs": len(own)}
            cell["top-1"] = shown(mean_interval(own.tolist()), ".2f")
            for other in AGAINST:
                pairs = (own - by_arm[other]).dropna() if other in by_arm else []
                cell[f"− {other}"] = shown(mean_interval([*pairs]), "+.2f") if other != arm else ""
            cells.append(cell)
    return pd.DataFrame(cells)


def shown(interval: tuple[float, float, float], form: str) -> str:
    """Mean ± half the interval; the mean alone of one run, and nothing of none."""
    mean, _, high = interval
    if mean != mean:
        return ""
    return f"{mean:{form}}" + (f" ± {high - mean:.2f}" if high == high else "")


def to_markdown(cells: pd.DataFrame) -> str:
    """The table, to be pasted."""
    rows: list[Mapping[Any, Any]] = cells.to_dict("records")
    lines = [[*cells.columns], ["---"] * len(cells.columns), *([*row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def main() -> None:
    """Make the runs that are not there, and print the table of all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/recipe.jsonl"))
    parser.add_argument("--runs", type=Path, default=Path("runs/pieces"))
    parser.add_argument("--bench", default="cifar10")
    parser.add_argument("--weights")
    parser.add_argument("--data")
    parser.add_argument("--train-data", help="for the arms that learn from real images")
    parser.add_argument("--bits", type=int, default=3)
    parser.add_argument("--times", type=int, default=1, help="the images of the experiment")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4, 5])
    parser.add_argument("--arms", nargs="+", help="default: all")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--table", type=Path, nargs="+", help="only print that of these results")
    given = parser.parse_args()
    if not given.table:
        run_grid(jobs(given), place=Place(given.workers), results_file=given.out)
    print(to_markdown(table([line for path in given.table or [given.out] for line in read(path)])))


if __name__ == "__main__":
    try:
        main()
    except AktError as error:
        raise SystemExit(f"pieces.py: {error}") from error
