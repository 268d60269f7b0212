import math
import statistics

import torch

from tests.course.checks import mutant, refused


def weights_of(network, ndim=2):
    return {name: w for name, w in network.named_parameters() if w.ndim >= ndim}


def norms_of(network, loss, measure=torch.norm, ndim=2, missing=0.0, **options):
    weights = weights_of(network, ndim)
    options = {"retain_graph": True, "allow_unused": True, **options}
    found = torch.autograd.grad(loss, list(weights.values()), **options)
    norms = {
        name: missing if g is None else float(measure(g))
        for name, g in zip(weights, found, strict=True)
    }
    return {name: norm for name, norm in norms.items() if norm is not None}


@mutant("gradient_norms", says="None")
def forgets_to_return(network, loss):
    norms_of(network, loss)


@mutant("gradient_norms", says=".grad of")
def backward_and_grad(network, loss):
    loss.backward(retain_graph=True)
    return {name: float(w.grad.norm()) for name, w in weights_of(network).items()}


@mutant("gradient_norms", says=".grad of")
def backward_after_zero_grad(network, loss):
    network.zero_grad()
    loss.backward(retain_graph=True)
    return {name: float(w.grad.norm()) for name, w in weights_of(network).items()}


@mutant("gradient_norms", says="retain_graph")
def only_once(network, loss):
    return norms_of(network, loss, retain_graph=False)


@mutant("gradient_norms", says="allow_unused=True")
def stops_where_nothing_is_reached(network, loss):
    return norms_of(network, loss, allow_unused=False)


@mutant("gradient_norms", says="count it as 0")
def none_has_no_norm(network, loss):
    weights = weights_of(network)
    found = torch.autograd.grad(loss, weights.values(), retain_graph=True, allow_unused=True)
    return {name: g.norm() for name, g in zip(weights, found, strict=True)}


@mutant("gradient_norms", says="so its norm is 0")
def leaves_out_what_is_not_reached(network, loss):
    return norms_of(network, loss, missing=None)


@mutant("gradient_norms", says="ndim >= 2")
def biases_too(network, loss):
    return norms_of(network, loss, ndim=1)


@mutant("gradient_norms", says="its square")
def no_root(network, loss):
    return norms_of(network, loss, measure=lambda g: g.square().sum())


@mutant("gradient_norms", says="*mean* square")
def averages(network, loss):
    return norms_of(network, loss, measure=lambda g: g.square().mean().sqrt())


@mutant("gradient_norms", says="largest entry")
def largest(network, loss):
    return norms_of(network, loss, measure=lambda g: g.abs().max())


@mutant("gradient_norms", says="the weight itself")
def norms_of_weights(network, loss):
    return {name: w.norm().item() for name, w in weights_of(network).items()}


@mutant("gradient_norms", says="not a dict")
def a_list(network, loss):
    return list(norms_of(network, loss).values())


def broken(norms):
    return not all(math.isfinite(norm) for norm in norms)


@mutant("explosion_ratio", says="None")
def prints(norms):
    str(max(norms) / statistics.median(norms))


@mutant("explosion_ratio", says="ask math.isfinite")
def trusts_max(norms):
    return max(norms) / statistics.median(norms)


@mutant("explosion_ratio", says="ask math.isfinite")
def leaves_out_what_is_broken(norms):
    norms = [norm for norm in norms if math.isfinite(norm)]
    return max(norms) / statistics.median(norms)


@mutant("explosion_ratio", says="divides by the mean")
def over_the_mean(norms):
    return max(norms) / statistics.mean(norms)


@mutant("explosion_ratio", says="takes the last")
def last_over_median(norms):
    return norms[-1] / statistics.median(norms)


@mutant("explosion_ratio", says="divides by the first")
def over_the_first(norms):
    return max(norms) / norms[0]


@mutant("explosion_ratio", says="halfway between them")
def lower_median(norms):
    return math.inf if broken(norms) else max(norms) / statistics.median_low(norms)


@mutant("explosion_ratio", says="does not depend on the unit")
def difference(norms):
    return max(norms) - statistics.median(norms)


@mutant("explosion_ratio", says="*sorted* norms")
def middle_of_training(norms):
    return max(norms) / norms[len(norms) // 2]


@mutant("explosion_ratio", says="makes a new one")
def sorts_in_place(norms):
    norms.sort()
    return max(norms) / statistics.median(norms)


test_mutants = refused(__name__)
