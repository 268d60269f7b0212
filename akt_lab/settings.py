"""Everything that decides a run, its presets, and which settings are never read.

Nothing here loads PyTorch before the first `Settings` is made: `akt-lab --help` shows them, too.
"""

import importlib
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import InitVar, asdict, dataclass, fields
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

from akt_lab.errors import UsageError, unknown

if TYPE_CHECKING:
    from akt_lab.methods import Method


def _method(name: str) -> "Method":
    from akt_lab.methods import get_method

    return get_method(name)


@dataclass(frozen=True)
class Numbers:
    """Those that a setting may be, in words and as a test; and at most what is surely mistyped."""

    words: str
    hold: Callable[[float], bool]
    most: float = 10**6


@dataclass(frozen=True)
class OneOf:
    """Names among which a setting chooses, listed as `module.NAMES` where they mean something."""

    place: str

    @property
    def names(self) -> tuple[str, ...]:
        """The names; PyTorch is loaded for them, which `--help` does without."""
        module, _, name = self.place.rpartition(".")
        return getattr(importlib.import_module(f"akt_lab.{module}"), name)


PRECISIONS = ("fp32", "tf32", "bf16")
PRESETS = ("paper", "code", "quick")
SCHEDULES = ("steps", "cosine")
COUNT = Numbers("at least 1", lambda number: number >= 1)
RATE = Numbers("positive", lambda number: 0 < number < float("inf"))
SHARE = Numbers("between 0 and 1", lambda number: 0 <= number <= 1)
MOMENTUM = Numbers("at least 0, and less than 1", lambda number: 0 <= number < 1)
WEIGHT = Numbers("0 or more", lambda number: 0 <= number < float("inf"))
TEMPERATURE = Numbers("at least 0.01", lambda number: number >= 0.01, 1000)  # it is squared
SEED = Numbers("of 64 bits", lambda number: -(2**63) <= number, 2**63 - 1)
# The method's own where 0 or empty.
OF_METHOD = ("batch_size", "student_lr", "pool", "ranges", "weight_ranges", "range_lr", "gradient")


@dataclass(frozen=True)
class Settings:
    """Everything that decides a run, given a bench. Invalid values are refused on creation.

    A field is all that a setting needs: its annotation says its type, its meaning and what it may
    be, and makes the option of that name, with its help. The defaults are the papers' (GDFQ's
    lineage). What is left 0 or empty for the method's own is filled in here, so that attributes and
    records say what a run does.

    `dataclasses.replace` fills in anew what was not given, as another method or other epochs ask
    for; a value equal to what was filled in counts as not given. Settings of a record were all
    given: of them, it changes what it names and nothing else.
    """

    method: Annotated[str, "see `akt-lab methods`"] = "adadfq+akt"
    weight_bits: Annotated[int, "bits of weights, 2 to 8"] = 3
    act_bits: Annotated[int, "bits of activations, 2 to 8"] = 3
    first_bits: Annotated[int | None, "weight bits of the first layer, where they differ"] = None
    last_bits: Annotated[int | None, "weight bits of the last layer, where they differ"] = None
    equalize: Annotated[
        bool, "bring the teacher's channels to one scale before rounding (DFQ): its logits stay"
    ] = False
    epochs: Annotated[int, "epochs, the warm-up's included", COUNT] = 400
    steps: Annotated[int, "steps an epoch", COUNT] = 200
    batch_size: Annotated[int, "images a step", COUNT] = 0
    warmup_epochs: Annotated[
        int,
        "epochs that train the generator only and observe activation ranges (default: 4, as in the "
        "papers, but a quarter of a run of fewer than 16 epochs)",
        COUNT,
    ] = 0
    generator_lr: Annotated[float, "the generator's learning rate (Adam)", RATE] = 1e-3
    student_lr: Annotated[float, "the student's (SGD with Nesterov momentum)", RATE] = 0.0
    momentum: Annotated[float, "of the student's SGD", MOMENTUM] = 0.9
    weight_decay: Annotated[float, "of the student's SGD", WEIGHT] = 1e-4
    schedule: Annotated[
        str,
        "how both rates fall: steps, at the milestones, or cosine, to 0 over the epochs after the "
        "warm-up, once an epoch",
        OneOf("settings.SCHEDULES"),
    ] = "steps"
    milestones: Annotated[tuple[int, ...], "epochs where both rates fall x0.1", COUNT] = (
        100,
        200,
        300,
    )
    average: Annotated[
        float,
        "decay a step of a moving average of the student's weights, which is then what is "
        "evaluated and kept; 0 for none",
        MOMENTUM,
    ] = 0.0
    low_pass: Annotated[
        float,
        "cut-off of a Gaussian low-pass filter on the synthetic images, in cycles an image (SynQ, "
        "ICLR 2025); 0 for none",
        WEIGHT,
    ] = 0.0
    min_confidence: Annotated[
        float,
        "probability that the teacher must give an image's class for the student to learn the "
        "class, too, and not its soft label alone (SynQ); 0 for all images, as GDFQ",
        SHARE,
    ] = 0.0
    temperature: Annotated[float, "of the logit loss", TEMPERATURE] = 20.0
    variant: Annotated[
        str,
        "of AKT: paper, code or published; or placebo, to compare with: squared error of the maps",
        OneOf("losses.VARIANTS"),
    ] = "paper"
    parts: Annotated[
        str,
        "of AKT's features: both, or spatial or channel alone for an ablation",
        OneOf("losses.PARTS"),
    ] = "both"
    maps: Annotated[
        str,
        "feature maps that AKT compares: of each residual unit's body, as in the paper, or for an "
        "ablation after its sum or the relu behind it",
        OneOf("graph.maps.PLACES"),
    ] = "body"
    last_maps: Annotated[int, "how many of them, from the last one back; 0 for all", WEIGHT] = 0
    pool: Annotated[int, "images that are optimised once, by methods that do so", COUNT] = 0
    pool_steps: Annotated[int, "steps of Adam for each of them", COUNT] = 500
    alpha: Annotated[
        float, "share of the features in the loss of AKT's `paper` and `placebo`", SHARE
    ] = 0.5
    lam: Annotated[
        float | None,
        "weight of AKT's features (default: 1000 for `code`; for `paper`, whose own is not at "
        "hand, and `placebo` the one at which both losses' gradients at the student's weights have "
        "the same norm at its first step)",
        WEIGHT,
    ] = None
    ranges: Annotated[
        str,
        "rule for activation ranges: ema, ema_legacy, minmax, pnorm (with the least error on "
        "synthetic images), learned (from there) or per_channel_dynamic",
        OneOf("quantizer.RANGES"),
    ] = ""
    weight_ranges: Annotated[
        str, "rule for weight ranges: minmax, pnorm or learned", OneOf("quantizer.WEIGHT_RANGES")
    ] = ""
    range_lr: Annotated[float, "learning rate of learned ranges' scales", RATE] = 0.0
    range_epochs: Annotated[
        tuple[int, ...], "epochs after which pnorm chooses activation ranges again", COUNT
    ] = ()
    gradient: Annotated[
        str, "straight-through rule: identity or clipped", OneOf("quantizer.GRADIENTS")
    ] = ""
    precision: Annotated[
        str,
        "of networks and losses: fp32, tf32 (in a GPU's products), or bf16 for autocast",
        OneOf("settings.PRECISIONS"),
    ] = "fp32"
    compile: Annotated[
        bool,
        "run the step as one compiled graph: rounds differently, pays from some thousand steps on",
    ] = False
    deterministic: Annotated[
        bool,
        "on a GPU, add in an order that is always the same, so that a resumed run ends in the same "
        "bits, as one on a processor does: slower",
    ] = False
    eval_every: Annotated[
        int, "epochs from one evaluation to the next; the last is always evaluated", COUNT
    ] = 1
    seed: Annotated[int, "of the generator's weights, noise and classes", SEED] = 0
    _filled: InitVar[Mapping[str, tuple[Any, Any]] | None] = None  # name -> (given, filled in)

    def __post_init__(self, _filled: Mapping[str, tuple[Any, Any]] | None) -> None:
        """Fill in what depends on the method, and refuse what cannot be right."""
        now = vars(self)  # frozen for everyone else
        now |= {name: _tuple(now[name]) for name in ("milestones", "range_epochs")}
        for name, kind in Settings.__annotations__.items():
            if name in now and not is_of(now[name], get_args(kind)[0]):
                check(name, now[name])  # says what it must be
        now |= {n: given for n, (given, filled) in (_filled or {}).items() if now[n] == filled}
        given, method = dict(now), _method(self.method)
        now |= {name: now[name] or getattr(method, name) for name in OF_METHOD}
        now["warmup_epochs"] = self.warmup_epochs or max(1, min(4, self.epochs // 4))
        if not method.trains:  # post-training: the warm-up is all there is
            now["epochs"] = now["warmup_epochs"] = min(self.epochs, self.warmup_epochs)
        now["_filled"] = {n: (given[n], now[n]) for n in given if given[n] != now[n]}
        self._check(method)

    def _check(self, method: "Method") -> None:
        from akt_lab.quantizer import check_bits

        for f in fields(self):
            if (value := getattr(self, f.name)) != f.default:
                check(f.name, value)
        for bits in (self.weight_bits, self.act_bits, self.first_bits, self.last_bits):
            if bits is not None:
                check_bits(bits)
        if method.map_terms and (self.maps, self.last_maps) != ("body", 0):
            raise UsageError(f"{self.method} compares the maps of all bodies itself: leave maps")
        if self.precision == "bf16" and self.gradient == "clipped":
            raise UsageError("the clipped gradient needs --precision fp32")
        if method.trains and self.warmup_epochs >= self.epochs:
            raise UsageError(
                f"warmup_epochs ({self.warmup_epochs}) leaves nothing of {self.epochs} epochs "
                "for the student: use at least 2 epochs, or a shorter warm-up"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Settings":
        """Settings from names and values; a name that is not one of ours is refused."""
        if not isinstance(values, Mapping):
            raise UsageError(f"settings are names and values, not {values!r}")
        known = [f.name for f in fields(cls)]
        for name in values:
            if name not in known:
                raise unknown("setting", name, known)
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """For a record: what a run does, whether it was given or filled in."""
        return asdict(self)

    @property
    def has_akt(self) -> bool:
        """Whether AKT was asked for, in whichever variant."""
        return _method(self.method).akt

    @property
    def uses_features(self) -> bool:
        """Whether refined feature distillation is in the student's loss."""
        return self.has_akt and self.variant != "published"

    @property
    def logit_weight(self) -> float:
        """Of the method's own terms in the student's loss; see `losses.akt_terms`."""
        from akt_lab.losses import logit_weight

        return logit_weight(self.variant, self.alpha) if self.has_akt else 1.0

    @property
    def shown_variant(self) -> str:
        """AKT's, or "" where AKT was not asked for: the variant then means nothing."""
        return self.variant if self.has_akt else ""

    @property
    def bits(self) -> str:
        """Of weights and activations, as in the papers: 3w3a."""
        return f"{self.weight_bits}w{self.act_bits}a"

    @property
    def label(self) -> str:
        """What tables and figures call a run: its method, and AKT's variant if not the paper's."""
        other = self.has_akt and self.variant != "paper"
        return f"{self.method} {self.variant}" if other else self.method


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, (list, range)) else value


def _words(kind: Any) -> str:
    if isinstance(kind, UnionType):
        return " or ".join(_words(each) for each in get_args(kind) if each is not NoneType)
    if get_origin(kind) is tuple:
        return "several of them, each " + _words(get_args(kind)[0])
    return {int: "a whole number", float: "a number", str: "a name", bool: "true or false"}[kind]


def is_of(value: Any, kind: Any) -> bool:
    """Whether a value is of an annotated type: `int`, `tuple[float, ...] | None` and the like."""
    if isinstance(kind, UnionType):
        return any(is_of(value, each) for each in get_args(kind))
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(is_of(v, get_args(kind)[0]) for v in value)
    if kind in (int, float):
        number = Integral if kind is int else Real
        return isinstance(value, number) and not isinstance(value, bool)
    return isinstance(value, kind)


def check(name: str, value: Any) -> None:
    """Refuse a value that a setting cannot have, whatever the others are."""
    value, (kind, _, *limits) = _tuple(value), get_args(Settings.__annotations__[name])
    if not is_of(value, kind):
        raise UsageError(f"{name} must be {_words(kind)}, not {value!r}")
    if value is None:
        return
    values = value if isinstance(value, tuple) else (value,)
    for allowed, each in itertools.product(limits, values):
        if isinstance(allowed, OneOf):
            if each not in allowed.names:
                raise unknown(name, each, allowed.names)
        elif not allowed.hold(each):
            raise UsageError(f"{name} must be {allowed.words}, not {each}")
        elif each > allowed.most:
            raise UsageError(f"{name} must be at most {allowed.most}, not {each}")


# ---- presets, and settings that are not read ----------------------------------------------------


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
    chosen = _method(method)
    if name == "quick":
        few = {"pool": min(256, chosen.pool), "pool_steps": 100} if chosen.pool else {}
        return {"batch_size": 32, "epochs": 12, "steps": 50, "milestones": (), **few}
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


def check_read(runs: Sequence[Settings], given: Iterable[str]) -> None:
    """Refuse settings that no run ever reads: they promise what does not happen.

    Args:
        runs: as they will be done.
        given: the names that the user set; of the bench's, `train_data` is one that many leave.

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
    method = _method(settings.method)
    unread: dict[str, str] = {}
    images = "are real" if method.real else f"come from a {'pool' if method.pool else 'generator'}"
    if not method.generates:
        unread |= {"generator_lr": f"its images {images}"}
    if not method.pool:
        unread |= dict.fromkeys(["pool", "pool_steps"], f"its images {images}")
    if method.real:
        unread |= {"low_pass": "its images are real"}
    else:
        unread |= {"train_data": "it sees no training image"}
    if not method.akt:
        names = ["variant", "parts", "maps", "last_maps", "alpha", "lam"]
        unread |= dict.fromkeys(names, "it has no AKT")
    elif settings.variant not in ("paper", "placebo"):
        unread |= {"alpha": f"its variant is {settings.variant}"}
    if method.akt and settings.variant == "placebo":
        unread |= {"parts": "its variant is placebo"}
    if method.akt and settings.variant == "published":
        unread |= dict.fromkeys(["lam", "parts", "maps", "last_maps"], "its variant is published")
    if not method.hard_labels:
        unread |= {"min_confidence": "its student learns no hard labels"}
    if settings.schedule == "cosine":
        unread |= {"milestones": "its schedule is cosine"}
    elif settings.milestones and min(settings.milestones) >= settings.epochs:
        unread |= {"milestones": f"it ends after {settings.epochs} epochs"}
    if "learned" not in (settings.ranges, settings.weight_ranges):
        unread |= {"range_lr": "its ranges are not learned"}
    if settings.ranges != "pnorm":
        unread |= {"range_epochs": f"its ranges are {settings.ranges}"}
    elif not any(settings.warmup_epochs < e <= settings.epochs for e in settings.range_epochs):
        unread |= {"range_epochs": f"its student learns in {settings.warmup_epochs + 1} to "
                                   f"{settings.epochs}"}  # fmt: skip
    if not method.trains:
        names = ["student_lr", "temperature", "gradient", "momentum", "weight_decay", "compile"]
        names += ["schedule", "average", "min_confidence", "range_lr", "range_epochs"]
        unread |= dict.fromkeys(names, "it trains no student")
    return unread
