import math
from functools import partial
from statistics import mean, median, median_low

import numpy as np
import torch

from tests.course.checks import accepted, mutants, refused


def weights_of(network, ndim=2):
    return {name: w for name, w in network.named_parameters() if w.ndim >= ndim}


def norms_of(network, loss, norm=torch.norm, ndim=2, unreached=0.0, **options):
    weights = weights_of(network, ndim)
    options = {"retain_graph": True, "allow_unused": True, **options}
    found = torch.autograd.grad(loss, list(weights.values()), **options)
    return {
        name: unreached if g is None else float(norm(g))
        for name, g in zip(weights, found, strict=True)
    }


wrong = mutants("gradient_norms")
wrong("None", forgets_to_return=lambda *given: print(norms_of(*given)))


@wrong(".grad of")
def backward_and_grad(network, loss):
    loss.backward(retain_graph=True)
    return {name: float(w.grad.norm()) for name, w in weights_of(network).items()}


@wrong(".grad of")
def backward_after_zero_grad(network, loss):
    network.zero_grad()
    return backward_and_grad(network, loss)


@wrong("count it as 0")
def none_has_no_norm(network, loss):
    weights = weights_of(network)
    found = torch.autograd.grad(loss, weights.values(), retain_graph=True, allow_unused=True)
    return {name: g.norm() for name, g in zip(weights, found, strict=True)}


@wrong("so its norm is 0")
def leaves_out_what_is_not_reached(network, loss):
    norms = norms_of(network, loss, unreached=None)
    return {name: norm for name, norm in norms.items() if norm is not None}


@wrong("the weight itself")
def norms_of_weights(network, loss):
    return {name: w.norm().item() for name, w in weights_of(network).items()}


wrong("retain_graph", only_once=partial(norms_of, retain_graph=False))
wrong("allow_unused=True", stops_where_nothing_is_reached=partial(norms_of, allow_unused=False))
wrong("ndim >= 2", biases_too=partial(norms_of, ndim=1))
wrong("its square", no_root=partial(norms_of, norm=lambda g: g.square().sum()))
wrong("*mean* square", averages=partial(norms_of, norm=lambda g: g.square().mean().sqrt()))
wrong("largest entry", largest=partial(norms_of, norm=lambda g: g.abs().max()))
wrong("not a dict", a_list=lambda *given: list(norms_of(*given).values()))

wrong = mutants("explosion_ratio")
wrong("None", prints=lambda norms: print(max(norms) / median(norms)))
wrong("ask math.isfinite", trusts_max=lambda norms: max(norms) / median(norms))
wrong("divides by the mean", over_the_mean=lambda norms: max(norms) / mean(norms))
wrong("takes the last", last_over_median=lambda norms: norms[-1] / median(norms))
wrong("divides by the first", over_the_first=lambda norms: max(norms) / norms[0])
wrong("does not depend on the unit", difference=lambda norms: max(norms) - median(norms))
wrong("*sorted* norms", middle_of_training=lambda norms: max(norms) / norms[len(norms) // 2])


@wrong("`math.nan in norms` finds that one object alone")
def looks_for_nan(norms):
    return math.inf if math.nan in norms or math.inf in norms else max(norms) / median(norms)


@wrong("ask math.isfinite")
def leaves_out_what_is_broken(norms):
    norms = [norm for norm in norms if math.isfinite(norm)]
    return max(norms) / median(norms)


@wrong("halfway between them")
def lower_median(norms):
    broken = not all(math.isfinite(norm) for norm in norms)
    return math.inf if broken else max(norms) / median_low(norms)


@wrong("makes a new one")
def sorts_in_place(norms):
    norms.sort()
    return max(norms) / median(norms)


test_mutants = refused("gradient_norms", "explosion_ratio")


# ---- right, in other ways


def one_at_a_time(network, loss):
    found = {}
    for name, w in weights_of(network).items():
        (g,) = torch.autograd.grad(loss, w, retain_graph=True, allow_unused=True)
        found[name] = 0 if g is None else torch.linalg.vector_norm(g)
    return found


def zeros_from_autograd(network, loss):
    weights = weights_of(network)
    options = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
    found = torch.autograd.grad(loss, tuple(weights.values()), **options)
    return {name: g.norm().item() for name, g in zip(weights, found, strict=True)}


def backward_and_put_back(network, loss):
    before = {w: w.grad for w in network.parameters()}
    for w in before:
        w.grad = None
    loss.backward(retain_graph=True)
    found = {n: 0.0 if w.grad is None else w.grad.norm() for n, w in weights_of(network).items()}
    for w, g in before.items():
        w.grad = g
    return found


def all_parameters_then_choose(network, loss):
    every = dict(network.named_parameters())
    found = torch.autograd.grad(loss, every.values(), retain_graph=True, allow_unused=True)
    pairs = zip(every.items(), found, strict=True)
    return {n: 0.0 if g is None else g.flatten().norm() for (n, w), g in pairs if w.dim() > 1}


def sorted_middle(norms):
    if any(norm != norm or norm == math.inf for norm in norms):
        return float("inf")
    ordered, half = sorted(norms), len(norms) // 2
    middle = ordered[half] if len(norms) % 2 else (ordered[half - 1] + ordered[half]) / 2
    return ordered[-1] / middle


def in_torch(norms):
    values = torch.tensor(norms)
    return values.max() / values.quantile(0.5) if values.isfinite().all() else torch.inf


def in_numpy(norms):
    return np.max(norms) / np.median(norms) if np.isfinite(norms).all() else np.inf


def by_sum(norms):
    return max(norms) / median(norms) if math.isfinite(sum(norms)) else math.inf


def loops(norms):
    largest = 0
    for norm in norms:
        if math.isnan(norm) or math.isinf(norm):
            return math.inf
        largest = max(largest, norm)
    return largest / median(norms)


test_right = accepted(
    gradient_norms=[
        norms_of, one_at_a_time, zeros_from_autograd, backward_and_put_back,
        all_parameters_then_choose,
        partial(norms_of, norm=lambda g: g.square().sum().sqrt()),
        partial(norms_of, norm=lambda g: (g * g).sum().item() ** 0.5),
        partial(norms_of, norm=lambda g: np.linalg.norm(g.numpy())),
        partial(norms_of, create_graph=True, norm=lambda g: g.detach().double().norm()),
        lambda *given: dict(reversed(norms_of(*given).items())),
    ],
    explosion_ratio=[
        sorted_middle, in_torch, in_numpy, by_sum, loops,
        lambda norms: max(norms) / median(norms) if all(map(math.isfinite, norms)) else math.inf,
        lambda norms: math.inf if not np.all(np.isfinite(norms)) else sorted(norms)[-1]
        / np.percentile(norms, 50),
        lambda norms: torch.inf if not torch.tensor(norms).sum().isfinite() else
        torch.tensor(norms).div(median(norms)).max(),
    ],
)  # fmt: skip
