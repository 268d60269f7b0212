r"""Which pieces a recipe is made of, judged on the common pool of synthetic images alone.

    python benchmarks/recipe.py --weights FILE --data TRAINING_SPLIT
    python benchmarks/recipe.py --weights FILE --data TRAINING_SPLIT --on ranges=pnorm

AdaDFQ at the budget of the experiment on photographs, with what `--on` names, and then with one
switch more, each a run; a row says how far its student is from the teacher on images that none of
the compared methods made (`akt_lab/runs/agreement.py`). Rows are written once the runs have ended;
no row, and no choice, reads an accuracy. What has ended is not done again.
"""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from akt_lab.benches import BenchSpec, load_bench
from akt_lab.commands.options import SETTING_OPTIONS, given_settings
from akt_lab.errors import AktError
from akt_lab.files import write_whole
from akt_lab.runs.agreement import common_kl, common_pool
from akt_lab.runs.folder import Run
from akt_lab.runs.jobs import Job, choose_device
from akt_lab.runs.networks import load_student
from akt_lab.runs.sweep import run_grid
from akt_lab.settings import Settings

BUDGET: dict[str, Any] = {
    "method": "adadfq", "batch_size": 16, "student_lr": 3e-4, "epochs": 10, "steps": 100,
    "warmup_epochs": 2, "milestones": (6, 8), "eval_every": 10,
}  # fmt: skip
SWITCHES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "ranges pnorm": {"ranges": "pnorm"},
    "ranges learned": {"ranges": "learned"},
    "ranges learned 1e-3": {"ranges": "learned", "range_lr": 1e-3},
    "weights pnorm": {"weight_ranges": "pnorm"},
    "weights learned": {"weight_ranges": "learned"},
    "weights learned 1e-3": {"weight_ranges": "learned", "range_lr": 1e-3},
    "equalize": {"equalize": True},
    "chosen again": {"range_epochs": (4, 6, 8)},
    "clipped gradient": {"gradient": "clipped"},
    "low pass 8": {"low_pass": 8.0},
    "cosine": {"schedule": "cosine"},
    "average 0.99": {"average": 0.99},
    "rate 1e-4": {"student_lr": 1e-4},
    "rate 1e-3": {"student_lr": 1e-3},
    "generator rate 1e-4": {"generator_lr": 1e-4},
    "akt code": {"method": "adadfq+akt", "variant": "code"},
    "akt paper": {"method": "adadfq+akt", "variant": "paper"},
}


def given_on(texts: list[str]) -> dict[str, Any]:
    """The settings in `ranges=pnorm`, `average=0.99`, `equalize` and the like."""
    options = [part for text in texts for part in f"--{text.replace('_', '-')}".split("=")]
    parser = argparse.ArgumentParser(argument_default=argparse.SUPPRESS, prog="recipe.py --on")
    for option, how in SETTING_OPTIONS.items():
        parser.add_argument(option, **how)
    return given_settings(parser.parse_args(options))


def jobs(given: argparse.Namespace, base: Mapping[str, Any]) -> dict[str, Job]:
    """A run for each switch that changes something, by its name."""
    weights, data = (os.path.abspath(path) for path in (given.weights, given.data))
    spec = BenchSpec(given.bench, weights=weights, data=data)
    bits = {"weight_bits": given.bits, "act_bits": given.bits, "seed": given.seed}
    found: dict[Settings, str] = {}
    for name, switch in SWITCHES.items():
        if not given.switches or name in given.switches:
            if "range_epochs" in switch and base.get("ranges") != "pnorm":
                continue  # nothing was chosen
            found.setdefault(Settings(**{**BUDGET, **bits, **base, **switch}), name)
    on = "".join(f"{name}-{value}-" for name, value in base.items())
    head = f"{given.bench}-{given.bits}-{on}"
    return {
        name: Job(s, spec, given.runs / f"{head}{name.replace(' ', '-')}-{given.seed}")
        for s, name in found.items()
    }


def judged(run: Run) -> dict[str, float]:
    """How far a student is from its teacher, in nats and percent; infinitely if it diverged."""
    if not run.done:
        return {"common_kl": float("inf"), "common_agreement": 0.0}
    bench = load_bench(run.spec, choose_device(None), progress=False)
    return common_kl(load_student(run, bench)[0], bench.teacher, common_pool(bench))


def main() -> None:
    """Make the runs, judge them, print all rows of this bit-width, best first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/recipe.csv"))
    parser.add_argument("--runs", type=Path, default=Path("runs/recipe"))
    parser.add_argument("--bench", default="cifar10")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--bits", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--on", nargs="*", default=[], metavar="SETTING=VALUE")
    parser.add_argument("--switches", nargs="*", choices=SWITCHES, help="default: all")
    given = parser.parse_args()
    base = given_on(given.on)
    todo = jobs(given, base)
    if not todo:
        parser.error("chosen again needs --on ranges=pnorm")
    run_grid([*todo.values()], given.workers)
    rows = pd.read_csv(given.out).to_dict("records") if given.out.exists() else []
    there = {row["run"] for row in rows}
    for switch, job in todo.items():
        if job.name not in there:
            run = Run.open(job.folder)
            about = {"bench": given.bench, "teacher": run.entry("fingerprints")["teacher"]}
            about |= {"bits": given.bits, "seed": given.seed, "on": " ".join(given.on)}
            rows.append({"run": job.name, **about, "switch": switch, **judged(run)})
            write_whole(given.out, pd.DataFrame(rows).to_csv(index=False).encode())
    shown = [row for row in rows if row["run"] in {job.name for job in todo.values()}]
    print(pd.DataFrame(shown).sort_values("common_kl").to_string(index=False))


if __name__ == "__main__":
    try:
        main()
    except AktError as error:
        raise SystemExit(f"recipe.py: {error}") from error
