"""What the measurements say about each of the paper's claims, from the figures' own data.

A verdict reads the CSV that lies beside its figure, so that page and pictures cannot disagree.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

LOW_BITS = (2, 3)  # where the paper sees the trouble
SHOWN = 3  # bits at which the error's parts are compared


@dataclass(frozen=True)
class Verdict:
    """One claim, and what was found.

    Attributes:
        claim: in the paper's sense.
        word: supported, not supported, or untested, and where.
        numbers: what it rests on.
        figure: the name of the figure that shows it; empty if there is none.
    """

    claim: str
    word: str
    numbers: str
    figure: str


def gradients_explode(table: pd.DataFrame) -> Verdict:
    """From gradients_by_bits: does plain distillation have steps ten times the usual one?"""
    plain = table[(table["loss"] == "kd") & (table["bits"] > 0)]
    found = plain.groupby("bits")["exploded"].agg(["sum", "count"])
    often = [bits for bits, row in found.iterrows() if 2 * row["sum"] > row["count"]]
    norms = plain.groupby("bits")["relative_norm"].median()
    counts = ", ".join(
        f"{row['sum']} of {row['count']} seeds at {b}" for b, row in found.iterrows()
    )
    growth = f"{norms[norms.index.min()] / norms[norms.index.max()]:.0f} times"
    where = f"supported at {_and(often)} bits" if often else "not supported"
    return Verdict(
        "With plain distillation, gradients explode at low bits",
        where + _one_seed(plain),
        f"A step above ten times the run's median norm: {counts} bits. The usual norm grows "
        f"steadily, {growth} from {norms.index.max()} to {norms.index.min()} bits.",
        "gradients_by_bits",
    )


def akt_calms_them(table: pd.DataFrame) -> Verdict:
    """From gradients_by_bits: are AKT's bursts smaller than plain distillation's, seed by seed?"""
    bursts = table.pivot_table(index=["bits", "seed"], columns="loss", values="explosion")
    words, numbers = [], []
    for bits in LOW_BITS:
        seeds = bursts.loc[bits]
        for variant in ("paper", "code"):
            smaller = int((seeds[variant] < seeds["kd"]).sum())
            words.append((smaller, len(seeds)))
            numbers.append(
                f"`{variant}` at {bits} bits {seeds[variant].median():.1f} against "
                f"{seeds['kd'].median():.1f}, smaller with {smaller} of {len(seeds)} seeds"
            )
    always = all(smaller == count for smaller, count in words)
    never = all(smaller == 0 for smaller, _ in words)
    word = "supported" if always else "not supported" if never else "mixed"
    text = "Largest over median norm of a run, median over seeds: " + "; ".join(numbers) + "."
    return Verdict("AKT calms the gradients", word + _one_seed(table), text, "gradients_by_bits")


def _one_seed(table: pd.DataFrame) -> str:
    """What a verdict must add where nothing is known of other seeds."""
    return "" if table["seed"].nunique() > 1 else ", one seed"


def attention_is_costly(table: pd.DataFrame) -> Verdict:
    """From error_cost: do the parts that change attention cost more than the rest?"""
    at = table[table["bits"] == SHOWN]
    square = at.groupby("part")["against_random"].median()
    costs = at.groupby("part")["cost"].sum()
    layers = at["layer"].nunique()
    pairs = at.pivot_table(index="layer", columns="part", values="against_random")
    dearer = {part: int((pairs[part] > pairs["rest"]).sum()) for part in ("spatial", "channel")}
    word = "supported per unit of error" if min(dearer.values()) == layers else "mixed"
    if max(dearer.values()) == 0:
        word = "not supported"
    return Verdict(
        "Errors in spatial and channel attention are the costly ones",
        word,
        f"At {SHOWN} bits, an error of random direction costing 1 per square: spatial part "
        f"{square['spatial']:.2g} (dearer than the rest in {dearer['spatial']} of {layers} "
        f"layers), channel part {square['channel']:.2g} ({dearer['channel']} of {layers}), rest "
        f"{square['rest']:.2g}. But the rest is most of the error, and costs "
        f"{costs['rest'] / costs['spatial']:.1f} times what the spatial part costs in sum, and "
        f"{costs['rest'] / costs['channel']:.1f} times the channel part.",
        "error_cost",
    )


JUDGES: Mapping[str, tuple[Callable[[pd.DataFrame], Verdict], ...]] = {
    "gradients_by_bits": (gradients_explode, akt_calms_them),
    "error_cost": (attention_is_costly,),
}
UNTESTED = Verdict(
    "AKT gives the best 3- and 5-bit accuracy on CIFAR-10",
    "see the README",
    "What was measured at which budget is in `results/` and in the README; the paper's own "
    "budget is untested.",
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
