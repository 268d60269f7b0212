"""How much a digits student depends on its teacher: rounded only, by each rule for its ranges.

    python benchmarks/steady.py --out results/steady.csv

Another machine, or another PyTorch, adds in another order, so it trains another digits teacher;
other seeds do the same here. Each teacher's student is rounded as `make demo` does it, by the
same images for every rule. A row is one student. Then the mean, the standard deviation over
teachers and the range of each rule, and the difference of each from the first, teacher by teacher.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from akt_lab.analysis.intervals import mean_interval
from akt_lab.benches import load_bench
from akt_lab.benches.digits import DigitsNet, digits_split, train_digits_teacher
from akt_lab.files import write_whole
from akt_lab.runs.jobs import demo_settings
from akt_lab.runs.training import evaluate, train

RULES = ("ema", "minmax", "pnorm")


def rows(teachers: int, bits: int, rules: tuple[str, ...], steps: int) -> list[dict[str, Any]]:
    """A row for each teacher and rule."""
    (images, labels), _ = digits_split()
    first = load_bench("digits", progress=False)
    found = []
    for seed in tqdm(range(teachers), desc="teachers"):
        network = DigitsNet()
        train_digits_teacher(network, first.normalise(images), labels, progress=False, seed=seed)
        bench = replace(first, teacher=network)
        about = {"teacher": seed, "teacher_accuracy": evaluate(network, bench), "bits": bits}
        for rule in rules:
            settings = replace(demo_settings("ptq", bits, 0, steps), ranges=rule)
            student = train(bench, settings, progress=False).student
            found.append({**about, "ranges": rule, "accuracy": evaluate(student, bench)})
    return found


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """A row for each rule, over teachers."""
    by_rule = table.pivot(index="teacher", columns="ranges", values="accuracy")
    found = by_rule.agg(["mean", "std", "min", "max"]).T.loc[list(table["ranges"].unique())]
    against = by_rule.sub(by_rule[found.index[0]], axis=0)
    each = [mean_interval(against[rule].tolist()) for rule in found.index]
    return found.assign(
        gain=[e[0] for e in each], low=[e[1] for e in each], high=[e[2] for e in each]
    )


def main() -> None:
    """Measure, print, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teachers", type=int, default=8)
    parser.add_argument("--bits", type=int, default=3)
    parser.add_argument("--rules", nargs="+", default=RULES)
    parser.add_argument("--steps", type=int, default=50, help="an epoch, of the generator")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    table = pd.DataFrame(rows(given.teachers, given.bits, tuple(given.rules), given.steps))
    write_whole(given.out, table.to_csv(index=False).encode())
    print(summary(table).round(2).to_string())


if __name__ == "__main__":
    main()
