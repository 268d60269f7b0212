"""Whether students of different methods can be judged without labels, by one pool of images.

    python benchmarks/common_pool.py runs/photographs --data tune/ --out results/common_pool.csv

For each run that ended, a row: the student's KL to the teacher on the common pool
(`akt_lab/runs/agreement.py`), the same on its own held-out images as its record has it, and its
accuracy on the images in --data, which are to validate the pool once: never the run's evaluation
images, on which nothing is chosen. At the end, Spearman's rank correlation of accuracy with either
KL, negated: 1 where the KL orders the students as accuracy does. Over all runs, and within each
bit-width and each method. Rows that are there already are not made again.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from akt_lab.benches import Bench, BenchSpec, load_bench
from akt_lab.benches.folders import check_folder
from akt_lab.errors import AktError
from akt_lab.files import fingerprint, load_tensors, write_whole
from akt_lab.methods import get_method
from akt_lab.runs.agreement import common_kl, common_pool
from akt_lab.runs.folder import STUDENT, Run, find_runs
from akt_lab.runs.jobs import choose_device
from akt_lab.runs.networks import load_student
from akt_lab.runs.results import line_of, row
from akt_lab.runs.training import evaluate

JUDGED = ["run", "student", "pool", "data"]  # a row is of this student, on these images
ON = ["bench", "pool", "data"]  # rows of the same images can be compared
SCORES = ["accuracy", "common_kl", "synthetic_kl"]
FEWEST = 3  # runs to correlate


@cache
def bench_on(data: Path, spec: BenchSpec, device: str) -> Bench:
    """A run's bench with the images in `data` in place of its own."""
    return load_bench(replace(spec, data=str(data)), device)


def check_others(run: Run, data: Path, bench: Bench) -> None:
    """End where --data, which `bench` holds, is what a run was evaluated on, wherever it lies."""
    same = run.get("fingerprints", {}).get("images") == bench.fingerprints["images"]
    if same or (run.spec.data and Path(run.spec.data).resolve() == data.resolve()):
        sys.exit(
            f"common_pool.py: --data {data}: {run.folder} was evaluated on these images, which are "
            "to judge nothing else: name others, of the training split say"
        )


def judged(run: Run, bench: Bench, pool: Tensor) -> dict[str, Any]:
    """What a run was, and how its student does: KL in nats, the rest in percent."""
    about, (student, _) = row(line_of(run)), load_student(run, bench)
    names = ("bench", "method", "variant", "bits", "seed", "label", "student_images")
    return {
        **{name: about[name] for name in names},
        "ranges": about["settings"]["ranges"],
        **common_kl(student, bench.teacher, pool),
        "synthetic_kl": run.entry("evaluations")[-1]["synthetic_kl"],
        "accuracy": evaluate(student, bench),
        "settings": about["same"],  # all others, and the bench's
    }


def judge_all(runs: Sequence[Run], data: Path, out: Path, device: str) -> pd.DataFrame:
    """The table in `out`, with a row for each of the runs that ended; values are text."""
    table = pd.DataFrame(columns=JUDGED)
    if out.exists():
        table = pd.read_csv(out, dtype=str, keep_default_na=False)
    for run in runs:
        try:
            if not run.done:
                raise AktError(f"its status is {run.get('status', 'new')!r}")
            if get_method(run.settings.method).real:
                raise AktError("it may have learned from the images in --data")
            bench = bench_on(data, run.spec, device)
            check_others(run, data, bench)
            pool, student = common_pool(bench), load_tensors(run / STUDENT)[0]
            new: dict[str, Any] = {
                "run": run.folder.name,
                "student": fingerprint(student),
                "pool": fingerprint({"images": pool}),
                "data": bench.fingerprints["images"],
            }
            if (table[JUDGED] == [new[name] for name in JUDGED]).all(axis=1).any():
                continue
            new |= judged(run, bench, pool)
        except AktError as error:
            print(f"{run.folder} is left out: {error}", flush=True)
            continue
        table = pd.concat([table, pd.DataFrame([new]).astype(str)], ignore_index=True)
        write_whole(out, table.to_csv(index=False).encode())
        print(run.folder, *(f"{name} {new[name]:.4g}" for name in SCORES), flush=True)
    return table


def correlations(table: pd.DataFrame) -> pd.DataFrame:
    """Spearman's, of accuracy with the negated KLs, of all runs on the same images and of parts."""
    rows: list[dict[str, Any]] = []
    for on, same in table.astype(dict.fromkeys(SCORES, float)).groupby(ON):
        parts = [("all", same), *same.groupby("bits"), *same.groupby("label")]
        for name, part in parts:
            if len(part) >= FEWEST:
                found = -part[SCORES].corr("spearman")["accuracy"].drop("accuracy")
                about = dict(zip(ON, on, strict=True))
                rows.append(about | {"runs": name, "number": len(part), **found})
    return pd.DataFrame(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Judge the runs and print the correlations."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", help="folders with runs in them")
    parser.add_argument("--data", type=Path, required=True, help="a folder of images a class")
    parser.add_argument("--out", type=Path, default=Path("results/common_pool.csv"))
    parser.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    given = parser.parse_args(arguments)
    try:
        check_folder(given.data)
        runs = [run for folder in given.runs for run in find_runs(folder)]
        data, device = given.data.absolute(), choose_device(given.device)
        given.out.parent.mkdir(parents=True, exist_ok=True)
        table = judge_all(runs, data, given.out, device)
    except AktError as error:
        sys.exit(f"common_pool.py: {error}")
    found = correlations(table) if len(table) else table
    print(found.round(3).to_string(index=False) if len(found) else "too few runs to correlate")


if __name__ == "__main__":
    main()
