"""The distillation loss around a network: Hessians, their spectra, asymmetry, loss surfaces.

The loss is always `kd_loss` of a network's logits against fixed teacher logits on one batch, in
eval mode. A student's Hessian is that of its smooth copy (`smooth.smooth_student`): its own
rounding has none.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn
from torch.func import functional_call

from akt_lab.analysis.smooth import check_frozen, is_rough, private_copy
from akt_lab.errors import AktError, UsageError
from akt_lab.losses import kd_loss

Direction = dict[str, Tensor]


class Estimate(NamedTuple):
    """A number, and how far off it may be: one standard error, or the size of its noise."""

    value: float
    error: float


class Asymmetry(NamedTuple):
    """How far a field is from being a gradient.

    Attributes:
        value: |J - J'| / 2|J|.
        error: its standard error over the pairs that were drawn, by the jackknife.
        step_error: how much it changes with half the step.
    """

    value: float
    error: float
    step_error: float


# ---- Hessians ------------------------------------------------------------------------------------


class Hessian:
    """A number's second derivatives in P weights: a matrix (P, P) that is never written down.

    The gradient g is taken once; a product differentiates g once more, backwards along v, which
    is Hv because H is symmetric (Pearlmutter, 1994).

    >>> w = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> Hessian(w[0] ** 3 + 5 * w[0] * w[1], [w]) @ torch.tensor([1.0, 0.0])
    tensor([6., 5.])
    """

    def __init__(self, value: Tensor, weights: Sequence[Tensor]) -> None:
        """Of a `value` () in `weights`, of any shapes; their entries in order are H's axes."""
        self.weights = weights
        gradient = torch.autograd.grad(value, weights, create_graph=True, materialize_grads=True)
        self.gradient = _flat(gradient)
        self.dtype, self.device = self.gradient.dtype, self.gradient.device
        self.shape = 2 * (self.gradient.numel(),)

    def __matmul__(self, v: Tensor) -> Tensor:
        """Hv for v (P,), or column by column for v (P, K)."""
        if v.ndim == 2:
            return torch.stack([self @ column for column in v.unbind(1)], dim=1)
        product = torch.autograd.grad(
            self.gradient, self.weights, v, retain_graph=True, materialize_grads=True
        )
        return _flat(product)


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors])


def hessian(
    network: nn.Module, images: Tensor, teacher_logits: Tensor, temperature: float = 20.0
) -> Hessian:
    """The Hessian of the distillation loss in a network's P weights, at their present values.

    Args:
        network: in full precision, or from `smooth_student`; copied.
        images: (B, channels, S, S), of the network's dtype, as the logits.
        teacher_logits: (B, classes).
        temperature: of `kd_loss`.

    Returns:
        (P, P), in the order of `network.parameters()`.

    Raises:
        AktError: for a student whose rounding is not smooth.
    """
    if is_rough(network):
        raise AktError("a straight-through gradient has no Hessian: use smooth_student first")
    network = private_copy(network)
    weights = list(network.parameters())
    return distillation_hessian(network, weights, images, teacher_logits, temperature)


def distillation_hessian(
    network: nn.Module,
    weights: Sequence[Tensor],
    images: Tensor,
    logits: Tensor,
    temperature: float,
) -> Hessian:
    """`hessian` of a network as it is, not copied, in those of its parameters that are listed."""
    return Hessian(kd_loss(network(images), logits.detach(), temperature), weights)


def trace(operator: Any, probes: int = 32, seed: int = 0) -> Estimate:
    """Hutchinson's (1989) estimate of the trace: the mean of v'Hv over random signs v.

    With the standard error of that mean.

    Raises:
        UsageError: for fewer than two probes.
    """
    rng, draws = torch.Generator().manual_seed(seed), []
    if probes < 2:
        raise UsageError(f"a standard error needs two probes or more, not {probes}")
    for _ in range(probes):
        v = 2.0 * torch.randint(0, 2, (operator.shape[1],), generator=rng) - 1
        v = v.to(operator.device, operator.dtype)
        draws.append((v @ (operator @ v)).item())
    return Estimate(float(np.mean(draws)), float(np.std(draws, ddof=1) / math.sqrt(probes)))


def top_eigenvalues(operator: Hessian, k: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The k largest eigenvalues, largest first, and their residual norms |Hv - λv|, |v| = 1.

    By ARPACK's Lanczos method, k below the operator's size. Within each residual of its λ there
    is an eigenvalue.
    """

    def product(v: np.ndarray) -> np.ndarray:
        return (operator @ torch.from_numpy(v.ravel()).to(operator.gradient)).double().cpu().numpy()

    linear = LinearOperator(operator.shape, matvec=product, dtype=np.float64)
    tol = math.sqrt(torch.finfo(operator.dtype).eps)
    start = np.random.default_rng(seed).standard_normal(operator.shape[0])
    values, vectors = eigsh(linear, k=k, which="LA", v0=start, tol=tol)
    order = np.argsort(values)[::-1]
    residuals = np.linalg.norm(linear @ vectors - values * vectors, axis=0)
    return values[order], residuals[order]


# ---- is it a gradient at all? --------------------------------------------------------------------


def asymmetry(
    network: nn.Module,
    images: Tensor,
    teacher_logits: Tensor,
    temperature: float = 20.0,
    pairs: int = 8,
    step: float = 1e-10,
    seed: int = 0,
) -> Asymmetry:
    """How far what backward() returns is from any function's gradient: |J - J'| / 2|J|.

    J is its Jacobian in the weights, by central differences in float64; the Frobenius norms come
    from v'(Ju) - u'(Jv) and v'(Ju) over random pairs u, v. A gradient gives 0; 1 is the most, and
    √½ says that J and J' have nothing in common. The default step hardly ever crosses a rounding
    threshold: it tests the field between them, where a potential would have to exist too. A
    longer one that crosses some makes `step_error` large.

    Args:
        network: any; a student's ranges must be frozen. Copied.
        images: (B, channels, S, S).
        teacher_logits: (B, classes).
        temperature: of `kd_loss`.
        pairs: how many, at least 2, drawn in units of each tensor's root mean square.
        step: of the differences, in these units.
        seed: of the pairs.

    Raises:
        AktError: if the ranges are not frozen.
    """
    check_frozen(network)
    network = private_copy(network, torch.float64)
    batch = images.double(), teacher_logits.detach().double(), temperature
    rng = torch.Generator().manual_seed(seed)
    products = [_products(network, batch, step, rng) for _ in range(pairs)]
    both = torch.tensor(products, dtype=torch.float64)
    (value, halved), without = _ratios(both), [_ratios(_but(both, n))[0] for n in range(pairs)]
    error = math.sqrt((pairs - 1) * np.var(without))
    return Asymmetry(value, error, abs(value - halved))


def _but(rows: Tensor, number: int) -> Tensor:
    return torch.cat([rows[:number], rows[number + 1 :]])


def _ratios(both: Tensor) -> list[float]:
    """Of pairs (N, 2, 2), from `_products`: with the step, and with half of it."""
    norms = (2 * both.square().sum(dim=2).mean(dim=0)).sqrt().clamp(min=1e-300)  # 2|J|
    return ((both[..., 0] - both[..., 1]).square().mean(dim=0).sqrt() / norms).tolist()


def _products(network: nn.Module, batch: Any, step: float, rng: torch.Generator) -> list[Any]:
    """Of one random pair, (2, 2): v'Ju and u'Jv with the step, and with half of it."""
    weights = {n: w.detach() for n, w in network.named_parameters()}
    u, v = (
        {n: w.square().mean().sqrt() * _normal(w, rng) for n, w in weights.items()}
        for _ in range(2)
    )
    return [
        [_dot(b, _difference(network, weights, a, batch, h)) for a, b in ((u, v), (v, u))]
        for h in (step, step / 2)
    ]


def _difference(
    network: nn.Module, weights: Direction, along: Direction, batch: Any, h: float
) -> Direction:
    """J times a direction: the central difference of the gradient field."""
    images, logits, temperature = batch
    ends = []
    for sign in (h, -h):
        point = {n: (w + sign * along[n]).requires_grad_() for n, w in weights.items()}
        loss = kd_loss(functional_call(network, point, (images,)), logits, temperature)
        ends.append(torch.autograd.grad(loss, list(point.values())))
    return {n: (a - b) / (2 * h) for n, a, b in zip(weights, *ends, strict=True)}


def _normal(like: Tensor, rng: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=rng, dtype=like.dtype).to(like.device)


def _dot(a: Direction, b: Direction) -> float:
    return sum(float((a[n] * b[n]).sum()) for n in a)


# ---- loss surfaces -------------------------------------------------------------------------------


def filter_normalised_directions(network: nn.Module, seed: int = 0) -> tuple[Direction, Direction]:
    """Two random directions in weight space, each filter of the length of the network's own.

    Li et al., Visualizing the Loss Landscape of Neural Nets (2018): without this, networks whose
    weights have other scales cannot be compared. Biases and batch norms stay as they are. A
    student has its teacher's names: give both the same directions, and they share their axes.

    Returns:
        by the parameter's name, of its shape; a filter is all that makes one output channel.
    """
    rng = torch.Generator().manual_seed(seed)
    weights = {n: w.detach() for n, w in network.named_parameters()}
    first, second = ({n: _filters(w, rng) for n, w in weights.items()} for _ in range(2))
    return first, second


def _filters(weight: Tensor, rng: torch.Generator) -> Tensor:
    if weight.ndim < 2:
        return torch.zeros_like(weight)
    d, dims = _normal(weight, rng), tuple(range(1, weight.ndim))
    norms = (torch.linalg.vector_norm(t, dim=dims, keepdim=True) for t in (weight, d))
    return d * next(norms) / next(norms)


def loss_surface(
    network: nn.Module,
    images: Tensor,
    teacher_logits: Tensor,
    directions: tuple[Direction, Direction],
    radius: float = 1.0,
    points: int = 21,
    temperature: float = 20.0,
) -> tuple[np.ndarray, np.ndarray]:
    """The distillation loss on a square of weights around a network's own, which are left alone.

    Args:
        network: any in eval mode; a student's ranges must be frozen.
        images: (B, channels, S, S).
        teacher_logits: (B, classes).
        directions: from `filter_normalised_directions`, of this network or of one like it.
        radius: of the square, in lengths of the directions.
        points: along each side; an odd number has the network itself in the middle.
        temperature: of `kd_loss`.

    Returns:
        the offsets a (points,), and the loss at weights + a[i] * first + a[j] * second
        (points, points).

    Raises:
        AktError: if ranges are not frozen, or the directions are another network's.
    """
    check_frozen(network)
    weights, offsets = dict(network.named_parameters()), np.linspace(-radius, radius, points)
    shapes = {n: w.shape for n, w in weights.items()}
    if any({n: t.shape for n, t in d.items()} != shapes for d in directions):
        raise AktError("these directions have other parameters than the network's")

    @torch.no_grad()
    def loss(a: float, b: float) -> float:
        moved = {n: w + a * directions[0][n] + b * directions[1][n] for n, w in weights.items()}
        logits = functional_call(network, moved, (images,))
        return kd_loss(logits, teacher_logits, temperature).item()

    return offsets, np.array([[loss(a, b) for b in offsets] for a in offsets])
