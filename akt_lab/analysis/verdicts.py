"""A verdict is an effect, its interval and a margin: three words, and more evidence moves them.

A claim says that an effect is greater than a margin, below which nobody would mind. It is
`supported` where the whole interval lies above the margin, `contradicted` where it lies below
(inside plus or minus the margin, or on the other side), and `undecided` in between. The margin is
our choice: the word for others stands beside it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np

from akt_lab.analysis.intervals import (
    CONFIDENCE,
    MOST_SEEDS,
    holm_confidences,
    mean_interval,
    p_value,
    seeds_needed,
    spread_of,
)
from akt_lab.errors import AktError

SUPPORTED, CONTRADICTED, UNDECIDED = "supported", "contradicted", "undecided"
MARGINS: Mapping[str, Sequence[float]] = {  # over which a word is shown
    "points": (0.0, 0.1, 0.25, 0.5, 1.0, 2.0),
    "times": (1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0),
}


@dataclass(frozen=True)
class Evidence:
    """What was measured for one claim.

    Attributes:
        claim: that the effect is greater than the margin, in words.
        values: the effect, one a pair of runs: a difference in `points`, or how many `times` one is
            the other. One that is not finite is a pair of which a run broke off.
        unit: points or times.
        margin: the effect below which nobody would mind, in the unit.
        file: what was read.
        command: what measures more; `{seeds}` in it stands for the seeds.
        seeds_by: where the number of seeds is set, if not in the command.
        teachers: each value's.
        family: claims of one name are compared with each other, and corrected for it.
        grain: the least difference that can be measured, in points.
        more: what else stands in the row.
    """

    claim: str
    values: Sequence[float]
    unit: str
    margin: float
    file: str
    command: str
    teachers: Sequence[str] = ()
    family: str = ""
    grain: float = 0.0
    seeds_by: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def lost(self) -> int:
        """Pairs of which a run broke off."""
        return sum(not math.isfinite(self._scaled(v)) for v in self.values)

    @property
    def tested(self) -> bool:
        """Whether there is a spread to hold the effect against, and no pair broke off."""
        return len(self.sample) > 1 and not self.lost

    @cached_property
    def sample(self) -> list[float]:
        """The values on a scale on which they add up (of `times`, logarithms): what is averaged.

        One a pair; or where there are several teachers one a teacher, its pairs' mean: seeds of one
        teacher say nothing about the next.
        """
        teachers = self.teachers or [""] * len(self.values)
        of: dict[str, list[float]] = {}
        for teacher, value in zip(teachers, self.values, strict=True):
            if math.isfinite(scaled := self._scaled(value)):
                of.setdefault(teacher, []).append(scaled)
        if len(of) > 1:
            return [float(np.mean(values)) for values in of.values()]
        return [value for values in of.values() for value in values]

    def _scaled(self, value: float) -> float:
        if self.unit == "points":
            return value
        return math.log(value) if value > 0 else math.nan

    def p_value(self, margin: float) -> float:
        """Of the two-sided test that the effect is the margin."""
        return p_value(self.sample, self._scaled(margin), self.grain)

    def interval(self, confidence: float) -> tuple[float, float, float]:
        """The effect and the ends of its interval, in the unit; NaN where there is none."""
        found = mean_interval(self.sample, self.grain, confidence)
        return found if self.unit == "points" else tuple(map(_exp, found))  # type: ignore[return-value]

    def needed(self, confidence: float) -> int | None:
        """Pairs (teachers, where there are several) that would tell this effect from the margin.

        If effect and spread stay as they are. None where no number would, or nothing is known.
        """
        sample = self.sample
        if len(sample) < 2:
            return None
        distance = abs(float(np.mean(sample)) - self._scaled(self.margin))
        try:
            return seeds_needed(spread_of(sample, self.grain), distance, confidence)
        except AktError:  # not even MOST_SEEDS
            return None


@dataclass(frozen=True)
class Verdict:
    """What the evidence says of one claim.

    Attributes:
        claim: in words.
        effect: the mean; of `times` the geometric one. NaN where nothing was measured.
        low, high: the ends of its interval; NaN where one pair or none was measured.
        n: pairs of runs.
        teachers: how many networks were quantized.
        word: supported, contradicted or undecided.
        file: what was read.
        unit, margin: see `Evidence`.
        confidence: of the interval, after Holm's correction over the family.
        words: the word for each of several margins, each corrected for itself.
        sd: the spread of what was averaged, in points or as a factor; NaN of fewer than two.
        lost: pairs of which a run broke off: without them, the others prove nothing.
        decide: what would decide it; empty where it is decided.
        more: what else stands in the row.
    """

    claim: str
    effect: float
    low: float
    high: float
    n: int
    teachers: int
    word: str
    file: str
    unit: str
    margin: float
    confidence: float
    words: Mapping[float, str]
    sd: float
    lost: int
    decide: str
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def limits(self) -> str:
        """For which margins which word holds.

        >>> words = {0.0: "supported", 0.25: "supported", 0.5: "undecided", 2.0: "contradicted"}
        >>> of = dict.fromkeys(("claim", "word", "file", "decide"), "") | {"unit": "points"}
        >>> of |= dict.fromkeys(("effect", "low", "high", "margin", "confidence", "sd"), 0.0)
        >>> Verdict(**of, n=3, teachers=1, lost=0, words=words).limits
        'supported at 0 to 0.25, undecided at 0.5, contradicted at 2'
        """
        runs = [(word, [*margins]) for word, margins in groupby(self.words, self.words.__getitem__)]
        return ", ".join(
            f"{word} at {margins[0]:g}" + (f" to {margins[-1]:g}" if len(margins) > 1 else "")
            for word, margins in runs
        )

    @property
    def numbers(self) -> str:
        """Effect, interval, what they rest on, and the margin, in one line."""
        if math.isnan(self.effect):
            return "nothing was measured that could tell"
        form = "+.2f" if self.unit == "points" else ".3g"
        ends = "no interval"
        if not math.isnan(self.low):
            ends = f"{self.low:{form}} to {self.high:{form}}"
        return f"{self.effect:{form}} {self.unit} ({ends}; n = {self.n}), margin {self.margin:g}"

    def row(self) -> dict[str, Any]:
        """For JSON: every attribute, null where there is no number."""
        found = {**vars(self), "words": {f"{m:g}": word for m, word in self.words.items()}}
        found |= {**found.pop("more"), "limits": self.limits}
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v
                for k, v in found.items()}  # fmt: skip


def word_of(low: float, high: float, margin: float) -> str:
    """The word for an interval, any ends of which may be NaN.

    >>> [word_of(*ends, margin=0.5) for ends in ((0.6, 2), (-0.4, 0.4), (-2, -1), (0.1, 2))]
    ['supported', 'contradicted', 'contradicted', 'undecided']
    """
    return SUPPORTED if low > margin else CONTRADICTED if high < margin else UNDECIDED


def decide(evidence: Iterable[Evidence]) -> list[Verdict]:
    """A verdict on each claim, in their order; corrected, by Holm, within each family."""
    every = list(evidence)
    return [_verdict(e, [o for o in every if o.family == e.family and o.tested]) for e in every]


def _verdict(e: Evidence, compared: Sequence[Evidence]) -> Verdict:
    """Of one claim, corrected for those that are compared."""

    def at(margin: float | None) -> tuple[float, str]:
        """Confidence and word at a margin, or at each claim's own."""
        if not e.tested:
            return CONFIDENCE, UNDECIDED
        own = e.margin if margin is None else margin
        p_values = [o.p_value(o.margin if margin is None else margin) for o in compared]
        confidence = holm_confidences(p_values)[compared.index(e)]
        return confidence, word_of(*e.interval(confidence)[1:], own)

    confidence, word = at(None)
    margins = sorted({*MARGINS[e.unit], e.margin}) if e.tested else ()
    effect, low, high = e.interval(confidence)
    sd = spread_of(e.sample, e.grain)
    kept = len(e.values) - e.lost
    return Verdict(
        claim=e.claim,
        effect=effect,
        low=low,
        high=high,
        n=kept,
        teachers=len(set(e.teachers)) or min(1, kept),
        word=word,
        file=e.file,
        unit=e.unit,
        margin=e.margin,
        confidence=confidence,
        words={m: word if m == e.margin else at(m)[1] for m in margins},
        sd=sd if e.unit == "points" else _exp(sd),
        lost=e.lost,
        decide="" if word != UNDECIDED else _what_decides(e, confidence),
        more=e.more,
    )


def _what_decides(e: Evidence, confidence: float) -> str:
    """How many seeds, where their spread is known, and the command."""
    needed = e.needed(confidence)
    seeds = f"{{0..{needed - 1}}}" if needed else "{0..15}"  # as a shell counts
    command = f"`{e.command.replace('{seeds}', seeds)}`" if e.command else "no command yet"
    several = len(set(e.teachers)) > 1
    unit = "teachers" if several else "seeds" + (f" ({e.seeds_by})" if e.seeds_by else "")
    if e.lost:
        return f"{e.lost} of {len(e.values)} pairs broke off: the others prove nothing; {command}"
    if needed:
        return f"about {needed} {unit}, if effect and spread stay: {command}"
    if len(e.sample) > 1:
        return f"not even {MOST_SEEDS:,} {unit}, if effect and spread stay: another margin"
    return f"more {unit}: {command}" if len(e.values) else command


def _exp(value: float) -> float:
    """Of the value, infinite where that is too large."""
    return math.inf if value > 700 else math.exp(value)
