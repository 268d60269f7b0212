"""One training step: what generator and student learn from one batch of noise.

z, y   -> generator -> images
images -> teacher (frozen; its feature maps and batch-norm inputs are captured) -> t
images -> student (its feature maps are captured), once a step                  -> s
generator's loss -> gradient at the images -> generator's step
student's loss   -> student's step

Methods with a pool of ready images (HAST) or real ones draw x, y, and only the student learns.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from akt_lab.generator import Generator
from akt_lab.graph import capture_bn_inputs, capture_maps
from akt_lab.image_pool import ImagePool
from akt_lab.losses import LAMBDA, Terms, akt_terms, total
from akt_lab.methods import Method, get_method
from akt_lab.settings import Settings
from akt_lab.shared_graph import SharedGraph
from akt_lab.speed import laid_out_as

Gradients = Sequence[Tensor | None]
Step = tuple[Terms, Gradients, Gradients]  # every loss term; the generator's, the student's


@dataclass
class Training:
    """The three networks, their optimisers, and all else that changes: what a checkpoint holds."""

    settings: Settings
    teacher: nn.Module
    student: nn.Module
    generator: Generator | ImagePool
    layers: list[str]
    generator_optimizer: torch.optim.Optimizer | None
    student_optimizer: torch.optim.Optimizer
    rng: torch.Generator
    epoch: int = 0
    lam: Any = None  # a float; a tensor inside a graph that runs share
    holdout: Tensor | None = None
    evaluations: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    watch: bool = False
    compiled: Callable[[Tensor, Tensor], Step] | None = None
    graphs: dict[str, SharedGraph] = field(default_factory=dict)
    averaged: nn.Module | None = None

    @property
    def method(self) -> Method:
        """The entry of METHODS."""
        return get_method(self.settings.method)

    @property
    def autocast(self) -> torch.autocast:
        """The precision of the settings, for a block."""
        device = next(self.teacher.parameters()).device.type
        return torch.autocast(device, torch.bfloat16, enabled=self.settings.precision == "bf16")

    @property
    def weights(self) -> list[nn.Parameter]:
        """The student's, in the order of its optimiser; learned scales come last."""
        return [w for group in self.student_optimizer.param_groups for w in group["params"]]

    @property
    def judged(self) -> nn.Module:
        """The student that is evaluated and kept: with averaged weights, where they are asked for.

        The student itself before its first step.
        """
        return self.student if self.averaged is None else self.averaged

    @property
    def warming_up(self) -> bool:
        """Whether this epoch trains the generator only, and observes activation ranges."""
        return self.epoch < self.settings.warmup_epochs


# ---- what the student learns from ---------------------------------------------------------------


def balanced_lambda(student: nn.Module, logit_terms: Terms, features: Terms) -> float:
    """The lambda at which both losses' gradients at the student's weights have one norm.

    The paper's where the features have none: student and teacher agree in them to the last digit.
    """
    weights = [w for w in student.parameters() if w.requires_grad]

    def norm(terms: Terms) -> float:
        gradients = torch.autograd.grad(total(terms), weights, retain_graph=True, allow_unused=True)
        return torch.nn.utils.get_total_norm([g for g in gradients if g is not None]).item()

    of_features = norm(features)
    known = of_features > torch.finfo(torch.float32).tiny
    return norm(logit_terms) / of_features if known else LAMBDA["paper"]


def distillation_terms(
    training: Training,
    s: Tensor,
    t: Tensor,
    y: Tensor,
    student_maps: Mapping[str, Tensor],
    teacher_maps: Mapping[str, Tensor],
) -> Terms:
    """The method's own terms, joined by refined feature distillation where AKT asks for it."""
    method, settings = training.method, training.settings
    maps = [m.float() for m in student_maps.values()], [m.float() for m in teacher_maps.values()]
    asked = {"min_confidence": settings.min_confidence} if method.hard_labels else {}
    own = method.student_terms(s, t, y, settings.temperature, **asked)  # type: ignore[misc]
    if method.map_terms:
        own |= method.map_terms(*maps)
    if not settings.uses_features:
        return own
    variant, alpha, parts = settings.variant, settings.alpha, settings.parts
    if training.lam is None:
        features = akt_terms({}, *maps, variant, 1.0, None, parts)
        training.lam = balanced_lambda(training.student, own, features)
    return akt_terms(own, *maps, variant, alpha, training.lam, parts)


# ---- one step, as data flows --------------------------------------------------------------------


def losses_and_gradients(training: Training, z: Tensor, y: Tensor) -> Step:
    """Every loss term (detached), and the gradients of generator and student: no weight changes.

    The student's gradients are empty during the warm-up. Arguments as in `train_step`; for a
    method without a generator, z are images (B, channels, S, S).
    """
    teacher, student, generator = training.teacher, training.student, training.generator
    if not training.method.generates:
        return _from_pool(training, z, y)
    shared = training.method.sees_student  # one student pass then serves both losses
    learns = not training.warming_up

    # images, and what the teacher makes of them
    with training.autocast:
        images = generator(z, y)  # (B, channels, S, S)
        pixels = images.detach().requires_grad_()
        with (
            capture_maps(teacher, training.layers) as teacher_maps,  # (B, C, H, W) each
            capture_bn_inputs(teacher) as statistics,
        ):
            t = teacher(pixels).float()  # (B, classes)

    # what the student makes of them
    with (
        training.autocast,
        torch.set_grad_enabled(shared or learns),
        capture_maps(student, training.layers) as student_maps,
    ):
        s = student(pixels if shared else pixels.detach()).float()  # (B, classes)

    # the generator learns from the gradient at its images
    generator_terms = training.method.image_terms(t, s, y, statistics)  # type: ignore[misc]
    at_pixels = torch.autograd.grad(total(generator_terms), pixels, retain_graph=shared and learns)
    for_generator = torch.autograd.grad(images, list(generator.parameters()), at_pixels)
    terms = {f"generator/{name}": term.detach() for name, term in generator_terms.items()}
    if not learns:
        return terms, for_generator, ()

    # the student learns from the teacher's logits and feature maps
    student_terms = distillation_terms(training, s, t.detach(), y, student_maps, teacher_maps)
    for_student = torch.autograd.grad(total(student_terms), training.weights, allow_unused=True)
    terms |= {f"student/{name}": term.detach() for name, term in student_terms.items()}
    return terms, for_generator, for_student


def _from_pool(training: Training, x: Tensor, y: Tensor) -> Step:
    """`losses_and_gradients` for images x that are ready: only the student learns."""
    teacher, student, layers = training.teacher, training.student, training.layers
    if training.warming_up:
        with training.autocast, torch.no_grad():
            student(x)  # its ranges are observed
        return {}, (), ()

    def distil(x: Tensor) -> Terms:
        with training.autocast:
            with torch.no_grad(), capture_maps(teacher, layers) as teacher_maps:
                t = teacher(x).float()  # (B, classes): the teacher's side is held fixed
            with capture_maps(student, layers) as student_maps:
                s = student(x).float()
        return distillation_terms(training, s, t, y, student_maps, teacher_maps)

    terms = distil(x.requires_grad_())
    if training.method.perturbation:  # and once more, on images that are a little harder
        (uphill,) = torch.autograd.grad(total(terms), x, retain_graph=True)
        again = distil(x.detach() + training.method.perturbation * uphill.sign())
        terms = {name: term + again[name] for name, term in terms.items()}
    for_student = torch.autograd.grad(total(terms), training.weights, allow_unused=True)
    return {f"student/{name}": term.detach() for name, term in terms.items()}, (), for_student


# ---- the same as one graph ----------------------------------------------------------------------

# What the losses and their gradients do not depend on: runs that differ in it have one graph.
OF_NO_GRAPH = {
    "seed", "lam", "epochs", "steps", "warmup_epochs", "generator_lr", "student_lr", "range_lr",
    "momentum", "weight_decay", "schedule", "milestones", "average", "range_epochs", "eval_every",
    "pool", "pool_steps",
}  # fmt: skip


def tensors_of(training: Training) -> dict[str, Tensor]:
    """All that a step reads and that may differ from run to run, by names that do not."""
    networks = {n: getattr(training, n) for n in ("teacher", "student", "generator")}
    found = {"lam": training.lam} if isinstance(training.lam, Tensor) else {}
    for kind, network in networks.items():
        own = [*network.named_parameters(), *network.named_buffers()]
        found |= {f"{kind}.{name}": tensor for name, tensor in own}
    return found


def as_shared_graph(training: Training, z: Tensor, y: Tensor) -> Callable[[Tensor, Tensor], Step]:
    """`losses_and_gradients` of a run as one graph: another run's, if there is one of its kind.

    Graphs are shared among runs whose `graphs` is one dict: of one teacher, then. After the
    warm-up, and when lambda is known.
    """
    with_lam = training
    if training.lam is not None:
        with_lam = replace(training, lam=torch.tensor(training.lam, device=z.device))
    own, settings = tensors_of(with_lam), training.settings.to_dict()
    kind = str([v for k, v in settings.items() if k not in OF_NO_GRAPH])
    if kind not in training.graphs:
        training.graphs[kind] = SharedGraph(
            lambda z, y: losses_and_gradients(with_lam, z, y), own, z, y
        )
    return training.graphs[kind].of(own)


def _gradients(training: Training, z: Tensor, y: Tensor) -> Step:
    """`losses_and_gradients`, as one compiled graph where the settings ask for it.

    Not in the warm-up, when ranges still move, nor before lambda is known.
    """
    settings = training.settings
    unsettled = training.warming_up or (settings.uses_features and training.lam is None)
    if unsettled or not settings.compile:
        return losses_and_gradients(training, z, y)
    if training.compiled is None:
        training.compiled = as_shared_graph(training, z, y)
    return training.compiled(z, y)


# ---- one step -----------------------------------------------------------------------------------


def apply_gradients(optimizer: torch.optim.Optimizer, gradients: Gradients) -> None:
    """One step of `optimizer`; `gradients` are in the order of its weights."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = None if gradient is None else laid_out_as(weight.detach(), gradient)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def averaged_copy(student: nn.Module) -> nn.Module:
    """A student whose weights will be averages; its ranges stay `student`'s own, the same tensors.

    >>> norm = nn.BatchNorm2d(1)
    >>> averaged_copy(norm).running_mean is norm.running_mean
    True
    """
    same = {id(buffer): buffer for buffer in student.buffers()}
    return copy.deepcopy(student, same).requires_grad_(False)


@torch.no_grad()
def average_weights(training: Training) -> None:
    """Exponential moving average of the student's weights w: a <- d a + (1 - d) w, each step.

    d is the setting `average`, and a begins as what w is after the first step (Mean Teacher, arXiv
    1703.01780, averages its teacher so).
    """
    if training.averaged is None:
        training.averaged = averaged_copy(training.student)
    averages, weights = training.averaged.parameters(), training.student.parameters()
    torch._foreach_lerp_(list(averages), list(weights), 1 - training.settings.average)


def train_step(training: Training, z: Tensor, y: Tensor) -> Terms:
    """One step of the generator and, after the warm-up, of the student.

    Args:
        training: the networks; their weights change.
        z: noise, (B, latent).
        y: classes, (B,).

    Returns:
        Every loss term, and the norm of the student's gradient; detached scalars. If the training
        is watched, the norm of each layer's weight gradient, too: `gradient/LAYER.weight`.
    """
    terms, for_generator, for_student = _gradients(training, z, y)
    if training.generator_optimizer:
        apply_gradients(training.generator_optimizer, for_generator)
    if training.warming_up:
        return terms
    norm = torch.nn.utils.get_total_norm([g for g in for_student if g is not None])
    terms = {**terms, "student/gradient_norm": norm}
    if training.watch:
        names = {weight: name for name, weight in training.student.named_parameters()}
        pairs = zip(training.weights, for_student, strict=True)
        layers = {names[w]: g for w, g in pairs if g is not None and w.ndim > 1}
        terms |= {f"gradient/{name}": gradient.norm() for name, gradient in layers.items()}
    apply_gradients(training.student_optimizer, for_student)
    if training.settings.average:
        average_weights(training)
    return terms
