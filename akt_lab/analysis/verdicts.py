"""What the measurements say about each of the paper's claims, from the figures' own data.

A verdict reads the CSV that lies beside its figure, so that page and pictures cannot disagree.
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from akt_lab.analysis.gradients import LIMIT, explosion
from akt_lab.files import damaged

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


def _untested(claim: str, figure: str) -> Verdict:
    return Verdict(claim, "untested", "Nothing was measured that could tell.", figure)


# ---- gradients ----------------------------------------------------------------------------------


def gradients_explode(table: pd.DataFrame) -> Verdict:
    """From gradients_by_bits: does plain distillation have steps ten times the usual one?"""
    about = "With plain distillation, gradients explode at low bits", "gradients_by_bits"
    plain = table[(table["loss"] == "kd") & (table["bits"] > 0)]
    if plain.empty:
        return _untested(*about)
    at = plain.assign(lasting=plain["explosion_later"] > LIMIT).groupby("bits")
    seeds, found = at["seed"].nunique(), at[["exploded", "lasting"]].sum()
    often, lasting = ([b for b in found.index if 2 * found[how][b] > seeds[b]] for how in found)
    first = [b for b in often if b not in lasting]
    words = [f"supported at {_and(lasting)} bits"] if lasting else []
    words += [f"at {_and(first)} bits only in the first steps"] if first else []
    counts = ", ".join(f"{found['exploded'][b]} at {b}" for b in found.index)
    usual, later = (at[value].median() for value in ("relative_norm", "explosion_later"))
    low, high = min(found.index), max(found.index)
    numbers = (
        f"A step above ten times the run's median norm, seeds of {seeds.max()}: {counts} bits; at "
        f"{low} bits the largest is step {_span(plain.loc[plain['bits'] == low, 'largest_at'])}. "
        f"After the first five steps the largest is {later[low]:.1f} times the median at {low} "
        f"bits, {later[high]:.1f} at {high}."
    )
    entropy = table[table["loss"] == "ce"].groupby("bits")["relative_norm"].median()
    if low < high and usual[high] > 0 and {low, high} <= set(entropy.index) and entropy[high] > 0:
        numbers += (
            f" The usual norm grows {usual[low] / usual[high]:.0f} times from {high} to {low} "
            f"bits, because at {high} this loss is near its least value; cross-entropy's grows "
            f"{entropy[low] / entropy[high]:.1f} times."
        )
    word = (" and ".join(words) or "not supported") + _one_seed(plain)
    return Verdict(about[0], word, numbers, about[1])


def akt_calms_them(table: pd.DataFrame) -> Verdict:
    """From gradients_by_bits: are AKT's bursts smaller than plain distillation's, seed by seed?"""
    about = "AKT calms the gradients", "gradients_by_bits"
    bursts = table.pivot_table(index=["bits", "seed"], columns="loss", values="explosion")
    later = table.groupby(["loss", "bits"])["explosion_later"].median()
    words, numbers = [], []
    for bits, variant in itertools.product(LOW_BITS, ("paper", "code")):
        both = bursts.reindex(columns=["kd", variant]).dropna()
        if bits not in both.index:
            continue
        seeds = both.loc[bits]
        smaller = int((seeds[variant] < seeds["kd"]).sum())
        words.append((smaller, len(seeds)))
        numbers.append(
            f"`{variant}` at {bits} bits {seeds[variant].median():.1f} against "
            f"{seeds['kd'].median():.1f}, smaller with {smaller} of {len(seeds)} seeds "
            f"(after five steps {later[variant, bits]:.1f} against {later['kd', bits]:.1f})"
        )
    if not words:
        return _untested(*about)
    text = "Largest over median norm of a run, median over seeds: " + "; ".join(numbers) + "."
    return Verdict(about[0], _how_often(words) + _one_seed(table), text, about[1])


def gradients_in_training(table: pd.DataFrame) -> Verdict:
    """From training_by_bits: does any run with a generator, start to end, have such a step?"""
    about = "Gradients explode in whole trainings, with a generator that learns", "training_by_bits"
    if table.empty:
        return _untested(*about)
    runs = table.groupby(["name", "bits", "seed"], sort=False)["gradient_norm"]
    largest = runs.agg(lambda steps: explosion(steps).ratio)
    exploded = largest[largest > LIMIT]
    by_bits = largest.groupby(["name", "bits"], sort=False).max()
    listed = "; ".join(f"{name} at {bits} bits {v:.1f}" for (name, bits), v in by_bits.items())
    word = f"in {len(exploded)} of {len(largest)} runs" if len(exploded) else "not supported"
    text = f"Largest over median norm of a run, the largest of its seeds: {listed}."
    return Verdict(about[0], word, text, about[1])


def _how_often(counts: list[tuple[int, int]]) -> str:
    """Of pairs (how often it held, how often it was tried)."""
    if not any(tried for _, tried in counts):
        return "untested"
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
    about = "Errors in spatial and channel attention are the costly ones", "error_cost"
    at = {bits: table[table["bits"] == bits] for bits in LOW_BITS}
    found = [_cost_at(rows, b) for b, rows in at.items() if {*ATTENTION, "rest"} <= {*rows["part"]}]
    if not found:
        return _untested(*about)
    words, numbers = zip(*found, strict=True)
    text = "An error of random direction costs 1 per square (geometric mean over layers). "
    return Verdict(about[0], "; ".join(words) + ", one batch", text + " ".join(numbers), about[1])


def _cost_at(at: pd.DataFrame, bits: int) -> tuple[str, str]:
    """The verdict at one bit-width, and its numbers."""
    costs = at.groupby("part")["cost"].sum()
    in_sum = costs / costs["rest"]
    pairs = at.pivot_table(index="layer", columns="part", values="against_random")
    # a map without error has no price
    pairs = pairs.reindex(columns=[*ATTENTION, "rest"]).dropna()
    square = np.exp(np.log(pairs).mean())
    dearer = {part: int((pairs[part] > pairs["rest"]).sum()) for part in ATTENTION}
    word = _how_often([(held, len(pairs)) for held in dearer.values()])
    if word == "supported" and min(in_sum[part] for part in ATTENTION) < 1:
        word = "supported per unit of error only"
    parts = ", ".join(
        f"{part} part {square[part]:.2g} (dearer than the rest in {dearer[part]} of {len(pairs)} "
        f"layers; {in_sum[part]:.2g} times the rest in sum)"
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
    """Every verdict whose figure's data lies in `folder`.

    Raises:
        DamagedError: if it is not such data.
    """
    found = []
    for name, judges in JUDGES.items():
        if (folder / f"{name}.csv").exists():
            try:
                table = pd.read_csv(folder / f"{name}.csv")
                found += [decide(table) for decide in judges]
            except (ValueError, LookupError, TypeError) as error:
                then = f"draw it again: akt-lab figures {name}"
                raise damaged(folder / f"{name}.csv", error, then) from error
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
    link = f" [figure](#{v.figure.replace('_', '-')})" if v.figure else ""
    return f"| {v.claim} | **{v.word}** | {v.numbers}{link} |"


def _and(numbers: list[int]) -> str:
    return " and ".join(map(str, numbers))
