"""Everything that decides a run, its presets, and which settings are never read.

The defaults are the papers' (GDFQ's lineage); see `Settings` for those that differ by method.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from akt_lab import losses
from akt_lab.attention import VARIANTS
from akt_lab.errors import UsageError, unknown
from akt_lab.graph import PLACES
from akt_lab.methods import Method, get_method
from akt_lab.quantizer import GRADIENTS, RANGES, check_bits

PRECISIONS = ("fp32", "bf16")


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
        generator_lr, student_lr: learning rates (Adam; SGD with Nesterov momentum); the student's
            is the method's own where 0.
        milestones: epochs at which both rates fall to a tenth.
        temperature: of the logit loss.
        variant: which AKT: `paper`, `code` or `published`.
        parts: of its features: `both`, or for an ablation `spatial` or `channel` alone.
        maps: which feature maps: the residual units' `body`, as in the paper, or for an ablation
            after the `sum`, or after the `relu` behind it.
        last_maps: how many of them, from the last one back; all where 0.
        pool: images that are optimised once, and `pool_steps` of Adam for each: for methods that do
            so; the method's own number where 0.
        alpha: share of the features in the loss of `paper`.
        lam: weight of refined feature distillation. None: 1000 for `code`; for `paper`, whose own
            is not at hand, the one at which both losses' gradients at the student's weights have
            the same norm at its first step.
        ranges: rule for activation ranges; the method's own where empty.
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
    student_lr: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 1e-4
    milestones: tuple[int, ...] = (100, 200, 300)
    temperature: float = 20.0
    variant: str = "paper"
    parts: str = "both"
    maps: str = "body"
    last_maps: int = 0
    pool: int = 0
    pool_steps: int = 500
    alpha: float = 0.5
    lam: float | None = None
    ranges: str = ""
    gradient: str = "identity"
    precision: str = "fp32"
    compile: bool = False
    eval_every: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        """Fill in what depends on the method, and refuse what cannot be right."""
        method = get_method(self.method)
        object.__setattr__(self, "milestones", tuple(self.milestones))
        for name in ("batch_size", "ranges", "pool", "student_lr"):
            object.__setattr__(self, name, getattr(self, name) or getattr(method, name))
        if self.warmup_epochs == 0:
            object.__setattr__(self, "warmup_epochs", max(1, min(4, self.epochs // 4)))
        if method.student_terms is None:  # post-training: the warm-up is all there is
            object.__setattr__(self, "epochs", min(self.epochs, self.warmup_epochs))
        self._check()

    def _check(self) -> None:
        for name, known in (
            ("variant", VARIANTS),
            ("parts", losses.PARTS),
            ("maps", PLACES),
            ("ranges", RANGES),
            ("gradient", GRADIENTS),
            ("precision", PRECISIONS),
        ):
            if getattr(self, name) not in known:
                raise unknown(name, getattr(self, name), known)
        for name in ("weight_bits", "act_bits", "first_bits", "last_bits"):
            if getattr(self, name) is not None:
                check_bits(getattr(self, name))
        for name in ("epochs", "steps", "batch_size", "warmup_epochs", "eval_every", "pool_steps"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("generator_lr", "student_lr", "temperature"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UsageError(f"{name} must be positive, not {getattr(self, name)}")
        if self.lam is not None and not 0 <= self.lam < float("inf"):
            raise UsageError(f"lam must be 0 or more, not {self.lam}")
        if self.last_maps < 0:
            raise UsageError(f"last_maps must be 0 (all) or more, not {self.last_maps}")
        if get_method(self.method).map_terms and (self.maps, self.last_maps) != ("body", 0):
            raise UsageError(f"{self.method} compares the maps of all bodies itself: leave maps")
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
    def has_akt(self) -> bool:
        """Whether AKT was asked for, in whichever variant."""
        return get_method(self.method).akt

    @property
    def uses_features(self) -> bool:
        """Whether refined feature distillation is in the student's loss."""
        return self.has_akt and self.variant != "published"

    @property
    def logit_weight(self) -> float:
        """Of the method's own terms in the student's loss; see `losses.akt_terms`."""
        return 1 - self.alpha if self.has_akt and self.variant == "paper" else 1.0

    @property
    def label(self) -> str:
        """What tables and figures call a run: its method, and AKT's variant if not the paper's."""
        other = self.has_akt and self.variant != "paper"
        return f"{self.method} {self.variant}" if other else self.method


# ---- presets, and settings that are not read ----------------------------------------------------

PRESETS = ("paper", "code", "quick")


def preset(name: str, method: str) -> dict[str, Any]:
    """Settings of that name for a method.

    `paper`: the method's own paper, a +akt method with the budget of the method that it joins.
    `code`: the released codes' faulty activation ranges, and for AKT its own batch of 200, 200
    epochs of 200 steps and the loss that its code meant; the other losses stay their papers'
    (GDFQ's code divides its KL by batch and classes). `quick`: minutes on two cores. HAST's
    student rate is ours in all of them.
    """
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    chosen = get_method(method)
    if name == "quick":
        return {"batch_size": 32, "epochs": 12, "steps": 50, "milestones": (), **_few(chosen)}
    steps = {"steps": chosen.pool // chosen.batch_size} if chosen.pool else {}
    if name == "paper":
        return steps
    legacy = steps | ({"ranges": "ema_legacy"} if chosen.ranges == "ema" else {})
    akt = {"variant": "code", "batch_size": 200, "epochs": 200, "milestones": (100,)}
    return legacy | (akt if chosen.akt else {})


def with_preset(given: Mapping[str, Any]) -> dict[str, Any]:
    """A preset's settings (`paper` where `given` names none), replaced by what was given."""
    named = {name: value for name, value in given.items() if name != "preset"}
    method = named.get("method", Settings.method)
    return {**preset(given.get("preset", "paper"), method), **named}


def _few(method: Method) -> dict[str, int]:
    return {"pool": min(256, method.pool), "pool_steps": 100} if method.pool else {}


def check_read(runs: Sequence[Settings], given: Iterable[str]) -> None:
    """Refuse settings that no run ever reads: they promise what does not happen.

    Args:
        runs: as they will be done.
        given: the names that the user set.

    Raises:
        UsageError: names the first one that is not read, and why.
    """
    unread = [_unread(settings) for settings in runs]
    for name in given:
        if unread and all(name in reasons for reasons in unread):
            why = ", nor by ".join(
                dict.fromkeys(f"{s.method}: {r[name]}" for s, r in zip(runs, unread, strict=True))
            )
            option = "--" + name.replace("_", "-")
            raise UsageError(f"{option} is not read by {why}; drop it")


def _unread(settings: Settings) -> dict[str, str]:
    """Settings that have no effect beside the others, and why."""
    method = get_method(settings.method)
    unread: dict[str, str] = {}
    if method.pool:
        unread |= dict.fromkeys(["generator_lr"], "its images come from a pool")
    else:
        unread |= dict.fromkeys(["pool", "pool_steps"], "its images come from a generator")
    if not method.akt:
        names = ["variant", "parts", "maps", "last_maps", "alpha", "lam"]
        unread |= dict.fromkeys(names, "it has no AKT")
    elif settings.variant != "paper":
        unread |= {"alpha": f"its variant is {settings.variant}"}
    if method.akt and settings.variant == "published":
        unread |= dict.fromkeys(["lam", "parts", "maps", "last_maps"], "its variant is published")
    if method.student_terms is None:
        names = ["student_lr", "temperature", "gradient", "momentum", "weight_decay", "compile"]
        unread |= dict.fromkeys(names, "it trains no student")
    return unread
