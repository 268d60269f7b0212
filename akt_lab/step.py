"""One training step: what generator and student learn from one batch of noise.

z, y   -> generator -> images
images -> teacher (frozen; its feature maps and batch-norm inputs are captured) -> t
images -> student (its feature maps are captured), once a step                  -> s
generator's loss -> gradient at the images -> generator's step
student's loss   -> student's step

Methods with a pool of ready images (HAST) draw x, y from it, and only the student learns.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from akt_lab.generator import Generator
from akt_lab.graph import capture_bn_inputs, capture_maps
from akt_lab.image_pool import ImagePool
from akt_lab.losses import Terms, akt_terms, total
from akt_lab.methods import Method, get_method
from akt_lab.settings import Settings
from akt_lab.speed import as_one_graph, laid_out_as, unchanged_buffers

Gradients = Sequence[Tensor | None]


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
    lam: float | None = None
    holdout: Tensor | None = None
    evaluations: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    watch: bool = False
    compiled: Callable[[Tensor, Tensor], "Step"] | None = None

    @property
    def method(self) -> Method:
        """The entry of METHODS."""
        return get_method(self.settings.method)

    @property
    def warming_up(self) -> bool:
        """Whether this epoch trains the generator only, and observes activation ranges."""
        return self.epoch < self.settings.warmup_epochs


# ---- one step -----------------------------------------------------------------------------------

Step = tuple[Terms, Gradients, Gradients]


def train_step(run: Training, z: Tensor, y: Tensor) -> Terms:
    """One step of the generator and, after the warm-up, of the student.

    Args:
        run: the networks; their weights change.
        z: noise, (B, latent).
        y: classes, (B,).

    Returns:
        Every loss term, and the norm of the student's gradient; detached scalars. If the run is
        watched, the norm of each layer's weight gradient, too: `gradient/LAYER.weight`.
    """
    terms, for_generator, for_student = _gradients(run, z, y)
    if run.generator_optimizer:
        apply_gradients(run.generator_optimizer, for_generator)
    if run.warming_up:
        return terms
    norm = torch.nn.utils.get_total_norm([g for g in for_student if g is not None])
    by_layer = _norms_by_layer(run.student, for_student) if run.watch else {}
    apply_gradients(run.student_optimizer, for_student)
    return {**terms, "student/gradient_norm": norm, **by_layer}


def _norms_by_layer(student: nn.Module, gradients: Gradients) -> Terms:
    pairs = zip(student.named_parameters(), gradients, strict=True)
    return {f"gradient/{n}": g.norm() for (n, w), g in pairs if g is not None and w.ndim > 1}


def losses_and_gradients(run: Training, z: Tensor, y: Tensor) -> Step:
    """Every loss term (detached), and the gradients of generator and student: no weight changes.

    The student's gradients are empty during the warm-up. Arguments as in `train_step`; for a
    method with a pool, z are images (B, channels, S, S).
    """
    if run.method.pool:
        return _from_pool(run, z, y)
    shared = run.method.sees_student  # one student pass then serves both losses
    learns = not run.warming_up

    # images, and what the teacher makes of them
    with _autocast(run):
        images = run.generator(z, y)  # (B, C, S, S)
        pixels = images.detach().requires_grad_()
        with (
            capture_maps(run.teacher, run.layers) as teacher_maps,
            capture_bn_inputs(run.teacher) as statistics,
        ):
            t = run.teacher(pixels).float()  # (B, classes)

    # what the student makes of them
    with (
        _autocast(run),
        torch.set_grad_enabled(shared or learns),
        capture_maps(run.student, run.layers) as student_maps,
    ):
        s = run.student(pixels if shared else pixels.detach()).float()  # (B, classes)

    # the generator learns from the gradient at its images
    generator_terms = run.method.image_terms(t, s, y, statistics)
    at_pixels = torch.autograd.grad(total(generator_terms), pixels, retain_graph=shared and learns)
    for_generator = torch.autograd.grad(images, list(run.generator.parameters()), at_pixels)
    terms = {f"generator/{name}": term.detach() for name, term in generator_terms.items()}
    if not learns:
        return terms, for_generator, ()

    # the student learns from the teacher's logits and feature maps
    student_terms = distillation_terms(run, s, t.detach(), y, student_maps, teacher_maps)
    weights = list(run.student.parameters())
    for_student = torch.autograd.grad(total(student_terms), weights, allow_unused=True)
    terms |= {f"student/{name}": term.detach() for name, term in student_terms.items()}
    return terms, for_generator, for_student


def _from_pool(run: Training, x: Tensor, y: Tensor) -> Step:
    """`losses_and_gradients` for images x that are ready: only the student learns."""
    if run.warming_up:
        with _autocast(run), torch.no_grad():
            run.student(x)  # its ranges are observed
        return {}, (), ()
    terms = _distil(run, x.requires_grad_(), y)
    if run.method.perturbation:  # and once more, on images that are a little harder
        (uphill,) = torch.autograd.grad(total(terms), x, retain_graph=True)
        harder = x.detach() + run.method.perturbation * uphill.sign()
        again = _distil(run, harder, y)
        terms = {name: term + again[name] for name, term in terms.items()}
    weights = list(run.student.parameters())
    for_student = torch.autograd.grad(total(terms), weights, allow_unused=True)
    return {f"student/{name}": term.detach() for name, term in terms.items()}, (), for_student


def _distil(run: Training, x: Tensor, y: Tensor) -> Terms:
    """The student's terms on images x; the teacher's side of them is held fixed."""
    with _autocast(run):
        with torch.no_grad(), capture_maps(run.teacher, run.layers) as teacher_maps:
            t = run.teacher(x).float()
        with capture_maps(run.student, run.layers) as student_maps:
            s = run.student(x).float()
    return distillation_terms(run, s, t, y, student_maps, teacher_maps)


def _gradients(run: Training, z: Tensor, y: Tensor) -> Step:
    """`losses_and_gradients`, as one compiled graph where the settings ask for it.

    Not in the warm-up, when ranges still move, nor before lambda is known.
    """
    unsettled = run.warming_up or (run.settings.uses_features and run.lam is None)
    if unsettled or not run.settings.compile:
        return losses_and_gradients(run, z, y)
    if run.compiled is None:
        with unchanged_buffers(run.generator):
            run.compiled = as_one_graph(lambda z, y: losses_and_gradients(run, z, y), z, y)
    return run.compiled(z, y)


def _autocast(run: Training) -> torch.autocast:
    device = next(run.teacher.parameters()).device.type
    return torch.autocast(device, torch.bfloat16, enabled=run.settings.precision == "bf16")


def apply_gradients(optimizer: torch.optim.Optimizer, gradients: Gradients) -> None:
    """One step of `optimizer`; `gradients` are in the order of its weights."""
    weights = optimizer.param_groups[0]["params"]
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = None if gradient is None else laid_out_as(weight.detach(), gradient)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def distillation_terms(
    run: Training,
    s: Tensor,
    t: Tensor,
    y: Tensor,
    student_maps: Mapping[str, Tensor],
    teacher_maps: Mapping[str, Tensor],
) -> Terms:
    """The method's own terms, joined by refined feature distillation where AKT asks for it."""
    maps = [m.float() for m in student_maps.values()], [m.float() for m in teacher_maps.values()]
    own = run.method.student_terms(s, t, y, run.settings.temperature)  # type: ignore[misc]
    if run.method.map_terms:
        own |= run.method.map_terms(*maps)
    if not run.settings.uses_features:
        return own
    variant, alpha, parts = run.settings.variant, run.settings.alpha, run.settings.parts
    if run.lam is None:
        run.lam = balanced_lambda(run.student, own, akt_terms({}, *maps, variant, 1.0, None, parts))
    return akt_terms(own, *maps, variant, alpha, run.lam, parts)


def balanced_lambda(student: nn.Module, logit_terms: Terms, features: Terms) -> float:
    """The lambda at which both losses' gradients at the student's weights have one norm."""
    weights = [w for w in student.parameters() if w.requires_grad]

    def norm(terms: Terms) -> float:
        gradients = torch.autograd.grad(total(terms), weights, retain_graph=True, allow_unused=True)
        return torch.nn.utils.get_total_norm([g for g in gradients if g is not None]).item()

    return norm(logit_terms) / max(norm(features), torch.finfo(torch.float32).tiny)
