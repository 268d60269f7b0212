"""The methods: where a student's images come from, and what it learns from them.

A method is one entry in `METHODS`; `Settings` holds everything else that decides a run. The
defaults are the papers' (GDFQ's lineage); see `Settings` for the ones that differ by method.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from akt_lab import losses
from akt_lab.attention import VARIANTS
from akt_lab.errors import UsageError, unknown
from akt_lab.quantizer import GRADIENTS, RANGES, check_bits

PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class Method:
    """One way to train a student without data.

    Attributes:
        name: as on the command line.
        source: the paper.
        batch_size: images a step, in the paper.
        generator_terms: (t, s, y, statistics) -> terms of the generator's loss.
        student_terms: (s, t, y, temperature) -> terms of the student's logit loss; None for
            post-training quantization, which stops after the warm-up.
        generator_sees_student: whether `generator_terms` reads the student's logits.
        akt: whether refined feature distillation joins the student's loss.
    """

    name: str
    source: str
    batch_size: int
    generator_terms: Callable[..., losses.Terms]
    student_terms: Callable[..., losses.Terms] | None
    generator_sees_student: bool = False
    akt: bool = False

    def with_akt(self) -> "Method":
        """The same images and logit loss, combined with refined feature distillation."""
        source = f"{self.source} + AKT, arXiv 2412.19125"
        return replace(self, name=f"{self.name}+akt", source=source, akt=True)


_GDFQ = Method(
    name="gdfq",
    source="GDFQ, arXiv 2003.03603",
    batch_size=200,
    generator_terms=losses.gdfq_generator_terms,
    student_terms=losses.gdfq_student_terms,
)
_ADADFQ = Method(
    name="adadfq",
    source="AdaDFQ, CVPR 2023",
    batch_size=16,
    generator_terms=losses.adadfq_generator_terms,
    student_terms=losses.adadfq_student_terms,
    generator_sees_student=True,
)
_PTQ = replace(
    _GDFQ, name="ptq", source="ranges observed on GDFQ's images, no training", student_terms=None
)

METHODS: Mapping[str, Method] = {
    method.name: method for method in (_PTQ, _GDFQ, _GDFQ.with_akt(), _ADADFQ, _ADADFQ.with_akt())
}


def get_method(name: str) -> Method:
    """The method of that name; a UsageError with the nearest one if there is none."""
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return METHODS[name]


@dataclass(frozen=True)
class Settings:
    """Everything that decides a run, given a bench. Invalid values are refused on creation.

    Attributes:
        method: a name in `METHODS`.
        weight_bits, act_bits: 2 to 8.
        first_bits, last_bits: weight bits of the first and last layer, where they differ.
        epochs, steps: epochs, and steps in each.
        batch_size: images a step; the method's own where 0.
        warmup_epochs: epochs that train the generator only and observe activation ranges; where
            0, 4 as in the papers, but a quarter of a run of fewer than 16 epochs.
        generator_lr, student_lr: learning rates (Adam; SGD with Nesterov momentum).
        milestones: epochs at which both rates fall to a tenth.
        temperature: of the logit loss.
        variant: which AKT: `paper`, `code` or `published`.
        alpha: share of the features in the loss of `paper`.
        lam: weight of refined feature distillation. None: 1000 for `code`; for `paper`, whose own
            is not at hand, the one at which both losses' gradients at the student's weights have
            the same norm at its first step.
        ranges: rule for activation ranges.
        gradient: straight-through rule.
        precision: `fp32`, or `bf16` for autocast.
        compile: whether the step runs as one compiled graph: rounds differently, and pays for
            runs of some thousand steps.
        eval_every: epochs from one evaluation to the next; the last epoch is always evaluated.
        seed: of the generator's weights, noise and classes.
    """

    method: str = "adadfq+akt"
    weight_bits: int = 3
    act_bits: int = 3
    first_bits: int | None = None
    last_bits: int | None = None
    epochs: int = 400
    steps: int = 200
    batch_size: int = 0
    warmup_epochs: int = 0
    generator_lr: float = 1e-3
    student_lr: float = 1e-4
    momentum: float = 0.9
    weight_decay: float = 1e-4
    milestones: tuple[int, ...] = (100, 200, 300)
    temperature: float = 20.0
    variant: str = "paper"
    alpha: float = 0.5
    lam: float | None = None
    ranges: str = "ema"
    gradient: str = "identity"
    precision: str = "fp32"
    compile: bool = False
    eval_every: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        """Fill in what depends on the method, and refuse what cannot be right."""
        method = get_method(self.method)
        object.__setattr__(self, "milestones", tuple(self.milestones))
        if self.batch_size == 0:
            object.__setattr__(self, "batch_size", method.batch_size)
        if self.warmup_epochs == 0:
            object.__setattr__(self, "warmup_epochs", max(1, min(4, self.epochs // 4)))
        if method.student_terms is None:  # post-training: the warm-up is all there is
            object.__setattr__(self, "epochs", min(self.epochs, self.warmup_epochs))
        self._check()

    def _check(self) -> None:
        for name, known in (
            ("variant", VARIANTS),
            ("ranges", RANGES),
            ("gradient", GRADIENTS),
            ("precision", PRECISIONS),
        ):
            if getattr(self, name) not in known:
                raise unknown(name, getattr(self, name), known)
        for name in ("weight_bits", "act_bits", "first_bits", "last_bits"):
            if getattr(self, name) is not None:
                check_bits(getattr(self, name))
        for name in ("epochs", "steps", "batch_size", "warmup_epochs", "eval_every"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("generator_lr", "student_lr", "temperature"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UsageError(f"{name} must be positive, not {getattr(self, name)}")
        if not 0 <= self.alpha <= 1:
            raise UsageError(f"alpha must lie between 0 and 1, not {self.alpha}")
        if self.precision == "bf16" and self.gradient == "clipped":
            raise UsageError("the clipped gradient needs --precision fp32")
        if get_method(self.method).student_terms and self.warmup_epochs >= self.epochs:
            raise UsageError(
                f"warmup_epochs ({self.warmup_epochs}) leaves nothing of {self.epochs} epochs "
                "for the student: use at least 2 epochs, or a shorter warm-up"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Settings":
        """Settings from names and values; a name that is not one of ours is refused."""
        known = [f.name for f in fields(cls)]
        for name in values:
            if name not in known:
                raise unknown("setting", name, known)
        return cls(**values)

    @property
    def uses_features(self) -> bool:
        """Whether the student's loss reads feature maps at all."""
        return get_method(self.method).akt and self.variant != "published"
