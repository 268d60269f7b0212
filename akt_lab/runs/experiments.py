"""Experiments by name: the runs that a claim rests on, the same for everyone who makes them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from akt_lab.benches import BenchSpec
from akt_lab.errors import UsageError, unknown
from akt_lab.runs.jobs import Job
from akt_lab.settings import Settings

BENCH = "cifar10"
BITS, SEEDS = (3,), range(16)  # where none are named: 16 seeds tell half a point at 3 bits
BUDGET: Mapping[str, Any] = {  # 12,800 images a student
    "batch_size": 16, "student_lr": 3e-4, "epochs": 10, "steps": 100, "warmup_epochs": 2,
    "milestones": (6, 8), "eval_every": 2,
}  # fmt: skip
LAMBDAS = (15.0, 30.0, 60.0)  # of `paper`: balanced seed by seed it was 14 to 38
OF_ARMS = ("method", "variant", "lam", "preset")  # what an experiment itself says


def accuracy(bits: int) -> dict[str, Settings]:
    """Does AKT raise AdaDFQ's accuracy? Plain and `code`; at 3 bits `paper` and a placebo, too.

    Returns:
        Settings by the arm's name, seed 0, the plain method first.
    """
    akt: dict[str, Mapping[str, Any]] = {"code": {}}
    if bits == 3:
        akt |= {f"paper-{lam:g}": {"lam": lam} for lam in LAMBDAS} | {"placebo": {}}
    budget = {**BUDGET, "weight_bits": bits, "act_bits": bits}
    arms = {"adadfq": Settings(**budget, method="adadfq")}
    for name, more in akt.items():
        variant = name.partition("-")[0]
        arms[f"adadfq+akt-{name}"] = Settings(
            **budget, method="adadfq+akt", variant=variant, **more
        )
    return arms


EXPERIMENTS = {"accuracy": accuracy}


def jobs_of_experiment(
    name: str,
    folder: Path,
    spec: BenchSpec,
    bits: Sequence[int],
    seeds: Sequence[int],
    others: Mapping[str, Any],
) -> list[Job]:
    """Every arm with every seed, seed by seed, so that one cut short has whole pairs.

    Args:
        name: in `EXPERIMENTS`.
        folder: in which each run has a folder.
        spec: the bench.
        bits: of weights and activations.
        seeds: one run of each arm.
        others: settings that replace the experiment's in all runs.

    Raises:
        UsageError: for an unknown name, settings that cannot be right, or one that makes the arms.
    """
    if name not in EXPERIMENTS:
        raise unknown("experiment", name, EXPERIMENTS)
    for setting in OF_ARMS:
        if setting in others:
            raise UsageError(f"--experiment {name} has a {setting} for each arm: drop --{setting}")
    bench = spec.name.replace(":", ".")
    return [
        Job(
            s := replace(arm, **others, seed=seed), spec, folder / f"{bench}-{what}-{s.bits}-{seed}"
        )
        for seed in seeds
        for b in bits
        for what, arm in EXPERIMENTS[name](b).items()
    ]
