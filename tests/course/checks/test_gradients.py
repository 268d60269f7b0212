import math
from functools import partial
from statistics import mean, median, median_low

import torch

from tests.course.checks import mutants, refused


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
