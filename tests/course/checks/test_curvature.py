from functools import cache, partial

import torch

from tests.course.checks import mutants, refused


def signs(size):
    return torch.randint(0, 2, (size,)) * 2.0 - 1


def standard_error(draws):
    return draws.std() / len(draws) ** 0.5


def trace(product, size, probes, probe=signs, mean=torch.mean, error=standard_error):
    draws = torch.stack([v @ product(v) for v in (probe(size) for _ in range(probes))])
    return mean(draws), error(draws)


wrong = mutants("hutchinson_trace")
wrong("None", forgets_to_return=lambda *given: print(trace(*given)))
wrong("no pair", estimate_only=lambda *given: trace(*given)[0])
wrong("neither normal numbers", normal_probes=partial(trace, probe=torch.randn))
wrong(
    "nor 0 and 1", zeros_and_ones=partial(trace, probe=lambda n: torch.randint(0, 2, (n,)).float())
)
wrong("do not normalise", unit_probes=partial(trace, probe=lambda n: signs(n) / n**0.5))
wrong("not their sum", adds_up=partial(trace, mean=torch.sum))
wrong("spread of one probe", standard_deviation=partial(trace, error=torch.std))
wrong("take its root", variance=partial(trace, error=lambda draws: draws.var() / len(draws)))
wrong(
    "probes - 1",
    mean_counts_as_known=partial(trace, error=lambda d: d.std(correction=0) / len(d) ** 0.5),
)
wrong(
    "new v for every probe",
    one_probe_again_and_again=lambda *given: trace(*given, probe=cache(signs)),
)
wrong(
    "each probe takes one", two_products_a_probe=lambda *given: (trace(*given)[0], trace(*given)[1])
)


@wrong("one vector")
def all_at_once(product, size, probes):
    v = torch.stack([signs(size) for _ in range(probes)], dim=1)
    draws = (v * product(v)).sum(0)
    return draws.mean(), standard_error(draws)


def iterate(
    product,
    size,
    steps,
    start=torch.randn,
    normalise=lambda v: v / v.norm(),
    read=lambda v, hv: v @ hv,
):
    v = start(size)
    for _ in range(steps):
        v = normalise(product(v))
    return read(v, product(v))


wrong = mutants("top_eigenvalue")
wrong("None", prints=lambda *given: print(iterate(*given)))
wrong("not its vector", the_vector=partial(iterate, read=lambda v, hv: v))
wrong("has no sign", the_norm=partial(iterate, read=lambda v, hv: hv.norm()))
wrong(
    "beyond all numbers",
    never_normalises=partial(iterate, normalise=lambda v: v, read=lambda v, hv: v @ hv / (v @ v)),
)
wrong("random vector", starts_from_ones=partial(iterate, start=torch.ones))
wrong("again and again", one_step=lambda product, size, steps: iterate(product, size, 1))


@wrong("most positive")
def most_positive(product, size, steps):
    hessian = torch.stack([product(e) for e in torch.eye(size)])
    return torch.linalg.eigvalsh(hessian)[-1]


wrong("square of the eigenvalue", length_squared=partial(iterate, read=lambda v, hv: hv @ hv))

test_mutants = refused("hutchinson_trace", "top_eigenvalue")
