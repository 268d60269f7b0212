import torch

from tests.course.checks import mutant, refused


def signs(size):
    return torch.randint(0, 2, (size,)) * 2.0 - 1


def draws(product, size, probes, probe=signs):
    found = []
    for _ in range(probes):
        v = probe(size)
        found.append(v @ product(v))
    return torch.stack(found)


@mutant("hutchinson_trace", says="None")
def forgets_to_return(product, size, probes):
    draws(product, size, probes).mean()


@mutant("hutchinson_trace", says="no pair")
def estimate_only(product, size, probes):
    return draws(product, size, probes).mean()


@mutant("hutchinson_trace", says="neither normal numbers")
def normal_probes(product, size, probes):
    found = draws(product, size, probes, torch.randn)
    return found.mean(), found.std() / probes**0.5


@mutant("hutchinson_trace", says="nor 0 and 1")
def zeros_and_ones(product, size, probes):
    found = draws(product, size, probes, lambda n: torch.randint(0, 2, (n,)).float())
    return found.mean(), found.std() / probes**0.5


@mutant("hutchinson_trace", says="do not normalise")
def unit_probes(product, size, probes):
    found = draws(product, size, probes, lambda n: signs(n) / n**0.5)
    return found.mean(), found.std() / probes**0.5


@mutant("hutchinson_trace", says="not their sum")
def adds_up(product, size, probes):
    found = draws(product, size, probes)
    return found.sum(), found.std() / probes**0.5


@mutant("hutchinson_trace", says="spread of one probe")
def standard_deviation(product, size, probes):
    found = draws(product, size, probes)
    return found.mean(), found.std()


@mutant("hutchinson_trace", says="take its root")
def variance(product, size, probes):
    found = draws(product, size, probes)
    return found.mean(), found.var() / probes


@mutant("hutchinson_trace", says="probes - 1")
def mean_counts_as_known(product, size, probes):
    found = draws(product, size, probes)
    return found.mean(), found.std(correction=0) / probes**0.5


@mutant("hutchinson_trace", says="new v for every probe")
def one_probe_again_and_again(product, size, probes):
    v = signs(size)
    found = draws(product, size, probes, lambda n: v)
    return found.mean(), found.std() / probes**0.5


@mutant("hutchinson_trace", says="each probe takes one")
def two_products_a_probe(product, size, probes):
    found = draws(product, size, probes)
    return found.mean(), draws(product, size, probes).std() / probes**0.5


@mutant("hutchinson_trace", says="one vector")
def all_at_once(product, size, probes):
    v = torch.stack([signs(size) for _ in range(probes)], dim=1)
    found = (v * product(v)).sum(0)
    return found.mean(), found.std() / probes**0.5


def iterate(product, v, steps):
    for _ in range(steps):
        v = product(v)
        v = v / v.norm()
    return v


@mutant("top_eigenvalue", says="None")
def prints(product, size, steps):
    iterate(product, torch.randn(size), steps)


@mutant("top_eigenvalue", says="not its vector")
def the_vector(product, size, steps):
    return iterate(product, torch.randn(size), steps)


@mutant("top_eigenvalue", says="has no sign")
def the_norm(product, size, steps):
    return product(iterate(product, torch.randn(size), steps)).norm()


@mutant("top_eigenvalue", says="beyond all numbers")
def never_normalises(product, size, steps):
    v = torch.randn(size)
    for _ in range(steps):
        v = product(v)
    return v @ product(v) / (v @ v)


@mutant("top_eigenvalue", says="random vector")
def starts_from_ones(product, size, steps):
    v = iterate(product, torch.ones(size), steps)
    return v @ product(v)


@mutant("top_eigenvalue", says="again and again")
def one_step(product, size, steps):
    v = iterate(product, torch.randn(size), 1)
    return v @ product(v)


@mutant("top_eigenvalue", says="most positive")
def most_positive(product, size, steps):
    h = torch.stack([product(e) for e in torch.eye(size)])
    return torch.linalg.eigvalsh(h)[-1]


@mutant("top_eigenvalue", says="square of the eigenvalue")
def length_squared(product, size, steps):
    v = iterate(product, torch.randn(size), steps)
    return product(v) @ product(v)


test_mutants = refused(__name__)
