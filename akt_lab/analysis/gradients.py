"""Do gradients explode at low bits? Norms of the student's weight gradients, layer by layer.

Every student starts as its teacher and sees the same images in the same order: those of a GDFQ
generator, which never looks at a student. At each step the same loss is also taken of the
full-precision network *with the student's weights*, where a case asks for it, for a raw norm alone
says little: a loss that is weighted twice has twice the gradient.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from tqdm.auto import tqdm

from akt_lab.benches import Bench
from akt_lab.errors import AktError, UsageError, unknown
from akt_lab.graph import capture_maps, residual_bodies, trace
from akt_lab.losses import Terms, akt_terms, kd_loss, total
from akt_lab.quantizer import ActivationQuantizer, freeze_ranges, quantize_model
from akt_lab.runs.networks import prepare
from akt_lab.settings import Settings
from akt_lab.step import balanced_lambda, train_step

VARIANTS = ("paper", "code", "published")
LOSSES = ("ce", "kd", *VARIANTS)
LIMIT = 10.0  # largest over median norm: above, we call it an explosion
NOISE = 1e-6  # of the weights' norm: a gradient below it is rounding, and has no direction
DRAWN_AFTER = 200  # steps of the generator, which then draws what a study sees
FIRST_STEPS = 5  # of a run: those of a student that was rounded just now
PAPERS_UPDATES = 800  # of the ranges in a warm-up of 4 epochs of 200 steps
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Case:
    """One student of the study.

    Attributes:
        bits: of weights and activations; 0 for full precision.
        loss: `ce`, cross-entropy with the generator's classes; `kd`, plain distillation at T = 20;
            or AKT's variant `paper`, `code` or `published`, joined to `kd`.
        gradient: the straight-through rule.
        ranges: the rule for activation ranges.
        observed: batches that the ranges are observed on, then frozen; the papers take 800.
        reference: whether the full-precision network's gradient is taken beside the student's.
    """

    bits: int
    loss: str = "kd"
    gradient: str = "identity"
    ranges: str = "ema"
    observed: int = 10
    reference: bool = True

    def __post_init__(self) -> None:
        """Refuse a loss that is none, and what the network in full precision has no part of."""
        if self.loss not in LOSSES:
            raise unknown("loss", self.loss, LOSSES)
        if self.ranges == "learned":
            raise UsageError("learned ranges have gradients of their own: study pnorm, their start")


# ---- the study ----------------------------------------------------------------------------------


def synthetic_batches(
    bench: Bench, batches: int, batch_size: int, seed: int = 0, progress: bool = False
) -> list[Batch]:
    """Images (B, channels, S, S) and classes (B,) from a GDFQ generator after 200 steps."""
    settings = Settings(
        method="gdfq",
        batch_size=batch_size,
        epochs=2,
        steps=DRAWN_AFTER,
        warmup_epochs=1,
        seed=seed,
    )
    run = prepare(bench, settings)
    bar = tqdm(range(DRAWN_AFTER), "generator of synthetic images", disable=not progress)
    for _ in bar:
        train_step(run, *run.generator.draw(batch_size, run.rng))
    found = []
    for _ in range(batches):
        z, y = run.generator.draw(batch_size, run.rng)
        with torch.no_grad():
            found.append((run.generator(z, y), y))
    return found


def study(
    bench: Bench,
    cases: Sequence[Case],
    images: Sequence[Batch],
    student_lr: float = 1e-4,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Train each case's student on `images`, a step a batch, and measure its gradients on the way.

    Args:
        bench: only its teacher is used.
        cases: what to compare.
        images: from `synthetic_batches`; the ranges are observed on them, too.
        student_lr: of SGD with momentum 0.9 and weight decay 1e-4, as in training.
        seed: of the images, for the table.
        progress: whether to show a progress bar.

    Returns:
        A row for each case, step and layer: the fields of `Case` and the seed; `norm`, L2 norm of
        the weight's gradient; `weight_norm`; `reference_norm` and `cosine`, against the gradient
        of the full-precision network with the same weights (NaN where that is noise, and in a case
        without `reference`); `kd_norm`, of the distillation loss's gradient alone, where that is a
        part of the loss. A case whose gradient is not finite ends there.
    """
    rows: list[dict[str, Any]] = []
    bar = tqdm(total=len(cases) * len(images), unit="step", disable=not progress)
    lam = _one_lambda(bench.teacher, images) if any(c.loss == "paper" for c in cases) else 1.0
    with bar:
        for case in cases:
            bar.set_description(f"{case.bits or 'full precision'}, {case.loss}")
            for found in _train(bench.teacher, case, images, student_lr, lam):
                rows += found
                bar.update()
    return pd.DataFrame(rows).assign(seed=seed)


def _train(
    teacher: nn.Module, case: Case, images: Sequence[Batch], student_lr: float, lam: float
) -> Iterator[list[dict[str, Any]]]:
    full = trace(teacher).requires_grad_(False)
    student = make_student(teacher, case, images).requires_grad_()
    layers = residual_bodies(full)
    optimizer = torch.optim.SGD(
        student.parameters(), student_lr, momentum=0.9, weight_decay=1e-4, nesterov=True
    )
    for step, (x, y) in enumerate(images):
        seen = None if case.loss == "ce" else see(full, x, layers)
        gradients = gradients_of(student, seen, x, y, case.loss, lam)
        at_full = (
            gradients_of(full, seen, x, y, case.loss, lam, of=student) if case.reference else {}
        )
        plain = gradients if case.loss == "kd" else {}
        if case.loss in VARIANTS:
            plain = gradients_of(student, seen, x, y, "kd")
        weights = dict(student.named_parameters())
        yield [
            {
                **asdict(case),
                "step": step,
                "layer": name,
                **_compare(weights[name], g, at_full.get(name)),
                "kd_norm": plain[name].norm().item() if plain else math.nan,
            }
            for name, g in gradients.items()
            if weights[name].ndim > 1
        ]
        if not all(g.isfinite().all() for g in gradients.values()):
            return
        for name, weight in weights.items():
            weight.grad = gradients[name]
        optimizer.step()


def make_student(teacher: nn.Module, case: Case, images: Sequence[Batch]) -> nn.Module:
    """A case's student with the teacher's weights; ranges observed on `images`, and frozen."""
    if not case.bits:
        return trace(teacher)
    student = quantize_model(
        teacher, case.bits, case.bits, ranges=case.ranges, gradient=case.gradient
    )
    return observe(student, itertools.islice(itertools.cycle(images), case.observed))


def observe(student: nn.Module, images: Iterable[Batch]) -> nn.Module:
    """The student, its ranges observed on `images` and frozen; live ones need no images."""
    if any(isinstance(m, ActivationQuantizer) and m.observing for m in student.modules()):
        seen = [x for x, _ in images]
        with torch.no_grad():
            for x in seen:
                student(x)
        freeze_ranges(student, torch.cat(seen) if seen else None)
    else:
        freeze_ranges(student)  # weights have ranges, too
    return student


class Seen(NamedTuple):
    """What a teacher makes of a batch: logits (B, classes), and its feature maps (B, C, h, w)."""

    logits: Tensor
    maps: dict[str, Tensor]


def see(teacher: nn.Module, x: Tensor, layers: Sequence[str]) -> Seen:
    """A teacher's view of images x (B, channels, S, S), which every loss but `ce` needs.

    Args:
        teacher: from `graph.trace`.
        x: images (B, channels, S, S).
        layers: whose maps AKT compares.
    """
    with torch.no_grad(), capture_maps(teacher, layers) as maps:
        logits = teacher(x)
    return Seen(logits, maps)


def gradients_of(
    network: nn.Module,
    seen: Seen | None,
    x: Tensor,
    y: Tensor,
    loss: str,
    lam: float = 1.0,
    of: nn.Module | None = None,
) -> dict[str, Tensor]:
    """The gradient of one loss at every weight, by name.

    Args:
        network: whose forward pass is differentiated.
        seen: what the teacher makes of x, from `see`; `ce` does without.
        x: images (B, channels, S, S).
        y: classes (B,).
        loss: one of `LOSSES`.
        lam: weight of AKT's features in `paper`.
        of: a network whose weights `network` runs with, in place of its own.
    """
    weights = {k: w.detach().requires_grad_() for k, w in (of or network).named_parameters()}
    with capture_maps(network, [*seen.maps] if seen else []) as maps:
        s = functional_call(network, weights, (x,))
    terms = _terms(loss, s, y, maps, seen, lam)
    found = torch.autograd.grad(total(terms), list(weights.values()), allow_unused=True)
    pairs = zip(weights.items(), found, strict=True)
    return {name: torch.zeros_like(w) if g is None else g for (name, w), g in pairs}


def _terms(
    loss: str, s: Tensor, y: Tensor, maps: dict[str, Tensor], seen: Seen | None, lam: float
) -> Terms:
    if loss == "ce":
        return {"ce": F.cross_entropy(s, y)}
    if seen is None:
        raise AktError(f"the loss {loss} needs what the teacher sees: pass see(teacher, x, layers)")
    plain = {"kd": kd_loss(s, seen.logits)}
    if loss == "kd":
        return plain
    pairs = [*maps.values()], [*seen.maps.values()]
    return akt_terms(plain, *pairs, loss, lam=lam if loss == "paper" else None)


def _one_lambda(teacher: nn.Module, images: Sequence[Batch]) -> float:
    """Of `paper`, one for all bit-widths: it balances both losses' gradients at 3 bits."""
    full, (x, _) = trace(teacher), images[0]
    student = make_student(teacher, Case(3), images).requires_grad_()
    layers = residual_bodies(full)
    with capture_maps(full, layers) as of_teacher, capture_maps(student, layers) as maps:
        t, s = full(x).detach(), student(x)
    features = akt_terms({}, [*maps.values()], [*of_teacher.values()], alpha=1.0)
    return balanced_lambda(student, {"kd": kd_loss(s, t)}, features)


def _compare(weight: Tensor, gradient: Tensor, reference: Tensor | None) -> dict[str, float]:
    norm, weight_norm = gradient.norm().item(), weight.detach().norm().item()
    alone = {"norm": norm, "weight_norm": weight_norm}
    if reference is None:
        return {**alone, "reference_norm": math.nan, "cosine": math.nan}
    reference_norm = reference.norm().item()
    told = min(norm, reference_norm) > NOISE * weight_norm
    cosine = (gradient * reference).sum().item() / (norm * reference_norm) if told else math.nan
    return {**alone, "reference_norm": reference_norm, "cosine": cosine}


# ---- what it says -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Explosion:
    """How far a sequence of gradient norms rises above its usual value.

    Attributes:
        ratio: largest over median; inf where one is not finite, NaN where the median is 0.
        step: where the largest is, or the first that is not finite.
        exploded: whether the ratio is above the limit.
    """

    ratio: float
    step: int
    exploded: bool


def explosion(norms: Iterable[float], limit: float = LIMIT, skip: int = 0) -> Explosion:
    """Find an explosion in gradient norms, one a step.

    Args:
        norms: of each step; one that is not finite is an explosion, wherever it is.
        limit: the ratio above which it is called one.
        skip: how many of the first steps count towards the median only.

    >>> explosion([1.0, 2.0, 1.0, 30.0])
    Explosion(ratio=20.0, step=3, exploded=True)
    >>> explosion([1.0, float("nan"), 3.0]).step
    1
    """
    values = np.fromiter(norms, float)
    broken = ~np.isfinite(values)
    if broken.any():
        return Explosion(math.inf, int(broken.argmax()), True)
    if len(values) <= skip:
        return Explosion(math.nan, 0, False)
    median, step = float(np.median(values)), skip + int(values[skip:].argmax())
    ratio = float(values[step]) / median if median else math.nan
    return Explosion(ratio, step, ratio > limit)


CASE = ["bits", "loss", "gradient", "ranges", "observed", "seed"]


def by_step(found: pd.DataFrame) -> pd.DataFrame:
    """All layers of a step together: norms of the whole gradient, and its cosine.

    Args:
        found: what `study` returns.

    Returns:
        A row for each case and step: `norm`, `weight_norm`, `reference_norm`, `kd_norm`, and
        `cosine`.
    """
    squares = {n: found[n] ** 2 for n in ("norm", "weight_norm", "reference_norm", "kd_norm")}
    product = (found["cosine"] * found["norm"] * found["reference_norm"]).fillna(0.0)
    sums = found.assign(**squares, product=product).groupby([*CASE, "step"], sort=False)[
        [*squares, "product"]
    ].sum(min_count=found["layer"].nunique())  # fmt: skip
    norms = sums[list(squares)] ** 0.5
    scale = norms["norm"] * norms["reference_norm"]
    norms["cosine"] = sums["product"] / scale.where(scale > 0)
    return norms.reset_index()


def summarise(found: pd.DataFrame) -> pd.DataFrame:
    """A row for each case and seed: medians over steps, and whether its gradients exploded.

    `norm`: of the whole gradient; `relative_norm`: to the weights'; `ratio`: to the
    full-precision gradient at the same weights; `cosine`: with it; `explosion`: largest norm over
    the median one; `exploded`: whether that is above ten, or a norm was not finite; `largest_at`:
    at which step, from 1; `explosion_later`: as `explosion`, of the steps after the first five, in
    which a student that was rounded just now finds its feet. `kd_tail` and `kd_spread`, of the
    distillation loss's gradient along the way of whatever loss trains: the 99th percentile over the
    median of its norm, and the standard deviation of the norm's logarithm.
    """
    return pd.DataFrame(
        {**dict(zip(CASE, key, strict=True)), **_summary(steps)}
        for key, steps in by_step(found).groupby(CASE, sort=False)
    )


def _summary(steps: pd.DataFrame) -> Mapping[str, Any]:
    noise = NOISE * steps["weight_norm"]
    norms = steps["norm"].where(~(steps["norm"] < noise), 0.0)
    burst, later = explosion(norms), explosion(norms, skip=FIRST_STEPS)
    reference = steps["reference_norm"].where(steps["reference_norm"] > noise)
    plain = steps["kd_norm"].where(steps["kd_norm"] > noise)
    if not np.isfinite(steps["kd_norm"]).all():  # what broke off has no usual size
        plain *= math.nan
    return {
        "steps": len(steps),
        "norm": steps["norm"].median(),
        "relative_norm": (steps["norm"] / steps["weight_norm"]).median(),
        "ratio": (steps["norm"] / reference).median(),
        "cosine": steps["cosine"].median(),
        "explosion": burst.ratio,
        "exploded": burst.exploded,
        "largest_at": burst.step + 1,
        "explosion_later": later.ratio,
        "kd_tail": plain.quantile(0.99) / plain.median(),
        "kd_spread": np.log(plain).std(),
    }


def grid(bits: Sequence[int] = (0, 8, 6, 5, 4, 3, 2)) -> list[Case]:
    """The cases of the figures: losses by bits, then straight-through and range rules by bits.

    Of the rules only the norms are shown: their cases take no `reference`.
    """
    losses = [Case(b, loss) for b, loss in itertools.product(bits, LOSSES) if loss != "published"]
    alone = partial(Case, reference=False)
    rules = [partial(alone, gradient="clipped")]
    rules += [partial(alone, ranges="ema_legacy", observed=n) for n in (20, PAPERS_UPDATES)]
    return losses + [rule(b) for rule in rules for b in bits if b]
