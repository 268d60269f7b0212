"""What the measurements say about each of the paper's claims, from the figures' own data.

A verdict reads the CSV that lies beside its figure, so that page and pictures cannot disagree.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from akt_lab.analysis.gradients import LIMIT, explosion

LOW_BITS = (2, 3)  # where the paper sees the trouble

ATTENTION = ("spatial", "channel")  # parts of a feature map's error


@dataclass(frozen=True)
class Verdict:
    """One claim, and what was found.

    Attributes:
        claim: in the paper's sense.
        word: supported, mixed, not supported, or untested, and where.
        numbers: what it rests on.
        figure: the name of the figure that shows it; empty if there is none.
    """

    claim: str
    word: str
    numbers: str
    figure: str


# ---- gradients ----------------------------------------------------------------------------------


def gradients_explode(table: pd.DataFrame) -> Verdict:
    """From gradients_by_bits: does plain distillation have steps ten times the usual one?"""
    plain = table[(table["loss"] == "kd") & (table["bits"] > 0)]
    at = plain.assign(lasting=plain["explosion_later"] > LIMIT).groupby("bits")
    seeds, found = at["seed"].nunique().max(), at[["exploded", "lasting"]].sum()
    often, lasting = ([b for b in found.index if 2 * found[how][b] > seeds] for how in found)
    first = [b for b in often if b not in lasting]
    words = [f"supported at {_and(lasting)} bits"] if lasting else []
    words += [f"at {_and(first)} bits only in the first steps"] if first else []
    counts = ", ".join(f"{found['exploded'][b]} at {b}" for b in found.index)
    usual, later = (at[value].median() for value in ("relative_norm", "explosion_later"))
    low, high = min(found.index), max(found.index)
    entropy = table[table["loss"] == "ce"].groupby("bits")["relative_norm"].median()
    return Verdict(
        "With plain distillation, gradients explode at low bits",
        (" and ".join(words) or "not supported") + _one_seed(plain),
        f"A step above ten times the run's median norm, seeds of {seeds}: {counts} bits; at {low} "
        f"bits the largest is step {_span(plain.loc[plain['bits'] == low, 'largest_at'])}. After "
        f"the first five steps the largest is {later[low]:.1f} times the median at {low} bits, "
        f"{later[high]:.1f} at {high}. The usual norm grows {usual[low] / usual[high]:.0f} times "
        f"from {high} to {low} bits, because at {high} this loss is near its least value; "
        f"cross-entropy's grows {entropy[low] / entropy[high]:.1f} times.",
        "gradients_by_bits",
    )


def akt_calms_them(table: pd.DataFrame) -> Verdict:
    """From gradients_by_bits: are AKT's bursts smaller than plain distillation's, seed by seed?"""
    bursts = table.pivot_table(index=["bits", "seed"], columns="loss", values="explosion")
    later = table.groupby(["loss", "bits"])["explosion_later"].median()
    words, numbers = [], []
    for bits in _low(table):
        seeds = bursts.loc[bits]
        for variant in ("paper", "code"):
            smaller = int((seeds[variant] < seeds["kd"]).sum())
            words.append((smaller, len(seeds)))
            numbers.append(
                f"`{variant}` at {bits} bits {seeds[variant].median():.1f} against "
                f"{seeds['kd'].median():.1f}, smaller with {smaller} of {len(seeds)} seeds "
                f"(after five steps {later[variant, bits]:.1f} against {later['kd', bits]:.1f})"
            )
    text = "Largest over median norm of a run, median over seeds: " + "; ".join(numbers) + "."
    return Verdict(
        "AKT calms the gradients", _how_often(words) + _one_seed(table), text, "gradients_by_bits"
    )


def gradients_in_training(table: pd.DataFrame) -> Verdict:
    """From training_by_bits: does any run with a generator, start to end, have such a step?"""
    norms = table.groupby(["name", "bits", "seed"], sort=False)["gradient_norm"]
    largest = norms.agg(lambda steps: explosion(steps).ratio)
    exploded = largest[largest > LIMIT]
    by_bits = largest.groupby(["name", "bits"], sort=False).max()
    listed = "; ".join(f"{name} at {bits} bits {v:.1f}" for (name, bits), v in by_bits.items())
    return Verdict(
        "Gradients explode in whole trainings, with a generator that learns",
        f"in {len(exploded)} of {len(largest)} runs" if len(exploded) else "not supported",
        f"Largest over median norm of a run, the largest of its seeds: {listed}.",
        "training_by_bits",
    )


def _low(table: pd.DataFrame) -> list[int]:
    return [bits for bits in LOW_BITS if bits in set(table["bits"])]


def _how_often(counts: list[tuple[int, int]]) -> str:
    """Of pairs (how often it held, how often it was tried)."""
    if all(held == tried for held, tried in counts):
        return "supported"
    return "mixed" if any(held for held, _ in counts) else "not supported"


def _one_seed(table: pd.DataFrame) -> str:
    """What a verdict must add where nothing is known of other seeds."""
    return "" if table["seed"].nunique() > 1 else ", one seed"


def _span(numbers: pd.Series) -> str:
    low, high = numbers.min(), numbers.max()
    return f"{low}" if low == high else f"{low} to {high}"


# ---- attention ----------------------------------------------------------------------------------


def attention_is_costly(table: pd.DataFrame) -> Verdict:
    """From error_cost: do the parts that change attention cost more than the rest?"""
    words, numbers = zip(
        *(_cost_at(table[table["bits"] == b], b) for b in _low(table)), strict=True
    )
    return Verdict(
        "Errors in spatial and channel attention are the costly ones",
        "; ".join(words) + ", one batch",
        "An error of random direction costs 1 per square (geometric mean over layers). "
        + " ".join(numbers),
        "error_cost",
    )


def _cost_at(at: pd.DataFrame, bits: int) -> tuple[str, str]:
    """The verdict at one bit-width, and its numbers."""
    square = np.exp(np.log(at["against_random"]).groupby(at["part"]).mean())
    costs = at.groupby("part")["cost"].sum()
    pairs = at.pivot_table(index="layer", columns="part", values="against_random")
    dearer = {part: int((pairs[part] > pairs["rest"]).sum()) for part in ATTENTION}
    word = _how_often([(held, len(pairs)) for held in dearer.values()])
    if word == "supported" and min(costs[part] for part in ATTENTION) < costs["rest"]:
        word = "supported per unit of error only"
    parts = ", ".join(
        f"{part} part {square[part]:.2g} (dearer than the rest in {dearer[part]} of {len(pairs)} "
        f"layers; {costs[part] / costs['rest']:.2g} times the rest in sum)"
        for part in ATTENTION
    )
    return f"at {bits} bits {word}", f"At {bits} bits: {parts}, rest {square['rest']:.2g}."


JUDGES: Mapping[str, tuple[Callable[[pd.DataFrame], Verdict], ...]] = {
    "gradients_by_bits": (gradients_explode, akt_calms_them),
    "training_by_bits": (gradients_in_training,),
    "error_cost": (attention_is_costly,),
}

UNTESTED = Verdict(
    "AKT gives the best 3- and 5-bit accuracy on CIFAR-10",
    "untested at the paper's budget",
    "What was measured at smaller budgets is in `results/` and in the README.",
    "",
)


def judge(folder: Path) -> list[Verdict]:
    """Every verdict whose figure's data lies in `folder`."""
    found = []
    for name, judges in JUDGES.items():
        if (folder / f"{name}.csv").exists():
            table = pd.read_csv(folder / f"{name}.csv")
            found += [decide(table) for decide in judges]
    return found


def page(folder: Path) -> str:
    """The verdicts as a Markdown table, or nothing where there is no data."""
    found = judge(folder)
    if not found:
        return ""
    head = ["## Verdicts", "", "| the paper's claim | here | numbers |", "|---|---|---|"]
    note = "Each on the bench, and with the seeds, that its figure's caption names."
    return "\n".join([*head, *map(_row, [*found, UNTESTED]), "", note])


def _row(v: Verdict) -> str:
    link = f" [figure](#{_anchor(v.figure)})" if v.figure else ""
    return f"| {v.claim} | **{v.word}** | {v.numbers}{link} |"


def _anchor(name: str) -> str:
    return name.replace("_", "-")


def _and(numbers: list[int]) -> str:
    return " and ".join(map(str, numbers))
